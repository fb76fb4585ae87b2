"""How much of a step a fast device waits for its data: batches made within the step, and a step ahead of it.

python -m tests.benchmarks.feeding      one JSON line

The loop trains a recipe's own samples on a net of one weight whose step is a wait: what a GPU would compute, at the
rates of WORKLOADS, without the processor's help. `before` makes each batch when the step asks for it, as the loop once
did; `after` is the loop as it is. Copies to a device are left out: there is none.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from torch import nn

from pipeline.train.recipe import Batch, Clock, Loss, Split
from tests.benchmarks.workload import interleaved, on_the_cpu, print_line, spread, training

WARMUP, STEPS, REPEATS = 2, 6, 5
TOKENS, PICTURES, SIDE = 4096, 256, 224


@dataclass(frozen=True)
class Workload:
    """samples: of a step; device: samples a second that the device would train."""

    name: str
    samples: int
    device: float


# What an H100 does: 1.2 billion parameters at half of its matmul rate, 124 million at 0.4 of it; a ResNet-50.
WORKLOADS = {
    "text, 1.2 B": Workload("text", 8, 45_000 / TOKENS),
    "text, 124 M": Workload("text", 16, 330_000 / TOKENS),
    "pictures": Workload("pictures", 64, 2_500.0),
}


class Waiting(nn.Module):
    """One weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


class Fed:
    """Implements pipeline.train.recipe.Recipe as far as a step needs it: real samples, a wait in place of computing."""

    turns, ema, zero_stages, unit, units_per_sample, flops_per_sample = ("model",), (), (), "samples", 1, 0.0

    def __init__(self, split: Split, collate: Callable, samples: int, seconds: float) -> None:
        self.split, self.collate, self.seconds = split, collate, seconds
        self.training = training(train_batch_size=samples, per_device_train_batch_size=samples, bf16=False)
        self.optimizers = {"model": self.training}

    def data(self) -> Split:
        return self.split

    def nets(self) -> dict[str, nn.Module]:
        return {"model": Waiting()}

    def count(self, turn: str, batch: Batch) -> int:
        return len(next(iter(batch.values())))

    def loss(self, turn: str, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> Loss:
        time.sleep(self.seconds)
        return Loss(nets[turn].weight.sum())


def at_once(prepare: Callable[[int], object], numbers, device) -> Iterator[object]:
    """In place of `ahead`: each batch when it is asked for."""
    return (prepare(number) for number in numbers)


def shares(recipe: Fed, feed: Callable | None) -> Iterator[float]:
    """Each `next`: the share of STEPS steps that the loop stood still for data."""
    from pipeline.train import loop
    from pipeline.train.engine import Runtime

    alone = Runtime(rank=0, world_size=1, device=torch.device("cpu"), zero_stage=None)
    with mock.patch.object(loop, "ahead", feed or loop.ahead):
        trained = loop.steps(loop.Trainer(recipe, alone))
        infos = [next(trained) for _ in range(WARMUP)]  # the feed is made at the first step
    with closing(trained):
        while True:
            started = time.perf_counter()
            infos = [next(trained) for _ in range(STEPS)]
            yield sum(info.waited for info in infos) / (time.perf_counter() - started)


def text(folder: Path) -> tuple[Split, Callable]:
    """Documents of 50 to 5,000 random tokens, packed into rows of TOKENS from shards on disk."""
    from pipeline.data.packing import PackedDocuments, collate
    from pipeline.data.shards import Shard, ShardWriter

    random = np.random.default_rng(0)
    lengths = random.integers(50, 5_000, 4_000)
    ids = random.integers(0, 50_000, lengths.sum()).astype(np.uint16)
    with ShardWriter(folder, "documents", 50_304, tokenizer_sha256="") as writer:
        writer.add(ids, lengths, lengths, None)
    return PackedDocuments(Shard.open(folder, "documents"), TOKENS, seed=0), collate


def pictures(folder: Path) -> tuple[Split, Callable]:
    """JPEG files of noise in a folder, prepared as the image recipes do, in their order and with their flips."""
    import io

    from PIL import Image

    from pipeline.train.recipe import stacked
    from recipes.common.images import prepare
    from recipes.common.images.config import Images
    from recipes.common.images.dataset import ImageSplit, PreparedImages

    (folder / "jpeg").mkdir()
    for number in range(PICTURES):
        pixels = np.random.default_rng(number).integers(0, 256, (300, 260, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "jpeg" / f"{number}.jpg")
    images = Images(source="folder", path=str(folder / "jpeg"), image_size=SIDE, channels=3, on_size="crop")
    prepare.run(SimpleNamespace(config=SimpleNamespace(data=images), out=folder, terminal=io.StringIO()))
    return ImageSplit(PreparedImages.open(folder, "train"), seed=0, flip=True), stacked


def measure(workload: Workload, split: Split, collate: Callable, repeats: int) -> dict:
    """The shares of one workload, before and after in turns."""
    recipe = Fed(split, collate, workload.samples, workload.samples / workload.device)
    started = time.perf_counter()
    collate([split.item(index) for index in range(workload.samples)])
    alone = time.perf_counter() - started
    runners = {
        "before": partial(next, shares(recipe, at_once)),
        "after": partial(next, shares(recipe, None)),
    }
    found = interleaved(runners, repeats)
    return {
        "waiting_share": {name: spread(values) for name, values in found.items()},
        "batch": f"{workload.samples} samples; the device computes {recipe.seconds * 1e3:.0f} ms",
        "one_batch_ms": round(alone * 1e3, 1),
    }


def main() -> None:
    on_the_cpu(1)
    figures = {}
    for name, workload in WORKLOADS.items():
        with tempfile.TemporaryDirectory() as folder:
            split, collate = {"text": text, "pictures": pictures}[workload.name](Path(folder))
            figures[name] = measure(workload, split, collate, REPEATS)
    print_line(
        "feeding",
        **figures,
        unit="share of a step's time that the loop waits for its batch",
        protocol=f"one process, a wait in place of computing, {STEPS} steps a sample, {REPEATS} pairs",
    )


if __name__ == "__main__":
    main()
