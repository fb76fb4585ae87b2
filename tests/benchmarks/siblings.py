"""Cached against naive sampling of the autoregressive families, and training speed against what people start from.

python -m tests.benchmarks.siblings [pixelcnn] [wavenet] [translation]      one JSON line a race; 1: as fast

Training: tests/benchmarks/sibling_training.py. Sampling: what is drawn is equal before anything is timed.

PixelCNN: the net of recipes/pixelcnn/fashion_mnist.yaml with fresh weights, 28 x 28 pictures, fp32. Naive is a pass
over the whole picture for each pixel.

WaveNet: the net of recipes/wavenet/drums.yaml with fresh weights, fp32, one thread. Naive is a pass over the receptive
field for each sample.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.run.stage import open_recipe
from recipes.common.images.shape import Shape
from recipes.common.threads import one_thread
from recipes.pixelcnn.drawing import coins_of, drawn
from recipes.pixelcnn.net import PixelNet
from recipes.pixelcnn.nets import build
from recipes.wavenet.generate import coins_of as coins_of_wave
from recipes.wavenet.generate import generated
from recipes.wavenet.net import WaveNet, features
from recipes.wavenet.nets import described
from tests.benchmarks import sibling_training
from tests.benchmarks.workload import interleaved, on_the_cpu, print_line, ratio, spread
from tests.helpers import ROOT

PICTURES, REPEATS, SIZE = 8, 3, 28
SAMPLES = 1000  # of a wave


@torch.no_grad()
def drawn_naively(net: PixelNet, labels_B: Tensor, coins_BSSC: Tensor) -> Tensor:
    """What `drawn` draws, by a pass over the whole picture for each pixel."""
    size = net.image_size
    pixels_BSSC = torch.zeros(
        len(labels_B), size, size, net.channels, dtype=torch.int64, device=labels_B.device
    )
    for row in range(size):
        for column in range(size):
            scaled_BCSS = net.likelihood.scaled(pixels_BSSC).permute(0, 3, 1, 2)
            numbers_BP = net.numbers(scaled_BCSS, labels_B)[:, :, row, column]
            pixels_BSSC[:, row, column] = net.likelihood.draw(numbers_BP, coins_BSSC[:, row, column])
    return pixels_BSSC


def pixelcnn(size: int = SIZE, pictures: int = PICTURES, repeats: int = REPEATS) -> dict:
    """Pictures a second, cached and naive, and their ratio."""
    config, _ = open_recipe(ROOT / "recipes/pixelcnn/fashion_mnist.yaml", [])
    torch.manual_seed(0)
    net = build(config.model, Shape(size, 1, 10)).eval()
    labels, coins = torch.arange(pictures) % 10, coins_of(net, list(range(pictures)))
    both: dict[str, Callable[[], Tensor]] = {
        "cached": partial(drawn, net, labels, coins),
        "naive": partial(drawn_naively, net, labels, coins),
    }
    cached, naive = (sampler() for sampler in both.values())
    if not torch.equal(cached, naive):
        raise SystemExit("cached sampling draws other pixels than naive sampling")
    found = interleaved({name: partial(_rate, sampler, pictures) for name, sampler in both.items()}, repeats)
    return {
        "pictures": pictures,
        "cached_over_naive": ratio(found, "cached", "naive"),
        "pictures_per_second": {name: spread(rates) for name, rates in found.items()},
    }


@torch.no_grad()
def generated_naively(
    net: WaveNet, labels_B: Tensor, coins_BT2: np.ndarray, mel_BMF: Tensor | None = None
) -> np.ndarray:
    """What `generated` does, by a pass over the receptive field for each sample."""
    told, hop = net.told(mel_BMF, labels_B), net.mel.hop if net.mel else 1
    length = coins_BT2.shape[1]
    lead = net.before + net.kernel
    wave_BT = torch.zeros(len(labels_B), lead + length + hop, dtype=torch.int64)
    for place in range(length):
        first = place // hop * hop  # frames hold from a whole hop on
        inputs = wave_BT[:, first : first + lead + hop - 1]
        frames = told[..., first // hop :][..., : net.before // hop + 2] if net.mel else told
        numbers_BP = net.numbers(features(inputs, lead - first + 0 * labels_B), frames, hop)[
            ..., place - first
        ]
        before_B = wave_BT[:, lead + place - 1].numpy()
        drawn_B = net.sample.draw(numbers_BP.numpy(), coins_BT2[:, place], before_B)
        wave_BT[:, lead + place] = torch.from_numpy(drawn_B)
    return wave_BT[:, lead : lead + length].numpy().astype(np.int16)


def wavenet(samples: int = SAMPLES, repeats: int = REPEATS, *overrides: str) -> dict:
    """Samples a second of one wave, cached and naive, their ratio, and the cached ones over real time."""
    config, _ = open_recipe(ROOT / "recipes/wavenet/drums.yaml", list(overrides))
    torch.manual_seed(0)
    net = WaveNet(**described(config.model, config.data.sample_rate, ("drum",))["net"]).eval()
    labels, coins = torch.zeros(1, dtype=torch.int64), coins_of_wave(0, samples)[None]
    both: dict[str, Callable[[], np.ndarray]] = {
        "cached": partial(generated, net, labels, coins),
        "naive": partial(generated_naively, net, labels, coins),
    }
    with one_thread():
        cached, naive = (sampler() for sampler in both.values())
        if not np.array_equal(cached, naive):
            raise SystemExit("cached generation makes other samples than naive generation")
        found = interleaved(
            {name: partial(_rate, sampler, samples) for name, sampler in both.items()}, repeats
        )
    return {
        "samples": samples,
        "receptive_field": net.receptive_field,
        "cached_over_naive": ratio(found, "cached", "naive"),
        "samples_per_second": {name: spread(rates) for name, rates in found.items()},
        "cached_over_real_time": float(np.median(found["cached"])) / config.data.sample_rate,
    }


def _rate(sampler: Callable[[], object], count: int) -> float:
    began = time.perf_counter()
    sampler()
    return count / (time.perf_counter() - began)


def main(names: list[str]) -> None:
    names = names or list(sibling_training.RACES)
    on_the_cpu(2)
    if "pixelcnn" in names:
        print_line("pixelcnn_sampling", **pixelcnn())
    if "wavenet" in names:
        print_line("wavenet_generation", **wavenet())
    with tempfile.TemporaryDirectory() as directory:
        data = sibling_training.prepared(Path(directory), names)
        for name in names:
            sibling_training.run(name, data)


if __name__ == "__main__":
    main(sys.argv[1:])
