"""Frechet and kernel distances between two sets of features, in float64. Neither is FID or KID: those name a network.

Shapes: N, M rows of two sets, D features, R resamples.
"""

import numpy as np
import torch
from torch import Tensor


def frechet_distance(x_ND: np.ndarray, y_MD: np.ndarray) -> float:
    """The squared 2-Wasserstein distance of the Gaussians with the sets' means and covariances (Dowson, Landau 1982).

    |m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)), the formula of arXiv:1706.08500 (equation 6). With S = A'A and S' = B'B
    the last trace is the sum of the singular values of A B', so no root of a matrix that is not symmetric is taken,
    and fewer rows than features are no special case.

    Raises:
        ValueError: a set of fewer than two rows has no covariance.
    """
    if min(len(x_ND), len(y_MD)) < 2:
        raise ValueError(f"a Frechet distance needs two rows of each set, not {len(x_ND)} and {len(y_MD)}")
    x, y = (torch.from_numpy(rows.astype(np.float64)) for rows in (x_ND, y_MD))
    root_x, root_y = _root(x), _root(y)
    between = torch.linalg.svdvals(root_x @ root_y.T).sum()
    apart = (x.mean(dim=0) - y.mean(dim=0)).square().sum()
    return float(apart + root_x.square().sum() + root_y.square().sum() - 2 * between)


def _root(x_ND: Tensor) -> Tensor:
    """A with A'A the unbiased covariance, (min(N, D), D)."""
    centred = (x_ND - x_ND.mean(dim=0)) / (len(x_ND) - 1) ** 0.5
    if len(x_ND) <= x_ND.shape[1]:
        return centred
    variances, directions = torch.linalg.eigh(centred.T @ centred)
    return variances.clamp(min=0).sqrt()[:, None] * directions.T


def kernel_matrix(x_ND: Tensor, y_MD: Tensor) -> Tensor:
    """(x.y / D + 1)^3, the kernel of arXiv:1801.01401 (section 4), (N, M)."""
    return (x_ND @ y_MD.T / x_ND.shape[1] + 1) ** 3


class KernelDistance:
    """The unbiased squared maximum mean discrepancy of two sets of N rows (arXiv:1801.01401, equation 4).

    It can be negative: its mean is 0 where both sets are drawn alike. Sets larger than `block` are cut into blocks of
    rows whose distances are averaged, which keeps the estimate unbiased; a last block that is not full is left out.
    """

    def __init__(self, x_ND: np.ndarray, y_ND: np.ndarray, block: int = 1000):
        self.size = min(block, len(x_ND))
        self.count = len(x_ND)
        self.starts = range(0, self.count - self.size + 1, self.size)
        self.matrices = [self._matrices(x_ND, y_ND, start) for start in self.starts]

    def _matrices(self, x_ND: np.ndarray, y_ND: np.ndarray, start: int) -> tuple[Tensor, Tensor, Tensor]:
        place = slice(start, start + self.size)
        x, y = (torch.from_numpy(rows[place].astype(np.float64)) for rows in (x_ND, y_ND))
        return kernel_matrix(x, x), kernel_matrix(y, y), kernel_matrix(x, y)

    def whole(self) -> float:
        """The distance of all rows."""
        return float(self.of(np.arange(self.count)[None])[0])

    def of(self, drawn: np.ndarray) -> np.ndarray:
        """The distances (R,) of the rows of both sets at `drawn`, int64 (R, any)."""
        chosen_RN = torch.zeros(len(drawn), self.count, dtype=torch.float64)
        chosen_RN.scatter_(1, torch.from_numpy(drawn), 1.0)
        parts = zip(self.matrices, self.starts, strict=True)
        found = [_unbiased(*three, chosen_RN[:, start : start + self.size]) for three, start in parts]
        return torch.stack(found).mean(dim=0).numpy()


def _unbiased(xx: Tensor, yy: Tensor, xy: Tensor, chosen_RN: Tensor) -> Tensor:
    """The estimate over the chosen rows, 1 or 0 each, (R,)."""
    count = chosen_RN.sum(dim=1)
    same = sum(_quadratic(one, chosen_RN) - chosen_RN @ one.diagonal() for one in (xx, yy))
    return same / (count * (count - 1)) - 2 * _quadratic(xy, chosen_RN) / count**2


def _quadratic(matrix: Tensor, chosen_RN: Tensor) -> Tensor:
    return (chosen_RN @ matrix * chosen_RN).sum(dim=1)
