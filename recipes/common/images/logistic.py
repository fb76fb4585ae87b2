"""A logistic distribution's mass in the bin of an 8-bit pixel. Pixels 0 to 255 are on [-1, 1]."""

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
