"""DiffAugment (arXiv:2006.10738): what real and generated pictures go through before the critic sees them.

Every draw comes with the sample as a number in [0, 1), so nothing depends on the batch around a picture; everything is
differentiable, so the generator learns through it. No scatter, gather or interpolation: their backward on a GPU adds up
in an order of its own. Shapes: B pictures, C channels, H rows, W columns.
"""

import torch
from torch import Tensor

DRAWS = 7  # brightness, saturation, contrast, two of translation, two of cutout
SHIFT = 1 / 8  # of a side: translation at most, in each direction
HOLE = 1 / 2  # of a side: what cutout takes away


def augment(x_BCHW: Tensor, kinds: tuple[str, ...], draws_BN: Tensor) -> Tensor:
    """x in [-1, 1] through `kinds` in order, in fp32; draws_BN: DRAWS numbers in [0, 1) a picture."""
    with torch.autocast(x_BCHW.device.type, enabled=False):
        x_BCHW = x_BCHW.float()
        for kind in kinds:
            first, count, function = KINDS[kind]
            x_BCHW = function(x_BCHW, draws_BN[:, first : first + count, None, None, None].unbind(1))
    return x_BCHW


def colour(x_BCHW: Tensor, draws: tuple[Tensor, ...]) -> Tensor:
    """Brightness + [-0.5, 0.5), saturation x [0, 2), contrast x [0.5, 1.5), as in the paper's code."""
    brightness, saturation, contrast = draws
    x = x_BCHW + (brightness - 0.5)
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * (2 * saturation)
    level = x.mean(dim=(1, 2, 3), keepdim=True)
    return level + (x - level) * (contrast + 0.5)


def translation(x_BCHW: Tensor, draws: tuple[Tensor, ...]) -> Tensor:
    """Up to SHIFT of a side in both directions, by whole pixels; what comes in is 0.

    A shift is a product with a matrix of zeros and ones, which is exact, and deterministic in its backward.
    """
    down, right = (_shift_matrix(draw, size) for draw, size in zip(draws, x_BCHW.shape[2:], strict=True))
    return down @ x_BCHW @ right.transpose(2, 3)


def _shift_matrix(draw_B111: Tensor, size: int) -> Tensor:
    """(B, 1, size, size): row i has its one at column i - shift, or none."""
    most = int(size * SHIFT + 0.5)
    shift = (draw_B111 * (2 * most + 1)).floor() - most
    places = torch.arange(size, device=draw_B111.device)
    return (places[None, :] == places[:, None] - shift).float()


def cutout(x_BCHW: Tensor, draws: tuple[Tensor, ...]) -> Tensor:
    """A square of HOLE of a side becomes 0; its centre is anywhere on the picture."""
    inside = None
    for draw, size, dim in zip(draws, x_BCHW.shape[2:], (2, 3), strict=True):
        first = (draw * (size + 1 - size % 2)).floor() - size * HOLE // 2
        places = torch.arange(size, device=x_BCHW.device).view(
            [-1 if axis == dim else 1 for axis in range(4)]
        )
        within = (places >= first) & (places < first + int(size * HOLE + 0.5))
        inside = within if inside is None else inside & within
    return x_BCHW * ~inside


KINDS = {"colour": (0, 3, colour), "translation": (3, 2, translation), "cutout": (5, 2, cutout)}
