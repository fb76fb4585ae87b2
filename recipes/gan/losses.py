"""The games that a critic and a generator play, each a pure function of scores, and the critic's squared slope.

Shapes: B samples.
"""

import torch.nn.functional as F
from torch import Tensor


def critic_loss(game: str, real_B: Tensor, fake_B: Tensor) -> Tensor:
    """What the critic minimises, a sample, (B,).

    game: `relativistic`, pair i is real_B[i] and fake_B[i], arXiv:1807.00734, Equation 7 with f = softplus;
        `non_saturating`, arXiv:1406.2661, Section 3; `hinge`, arXiv:1802.05957, Equation 16.
    """
    if game == "relativistic":
        return F.softplus(fake_B - real_B)
    if game == "non_saturating":
        return F.softplus(-real_B) + F.softplus(fake_B)
    return F.relu(1 - real_B) + F.relu(1 + fake_B)


def generator_loss(game: str, real_B: Tensor | None, fake_B: Tensor) -> Tensor:
    """What the generator minimises, a sample, (B,); only the relativistic game needs real_B.

    The other two are arXiv:1406.2661, Section 3 (maximise log D(G(z))), and arXiv:1802.05957, Equation 17.
    """
    if game == "relativistic":
        return F.softplus(real_B - fake_B)
    return F.softplus(-fake_B) if game == "non_saturating" else -fake_B


def squared_slope(score_B: Tensor, nudged_B: Tensor, std: float) -> Tensor:
    """An unbiased estimate of the critic's squared gradient norm, a sample, (B,), up to its curvature over `std`.

    score_B, nudged_B: the scores of x and of x + std * n with n standard normal. The difference over std is n . grad,
    and its square has the mean |grad|^2 (the approximate R1 of arXiv:2501.08316). No gradient is differentiated
    twice, so that any engine can take the backward.
    """
    return ((nudged_B - score_B) / std).square()
