"""What a PixelCNN says of a pixel: distributions over its values, each channel given those before it.

B pictures, P numbers of the net a pixel, C channels, L levels, M mixtures, H rows, W columns. Pixels are levels 0 to
L - 1 as int64; scaled, they are fp32 on [-1, 1].
"""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recipes.common.logistic import MIN_LOG_SCALE, logistic_log_prob
from recipes.pixelcnn.config import Model

GRID = (
    2.0**-10
)  # numbers are rounded to it before a pixel is drawn: rounding in a last bit then rarely decides


class Pixels(Protocol):
    """numbers: P. levels: L."""

    numbers: int
    levels: int

    def quantised(self, images_BCHW: Tensor) -> Tensor: ...

    def scaled(self, pixels_BCHW: Tensor) -> Tensor: ...

    def log_prob(self, numbers_BPHW: Tensor, pixels_BCHW: Tensor) -> Tensor:
        """Natural logarithm of each pixel's probability, all its channels together, fp32 (B, H, W)."""

    def conditional(self, numbers_BP: Tensor, seen_BK: Tensor) -> Tensor:
        """Probabilities of a pixel's next channel, given its first K channels: float64 (B, L)."""

    def draw(self, numbers_BP: Tensor, uniform_BC: Tensor) -> Tensor:
        """A pixel of each of B pictures as a function of a uniform number in [0, 1) a channel: int64 (B, C)."""


class _Levels(nn.Module):
    """What both have in common."""

    def __init__(self, channels: int, levels: int):
        super().__init__()
        self.channels, self.levels = channels, levels

    def quantised(self, images_BCHW: Tensor) -> Tensor:
        """Levels of 8-bit pixels."""
        return images_BCHW.long() * self.levels // 256

    def scaled(self, pixels_BCHW: Tensor) -> Tensor:
        return pixels_BCHW.float() * (2 / (self.levels - 1)) - 1

    def draw(self, numbers_BP: Tensor, uniform_BC: Tensor) -> Tensor:
        """By the inverse of each channel's distribution function."""
        seen_BK = torch.zeros(len(numbers_BP), 0, dtype=torch.int64, device=numbers_BP.device)
        for channel in range(self.channels):
            sums_BL = self.conditional(numbers_BP, seen_BK).cumsum(-1)
            reached = sums_BL <= uniform_BC[:, channel, None] * sums_BL[:, -1:]
            chosen_B1 = reached.sum(-1, keepdim=True).clamp(max=self.levels - 1)
            seen_BK = torch.cat([seen_BK, chosen_B1], 1)
        return seen_BK


class Softmax(_Levels):
    """A probability for each level (arXiv:1601.06759, section 3.4); a channel's logits see the channels before it."""

    def __init__(self, channels: int, levels: int):
        super().__init__(channels, levels)
        self.numbers = channels * levels
        pairs = [f"{channel}_{before}" for channel in range(channels) for before in range(channel)]
        self.seen = nn.ModuleDict({pair: nn.Embedding(levels, levels) for pair in pairs})
        for table in self.seen.values():
            nn.init.zeros_(table.weight)

    def log_prob(self, numbers_BPHW: Tensor, pixels_BCHW: Tensor) -> Tensor:
        logits = numbers_BPHW.float().unflatten(1, (self.channels, self.levels))
        found = []
        for channel in range(self.channels):
            own = self._given(logits[:, channel].movedim(1, -1), channel, pixels_BCHW.movedim(1, -1))
            found.append(own.log_softmax(-1).gather(-1, pixels_BCHW[:, channel, :, :, None])[..., 0])
        return torch.stack(found).sum(0)

    def conditional(self, numbers_BP: Tensor, seen_BK: Tensor) -> Tensor:
        channel = seen_BK.shape[1]
        logits = _on_grid(numbers_BP).unflatten(1, (self.channels, self.levels))[:, channel]
        return self._given(logits, channel, seen_BK).double().softmax(-1)

    def _given(self, logits: Tensor, channel: int, pixels: Tensor) -> Tensor:
        """Logits (..., L) of a channel, given the channels before it in pixels (..., C)."""
        for before in range(channel):
            logits = logits + self.seen[f"{channel}_{before}"](pixels[..., before])
        return logits


class LogisticMixture(_Levels):
    """Equations 2 and 3 of arXiv:1701.05517: one component for all channels, whose means follow those before them."""

    def __init__(self, channels: int, mixtures: int):
        super().__init__(channels, 256)
        self.mixtures, self.pairs = mixtures, channels * (channels - 1) // 2
        self.numbers = mixtures * (1 + 2 * channels + self.pairs)

    def log_prob(self, numbers_BPHW: Tensor, pixels_BCHW: Tensor) -> Tensor:
        logits, centres, log_scales, weights = self._split(numbers_BPHW.float().movedim(1, -1))
        pixels = pixels_BCHW.movedim(1, -1)
        scaled, total = self.scaled(pixels), F.log_softmax(logits, -1)
        for channel in range(self.channels):
            centre = self._centre(centres, weights, channel, scaled[..., None])
            total = total + logistic_log_prob(
                pixels[..., channel, None].float(), centre, log_scales[..., channel, :]
            )
        return torch.logsumexp(total, -1)

    def conditional(self, numbers_BP: Tensor, seen_BK: Tensor) -> Tensor:
        """The mixture over the next channel's values, its components weighed by how they explain those before."""
        logits, centres, log_scales, weights = self._split(_on_grid(numbers_BP))
        scaled, total_BM = self.scaled(seen_BK), F.log_softmax(logits, -1)
        channel = seen_BK.shape[1]
        for before in range(channel):
            centre = self._centre(centres, weights, before, scaled[..., None])
            value = seen_BK[:, before, None].float()
            total_BM = total_BM + logistic_log_prob(value, centre, log_scales[:, before])
        centre = self._centre(centres, weights, channel, scaled[..., None])[:, None]
        values_L1 = torch.arange(float(self.levels), device=centre.device)[:, None]
        own_BLM = logistic_log_prob(values_L1, centre, log_scales[:, channel, None])
        return torch.logsumexp((total_BM[:, None] + own_BLM).double(), -1).softmax(-1)

    def _split(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(..., P) -> logits (..., M), centres and log scales (..., C, M), and how means follow (..., pairs, M)."""
        parts = numbers.unflatten(-1, (-1, self.mixtures))
        logits, centres, log_scales, weights = parts.split([1, self.channels, self.channels, self.pairs], -2)
        return logits[..., 0, :], centres, log_scales.clamp(min=MIN_LOG_SCALE), weights.tanh()

    def _centre(self, centres: Tensor, weights: Tensor, channel: int, scaled: Tensor) -> Tensor:
        """(..., M): the channel's own mean, moved by the channels before it."""
        centre = centres[..., channel, :]
        for before in range(channel):
            pair = channel * (channel - 1) // 2 + before
            centre = centre + weights[..., pair, :] * scaled[..., before, :]
        return centre


def _on_grid(numbers: Tensor) -> Tensor:
    return (numbers.float() / GRID).round() * GRID


def pixels_of(model: Model, channels: int) -> Pixels:
    """The distribution that the recipe names."""
    if model.likelihood == "softmax":
        return Softmax(channels, model.levels)
    return LogisticMixture(channels, model.mixtures)
