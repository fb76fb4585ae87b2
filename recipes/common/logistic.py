"""A logistic distribution's mass in the bin of a value. Values 0 to L - 1, a pixel's 256 by default, are on [-1, 1]."""

import torch
import torch.nn.functional as F
from torch import Tensor

MIN_LOG_SCALE = -7.0  # of pixels: a ninth of one of the 255 steps between them
HALF_BIN = 1 / 255


def logistic_log_prob(values: Tensor, centres: Tensor, log_scales: Tensor, levels: int = 256) -> Tensor:
    """Natural logarithm of the mass in each value's bin (arXiv:1701.05517, equation 2); the end bins take the tails."""
    inverse = torch.exp(-log_scales)
    away = (values * (2 / (levels - 1)) - 1 - centres) * inverse
    half = inverse / (levels - 1)
    # sigma(b) - sigma(a) = sigma(b) sigma(-a) (1 - exp(a - b)): no difference of nearly equal numbers.
    below, above = F.logsigmoid(away + half), F.logsigmoid(half - away)
    inside = below + above + torch.log(-torch.expm1(-2 * half))
    return torch.where(values == 0, below, torch.where(values == levels - 1, above, inside))
