"""Spectral norm without state: a weight over its largest singular value, found anew in every forward.

torch's own keeps a vector that each forward in training moves on, so a step would depend on into how many micro-batches
and processes it was cut. Here the singular value is a function of the weight alone.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

SQUARINGS = 5  # of the Gram matrix: 2 ** 5 = 32 steps of power iteration in 5 products


class SpectralNorm(nn.Module):
    """A parametrisation (arXiv:1802.05957, Equation 8), in fp32 whatever the precision around it."""

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return weight / largest_singular_value(weight.float().flatten(1)).to(weight.dtype)


def largest_singular_value(matrix_MN: Tensor) -> Tensor:
    """An estimate from below, 0-d: u^T W v with u and v held fixed (arXiv:1802.05957, Equation 10 and Appendix A)."""
    with torch.no_grad():
        u_M, v_N = _singular_vectors(matrix_MN)
    return u_M @ matrix_MN @ v_N


def _singular_vectors(matrix_MN: Tensor) -> tuple[Tensor, Tensor]:
    """Power iteration on the smaller Gram matrix, squared instead of applied again and again.

    It starts from every direction at once: the longest column of the power has the most of the first vector in it.
    """
    tall = matrix_MN.shape[0] > matrix_MN.shape[1]
    matrix = matrix_MN.T if tall else matrix_MN
    power = matrix @ matrix.T
    for _ in range(SQUARINGS):
        power = power / power.norm().clamp_min(1e-12)
        power = power @ power
    u = _unit(power[:, power.norm(dim=0).argmax()])
    v = _unit(matrix.T @ u)
    u = _unit(matrix @ v)
    return (v, u) if tall else (u, v)


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm().clamp_min(1e-12)


def normalise(net: nn.Module) -> nn.Module:
    """Put SpectralNorm on every matrix of `net`: convolutions, linear layers and embeddings."""
    for module in list(net.modules()):
        if isinstance(module, nn.Conv2d | nn.Linear | nn.Embedding):
            parametrize.register_parametrization(module, "weight", SpectralNorm())
    return net
