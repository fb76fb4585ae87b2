"""Precision, recall, density and coverage: whether two sets of features lie in each other's neighbourhoods.

Shapes: N real rows, M generated rows, D features.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Manifold:
    """The four figures of one pair of sets."""

    precision: float
    recall: float
    density: float
    coverage: float


@dataclass(frozen=True)
class Distances:
    """Euclidean distances within and between two sets: real_NN, generated_MM and between_NM, fp64."""

    real_NN: Tensor
    generated_MM: Tensor
    between_NM: Tensor

    @classmethod
    def of(cls, real_ND: np.ndarray, generated_MD: np.ndarray) -> "Distances":
        real, generated = (torch.from_numpy(rows.astype(np.float64)) for rows in (real_ND, generated_MD))
        return cls(*(_distances(*pair) for pair in ((real, real), (generated, generated), (real, generated))))

    def among(self, places: np.ndarray) -> "Distances":
        """Those of the rows at `places` of both sets."""
        rows = torch.from_numpy(places)
        matrices = (self.real_NN, self.generated_MM, self.between_NM)
        return Distances(*(matrix[rows[:, None], rows] for matrix in matrices))


def _distances(left: Tensor, right: Tensor) -> Tensor:
    # Differences, not products: equal rows are then at distance 0, not at the square root of a rounding.
    return torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")


def manifold(distances: Distances, neighbours: int) -> Manifold:
    """The figures with balls that reach to the k-th neighbour of each row within its own set.

    precision: share of the generated within any real row's ball; recall: share of the real within any generated row's
    (arXiv:1904.06991, equations 1 and 2). density: real balls that a generated row is in, over k; coverage: share of
    the real balls that hold a generated row (arXiv:2002.09797, equations 4 and 5).

    Raises:
        ValueError: a set has no `neighbours` other rows.
    """
    fewest = min(distances.between_NM.shape)
    if fewest <= neighbours:
        raise ValueError(f"{neighbours} neighbours of each row need more than {fewest} rows")
    real_radii_N, generated_radii_M = (
        radii(matrix, neighbours) for matrix in (distances.real_NN, distances.generated_MM)
    )
    in_real_NM = distances.between_NM <= real_radii_N[:, None]
    in_generated_NM = distances.between_NM <= generated_radii_M[None, :]
    return Manifold(
        precision=_share(in_real_NM.any(dim=0)),
        recall=_share(in_generated_NM.any(dim=1)),
        density=float(in_real_NM.sum()) / (neighbours * in_real_NM.shape[1]),
        coverage=_share(in_real_NM.any(dim=1)),
    )


def radii(matrix_NN: Tensor, neighbours: int) -> Tensor:
    """The distance of each row to its k-th neighbour (N,); the row itself is the nearest, at 0."""
    return matrix_NN.topk(neighbours + 1, dim=1, largest=False, sorted=False).values.amax(dim=1)


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())


def expected_coverage(real: int, generated: int, neighbours: int) -> float:
    """Coverage where both sets are drawn alike: 1 - (N-1)...(N-k) / ((M+N-1)...(M+N-k)) (arXiv:2002.09797)."""
    places = np.arange(1, neighbours + 1)
    return float(1 - np.prod((real - places) / (generated + real - places)))
