"""Noise schedules and what a net predicts of a noisy picture: pure functions of time.

x_t = alpha(t) x_0 + sigma(t) noise. Shapes: B pictures, C channels, H rows, W columns, T training times.
"""

import math
from statistics import NormalDist

import torch
from torch import Tensor

from recipes.diffusion.config import TIMES

BETA_FIRST, BETA_LAST = 1e-4, 0.02  # the linear schedule's (arXiv:2006.11239, section 4)
BETA_MAX = 0.999  # the cosine schedule's cap (arXiv:2102.09672, section 3.2)
COSINE_OFFSET = 0.008  # its s
GOLDEN = (math.sqrt(5) - 1) / 2


def betas(schedule: str) -> Tensor:
    """Variance of the noise added at each time, fp64 (T,)."""
    if schedule == "linear":
        return torch.linspace(BETA_FIRST, BETA_LAST, TIMES, dtype=torch.float64)
    ends = torch.arange(TIMES + 1, dtype=torch.float64) / TIMES
    # arXiv:2102.09672, equation 17
    kept = torch.cos((ends + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2).square()
    return (1 - kept[1:] / kept[:-1]).clamp(max=BETA_MAX)


def signal_and_noise(schedule: str | None, timestep_B: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma at each timestep, fp32 (B,).

    schedule: None is the straight path of flow matching (arXiv:2210.02747, equation 22 with sigma_min = 0, time
    running from picture to noise).
    timestep_B: as the net sees it: whole numbers in [0, T) of a schedule, any number in [0, T] of a flow.
    """
    if schedule is None:
        sigma = timestep_B.double() / TIMES
        return (1 - sigma).float(), sigma.float()
    # arXiv:2006.11239, equation 4
    kept = torch.cumprod(1 - betas(schedule), dim=0).to(timestep_B.device)[timestep_B.long()]
    return kept.sqrt().float(), (1 - kept).sqrt().float()


def timestep_of(schedule: str | None, u_B: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) as timesteps of the net, fp32 (B,): whole ones for a discrete schedule."""
    times = u_B * TIMES
    return times if schedule is None else times.floor()


def logit_normal(u: float) -> float:
    """An even number in [0, 1) as one that lies about the middle (arXiv:2403.03206, section 3.1, m = 0, s = 1)."""
    return 1 / (1 + math.exp(-NormalDist().inv_cdf(max(u, 2**-24))))


def time_of(index: int, start: float, middle: bool) -> float:
    """The time of sample `index`, in [0, 1): evenly spread, or about the middle.

    Every run of indices fills [0, 1) evenly, so the mean over times varies less than with independent draws.
    """
    time = (start + index * GOLDEN) % 1
    return min(logit_normal(time) if middle else time, 1 - 2**-24)


def noisy(x_BCHW: Tensor, noise_BCHW: Tensor, alpha_B: Tensor, sigma_B: Tensor) -> Tensor:
    """The picture at its time, (B, C, H, W)."""
    return _wide(alpha_B) * x_BCHW + _wide(sigma_B) * noise_BCHW


def target(prediction: str, x_BCHW: Tensor, noise_BCHW: Tensor, alpha_B: Tensor, sigma_B: Tensor) -> Tensor:
    """What the net should say, (B, C, H, W)."""
    if prediction == "epsilon":
        return noise_BCHW
    if prediction == "v":  # arXiv:2202.00512, section 4
        return _wide(alpha_B) * noise_BCHW - _wide(sigma_B) * x_BCHW
    return noise_BCHW - x_BCHW  # the path's velocity, arXiv:2210.02747, equation 23


def weight(prediction: str, alpha_B: Tensor, sigma_B: Tensor, gamma: float | None) -> Tensor:
    """The loss's weight at each time, (B,): min-SNR with `gamma`, 1 without (arXiv:2303.09556, section 3.4).

    The squared error of x_0 is weighed by min(SNR, gamma); that of epsilon is SNR times as large, that of v SNR + 1.
    """
    if gamma is None:
        return torch.ones_like(alpha_B)
    snr = (alpha_B.double() / sigma_B.double()).square()
    per_unit = snr if prediction == "epsilon" else snr + 1
    return (snr.clamp(max=gamma) / per_unit).float()


def _wide(values_B: Tensor) -> Tensor:
    return values_B[:, None, None, None]
