"""What a decoder says of 8-bit pixels: interchangeable distributions with log-probability, mean and samples.

B pictures, P numbers of the decoder a pixel and channel, C channels, H rows, W columns. Pixels are 0 to 255 as fp32.
Each channel is independent of the others given the latents: colour has no channel conditioning, the groups of latents
carry what channels have in common.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from recipes.common.logistic import HALF_BIN, MIN_LOG_SCALE, logistic_log_prob
from recipes.vae.config import Model


class Likelihood(Protocol):
    """numbers: P; values: how many values of a pixel its probabilities sum to one over.

    start: P numbers from which a decoder begins to learn, a wide distribution.
    """

    numbers: int
    values: int

    @property
    def start(self) -> list[float]: ...

    def log_prob(self, numbers_BPCHW: Tensor, pixels_BCHW: Tensor) -> Tensor:
        """Natural logarithm of each pixel's probability, fp32 (B, C, H, W)."""

    def mean(self, numbers_BPCHW: Tensor) -> Tensor:
        """Expected pixels in [0, 255], fp32 (B, C, H, W)."""

    def sample(self, numbers_BPCHW: Tensor, uniform_B2CHW: Tensor) -> Tensor:
        """Pixels as a function of two uniform numbers in [0, 1) each, fp32 (B, C, H, W)."""


@dataclass(frozen=True)
class Bernoulli:
    """A binary picture: pixel v of the data is a one with probability v / 255.

    log_prob is the expectation over that binarisation, v/255 log p + (1 - v/255) log(1 - p): bits/dim of binary
    pixels, which are not comparable with those of 8-bit pixels.
    """

    numbers: int = 1
    values: int = 2

    @property
    def start(self) -> list[float]:
        return [0.0]

    def log_prob(self, numbers_BPCHW: Tensor, pixels_BCHW: Tensor) -> Tensor:
        logits = numbers_BPCHW[:, 0].float()
        return -F.binary_cross_entropy_with_logits(logits, pixels_BCHW / 255, reduction="none")

    def mean(self, numbers_BPCHW: Tensor) -> Tensor:
        return 255 * numbers_BPCHW[:, 0].float().sigmoid()

    def sample(self, numbers_BPCHW: Tensor, uniform_B2CHW: Tensor) -> Tensor:
        return 255.0 * (uniform_B2CHW[:, 0] < numbers_BPCHW[:, 0].float().sigmoid())


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution of learned mean and scale, integrated over the pixel's bin; the end bins take the tails."""

    numbers: int = 2
    values: int = 256

    @property
    def start(self) -> list[float]:
        return [0.0, -1.0]

    def log_prob(self, numbers_BPCHW: Tensor, pixels_BCHW: Tensor) -> Tensor:
        centre, log_scale = self._split(numbers_BPCHW)
        away = (pixels_BCHW / 127.5 - 1 - centre) * torch.exp(-log_scale)
        half = HALF_BIN * torch.exp(-log_scale)
        # By symmetry take the bin on the side below the centre, where log_ndtr keeps its digits.
        upper, lower = half - away.abs(), -half - away.abs()
        inside = _log_difference(torch.special.log_ndtr(upper), torch.special.log_ndtr(lower))
        dark, light = torch.special.log_ndtr(away + half), torch.special.log_ndtr(half - away)
        return torch.where(pixels_BCHW == 0, dark, torch.where(pixels_BCHW == 255, light, inside))

    def mean(self, numbers_BPCHW: Tensor) -> Tensor:
        return _to_pixel_range(self._split(numbers_BPCHW)[0])

    def sample(self, numbers_BPCHW: Tensor, uniform_B2CHW: Tensor) -> Tensor:
        centre, log_scale = self._split(numbers_BPCHW)
        return _rounded(centre + log_scale.exp() * torch.special.ndtri(_open(uniform_B2CHW[:, 0])))

    def _split(self, numbers_BPCHW: Tensor) -> tuple[Tensor, Tensor]:
        return numbers_BPCHW[:, 0].float(), numbers_BPCHW[:, 1].float().clamp(min=MIN_LOG_SCALE)


@dataclass(frozen=True)
class LogisticMixture:
    """arXiv:1701.05517, equation 2, without its conditioning between channels: mixtures x (weight, mean, scale)."""

    mixtures: int
    values: int = 256

    @property
    def numbers(self) -> int:
        return 3 * self.mixtures

    @property
    def start(self) -> list[float]:
        """Equal weights, and means spread over the range: equal means would stay equal for long."""
        means = [2 * (place + 0.5) / self.mixtures - 1 for place in range(self.mixtures)]
        return [0.0] * self.mixtures + means + [-2.0] * self.mixtures

    def log_prob(self, numbers_BPCHW: Tensor, pixels_BCHW: Tensor) -> Tensor:
        logits, centres, log_scales = self._split(numbers_BPCHW)
        bins = logistic_log_prob(pixels_BCHW[:, None], centres, log_scales)
        return torch.logsumexp(F.log_softmax(logits, dim=1) + bins, dim=1)

    def mean(self, numbers_BPCHW: Tensor) -> Tensor:
        logits, centres, _ = self._split(numbers_BPCHW)
        return _to_pixel_range((logits.softmax(dim=1) * centres).sum(dim=1))

    def sample(self, numbers_BPCHW: Tensor, uniform_B2CHW: Tensor) -> Tensor:
        logits, centres, log_scales = self._split(numbers_BPCHW)
        reached = logits.softmax(dim=1).cumsum(dim=1) <= uniform_B2CHW[:, :1]
        chosen = reached.sum(dim=1, keepdim=True).clamp(max=self.mixtures - 1)
        centre, log_scale = centres.gather(1, chosen)[:, 0], log_scales.gather(1, chosen)[:, 0]
        return _rounded(centre + log_scale.exp() * torch.logit(_open(uniform_B2CHW[:, 1])))

    def _split(self, numbers_BPCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, centres, log_scales = numbers_BPCHW.float().chunk(3, dim=1)
        return logits, centres, log_scales.clamp(min=MIN_LOG_SCALE)


def likelihood_of(model: Model) -> Likelihood:
    """The one that the recipe names."""
    if model.likelihood == "logistic_mixture":
        return LogisticMixture(model.mixtures)
    return Gaussian() if model.likelihood == "gaussian" else Bernoulli()


def _log_difference(log_larger: Tensor, log_smaller: Tensor) -> Tensor:
    """log(exp(log_larger) - exp(log_smaller)); the floor keeps a bin of no measurable width off minus infinity."""
    gap = (log_larger - log_smaller).clamp(min=1e-12)
    return log_larger + torch.log(-torch.expm1(-gap))


def _open(uniform: Tensor) -> Tensor:
    """[0, 1) -> (0, 1), where quantile functions are finite."""
    return uniform.clamp(2.0**-25, 1 - 2.0**-24)


def _to_pixel_range(unit: Tensor) -> Tensor:
    return ((unit + 1) * 127.5).clamp(0, 255)


def _rounded(unit: Tensor) -> Tensor:
    """The pixel in whose bin a number on [-1, 1] falls; beyond the ends, the end."""
    return ((unit + 1) * 127.5).round().clamp(0, 255)
