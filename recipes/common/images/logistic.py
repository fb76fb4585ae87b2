"""A logistic distribution over 8-bit pixels: its mass in a pixel's bin, and draws. Pixels 0 to 255 are on [-1, 1]."""

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_LOG_SCALE = -7.0  # a ninth of one of the 255 steps between pixel values
HALF_BIN = 1 / 255


def logistic_log_prob(pixels: Tensor, centres: Tensor, log_scales: Tensor) -> Tensor:
    """Natural logarithm of the mass in each pixel's bin (arXiv:1701.05517, equation 2); the end bins take the tails."""
    inverse = torch.exp(-log_scales)
    away = (pixels / 127.5 - 1 - centres) * inverse
    half = HALF_BIN * inverse
    # sigma(b) - sigma(a) = sigma(b) sigma(-a) (1 - exp(a - b)): no difference of nearly equal numbers.
    below, above = F.logsigmoid(away + half), F.logsigmoid(half - away)
    inside = below + above + torch.log(-torch.expm1(-2 * half))
    return torch.where(pixels == 0, below, torch.where(pixels == 255, above, inside))


def draw_logistic(centres: Tensor, log_scales: Tensor, uniform: Tensor) -> Tensor:
    """Pixels 0 to 255 in fp32, as a function of a uniform number in [0, 1) each."""
    return rounded(centres + log_scales.exp() * torch.logit(open_interval(uniform)))


def open_interval(uniform: Tensor) -> Tensor:
    """[0, 1) -> (0, 1), where quantile functions are finite."""
    return uniform.clamp(2.0**-25, 1 - 2.0**-24)


def rounded(unit: Tensor) -> Tensor:
    """The pixel in whose bin a number on [-1, 1] falls; beyond the ends, the end."""
    return ((unit + 1) * 127.5).round().clamp(0, 255)
