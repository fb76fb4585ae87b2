"""The parts that both nets of the family are made of. No layer looks at its batch.

B pictures, F feature maps, H rows, W columns.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """x + a bottleneck of 1x1, 3x3, 1x1 convolutions (arXiv:2011.10650, figure 3). (B, F, H, W) -> (B, F, H, W)."""

    def __init__(self, size: int, scale: float):
        super().__init__()
        middle = max(size // 2, 1)
        self.narrow = nn.Conv2d(size, middle, 1)
        self.mix = nn.Conv2d(middle, middle, 3, padding=1)
        self.widen = nn.Conv2d(middle, size, 1)
        with torch.no_grad():
            self.widen.weight.mul_(scale)

    def forward(self, x_BFHW: Tensor) -> Tensor:
        y = self.narrow(F.gelu(x_BFHW))
        y = self.mix(F.gelu(y))
        return x_BFHW + self.widen(F.gelu(y))


def residuals(count: int, size: int, depth: int) -> nn.Sequential:
    """`count` blocks whose last weights shrink with the net's `depth` (arXiv:2011.10650, section 3.1)."""
    return nn.Sequential(*[Residual(size, depth**-0.5) for _ in range(count)])


class Encoder(nn.Module):
    """Pictures (B, C, S, S) -> features at each of `resolutions`, {resolution: (B, F, resolution, resolution)}."""

    def __init__(self, channels: int, patch: int, size: int, blocks: int, resolutions: list[int], depth: int):
        super().__init__()
        self.patch = patch
        self.resolutions = sorted(set(resolutions), reverse=True)
        self.stem = nn.Conv2d(channels * patch**2, size, 3, padding=1)
        self.stages = nn.ModuleList([residuals(blocks, size, depth) for _ in self.resolutions])

    def forward(self, x_BCSS: Tensor) -> dict[int, Tensor]:
        patches = F.pixel_unshuffle(x_BCSS.to(self.stem.weight.dtype), self.patch)
        x = self.stem(patches.contiguous(memory_format=torch.channels_last))
        found = {}
        for resolution, stage in zip(self.resolutions, self.stages, strict=True):
            found[resolution] = x = stage(to_resolution(x, resolution))
        return found


def pixels_of(images_BHWC: Tensor) -> Tensor:
    """uint8 (B, H, W, C) -> the same values as fp32 (B, C, H, W)."""
    return images_BHWC.permute(0, 3, 1, 2).float()


def to_resolution(x_BFHW: Tensor, resolution: int) -> Tensor:
    """Averages over areas on the way down, repeats on the way up."""
    if x_BFHW.shape[-1] > resolution:
        return _averaged(_averaged(x_BFHW, resolution, -1), resolution, -2)
    return x_BFHW if x_BFHW.shape[-1] == resolution else F.interpolate(x_BFHW, size=(resolution, resolution))


def _averaged(x: Tensor, count: int, dim: int) -> Tensor:
    """Means of `count` stretches of a dimension: adaptive pooling, with a backward that adds up in one order."""
    size = x.shape[dim]
    bounds = [(place * size // count, -(-(place + 1) * size // count)) for place in range(count)]
    return torch.stack([x.narrow(dim, begin, end - begin).mean(dim) for begin, end in bounds], dim)


def in_fp32(layer: nn.Conv2d, x_BFHW: Tensor) -> Tensor:
    """A 1x1 convolution in fp32 whatever the precision around it: bf16 has no room for 256 pixel values near 1."""
    with torch.autocast(x_BFHW.device.type, enabled=False):
        return F.conv2d(x_BFHW.float(), layer.weight.float(), layer.bias.float())


class Head(nn.Module):
    """Features at patch resolution -> the likelihood's numbers, fp32 (B, P, C, S, S), which begin at `start`."""

    def __init__(self, size: int, start: list[float], channels: int, patch: int):
        super().__init__()
        self.numbers, self.channels, self.patch = len(start), channels, patch
        self.out = nn.Conv2d(size, len(start) * channels * patch**2, 1)
        with torch.no_grad():
            self.out.bias.copy_(torch.tensor(start).repeat_interleave(channels * patch**2))

    def forward(self, x_BFHW: Tensor) -> Tensor:
        flat = F.pixel_shuffle(in_fp32(self.out, F.gelu(x_BFHW)), self.patch)
        return flat.unflatten(1, (self.numbers, self.channels))
