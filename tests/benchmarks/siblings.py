"""What the autoregressive families gain from keeping what they computed: cached against naive sampling, in turns.

python -m tests.benchmarks.siblings      one JSON line a sampler; the pixels are equal before anything is timed

PixelCNN: the net of recipes/pixelcnn/fashion_mnist.yaml with fresh weights, 28 x 28 pictures, fp32. Naive is a pass
over the whole picture for each pixel.
"""

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pipeline.run.stage import open_recipe
from recipes.common.images.shape import Shape
from recipes.pixelcnn.gated import GatedPixelCnn
from recipes.pixelcnn.nets import build
from recipes.pixelcnn.sampler import coins_of, drawn
from tests.benchmarks.workload import interleaved, on_the_cpu, print_line, ratio, spread
from tests.helpers import ROOT

PICTURES, REPEATS, SIZE = 8, 3, 28


@torch.no_grad()
def drawn_naively(net: GatedPixelCnn, labels_B: Tensor, coins_BSSC: Tensor) -> Tensor:
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


def _rate(sampler: Callable[[], Tensor], pictures: int) -> float:
    began = time.perf_counter()
    sampler()
    return pictures / (time.perf_counter() - began)


def main() -> None:
    on_the_cpu(2)
    print_line("pixelcnn_sampling", **pixelcnn())


if __name__ == "__main__":
    main()
