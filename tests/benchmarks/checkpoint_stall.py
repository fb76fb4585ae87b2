"""How long training stands still for a checkpoint, over a synchronous torch.save of the same state.

python -m tests.benchmarks.checkpoint_stall [PARAMETERS]      one JSON line

A Llama of about that many parameters with AdamW (default 50 million: 600 MB of state), one process, fp32. In turns:
ours returns once the state is copied, torch.save once its file is written and on the disk, as ours is when it is
published. A step is timed while nothing is written and while ours is.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import torch

from pipeline.lm.config import Model
from pipeline.train import checkpoint
from pipeline.train.loop import steps
from tests.benchmarks.workload import Rows, new_model, on_the_cpu, our_trainer, print_line, spread, training

REPEATS, THREADS, LENGTH, VOCABULARY, WIDTH = 9, 2, 64, 8192, 512
LAYER = 4 * WIDTH**2 + 3 * WIDTH * 4 * WIDTH  # parameters


def llama(parameters: int) -> Model:
    """A decoder of about this many."""
    config = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": max(1, round((parameters - VOCABULARY * WIDTH) / LAYER)),
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
        "max_position_embeddings": LENGTH,
    }
    return Model(architecture="llama", attention="eager", config=config)


def timed(work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def on_the_disk(tensors: dict, path: Path) -> None:
    torch.save(tensors, path)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def main(parameters: int, repeats: int = REPEATS) -> None:
    on_the_cpu(THREADS)
    model = llama(parameters)
    settings = training(sequence_length=LENGTH, train_batch_size=2, per_device_train_batch_size=2, bf16=False)
    trainer = our_trainer(
        settings, lambda: new_model(model, VOCABULARY, LENGTH, "eager"), Rows(VOCABULARY, LENGTH)
    )
    running, found = (
        steps(trainer),
        {name: [] for name in ("stall", "published", "torch.save", "step", "beside")},
    )
    next(running)
    with tempfile.TemporaryDirectory() as folder:
        writer = checkpoint.Writer(Path(folder) / "ours", 1, trainer.runtime)
        for repeat in range(repeats):
            found["step"].append(timed(lambda: next(running)))
            began = time.perf_counter()
            writer.begin(repeat, trainer.tensors(), {})
            found["stall"].append(time.perf_counter() - began)
            found["beside"].append(timed(lambda: next(running)))
            writer.finish()
            found["published"].append(time.perf_counter() - began)
            held = dict(trainer.tensors())
            path = Path(folder) / "theirs.pt"
            found["torch.save"].append(timed(lambda held=held, path=path: on_the_disk(held, path)))
            path.unlink()
    running.close()
    size = sum(tensor.nbytes for tensor in held.values())
    ratios = [ours / theirs for ours, theirs in zip(found["stall"], found["torch.save"], strict=True)]
    print_line(
        "checkpoint_stall",
        gigabytes=size / 1e9,
        ratio=spread(ratios),
        seconds={name: spread(values) for name, values in found.items()},
    )


if __name__ == "__main__":
    main(int(float(sys.argv[1])) if len(sys.argv) > 1 else 50_000_000)
