"""How like a set of generated shapes is to a set of references.

From distances between shapes (any distance; Yang et al., "PointFlow", 2019, use the squared Chamfer sum and the earth
mover's distance at 2048 points): minimum matching distance and coverage (Achlioptas et al., 2018), and accuracy of a
1-nearest-neighbour classifier (Lopez-Paz, Oquab, 2017). From features of an encoder: Frechet distance (Heusel et al.,
2017) and kernel distance (Binkowski et al., 2018).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NearestNeighbourAccuracy:
    """Leave-one-out accuracy, 0..1, of telling samples from references; 0.5 is best, both ways."""

    samples: float  # of the samples
    references: float  # of the references
    all: float


def minimum_matching_distance(distances: Tensor) -> float:
    """Mean over the references of the distance to the nearest sample; in the unit of the distances.

    Args:
        distances: floating [S, R], of S samples to R references.
    """
    return float(_checked("distances", distances).amin(0).mean())


def coverage(distances: Tensor) -> float:
    """Share, 0..1, of the references that are nearest to some sample.

    Args:
        distances: floating [S, R]. S and R should be equal: more samples cover more.
    """
    distances = _checked("distances", distances)
    return len(distances.argmin(1).unique()) / distances.shape[1]


def nearest_neighbour_accuracy(between: Tensor, samples: Tensor, references: Tensor) -> NearestNeighbourAccuracy:
    """How well the nearest other shape tells whether a shape is a sample or a reference.

    Of equally near ones those of the other kind count first, so that copies are never told apart.

    Args:
        between: floating [S, R]. samples: floating [S, S]. references: floating [R, R]; their diagonals are not read.
    """
    between = _checked("between", between)
    s, r = between.shape
    own = []
    for name, matrix, size in (("samples", samples, s), ("references", references, r)):
        if list(matrix.shape) != [size, size]:
            raise ValueError(f"{name} must be [{size}, {size}], got {list(matrix.shape)}")
        matrix = _checked(name, matrix).clone()
        matrix.fill_diagonal_(math.inf)
        own.append(matrix.amin(1))
    right_samples, right_references = own[0] < between.amin(1), own[1] < between.amin(0)
    return NearestNeighbourAccuracy(
        samples=float(right_samples.double().mean()),
        references=float(right_references.double().mean()),
        all=float(torch.cat([right_samples, right_references]).double().mean()),
    )


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Squared Frechet (2-Wasserstein) distance of normal distributions with the features' means and covariances.

    |mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), with unbiased covariances. It is biased upwards by about
    1 / N, and little is left of it where there are fewer features than dimensions: compare equal numbers only.

    Args:
        a, b: floating [N, D] and [M, D], at least two each.
    """
    a, b = _checked_features(a, b)
    shift = (a.mean(0) - b.mean(0)).square().sum()
    cov_a, cov_b = a.T.cov().reshape(a.shape[1], -1), b.T.cov().reshape(b.shape[1], -1)
    # C_a C_b has the eigenvalues of the symmetric matrix C_a^(1/2) C_b C_a^(1/2).
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return max(0.0, float(shift + cov_a.trace() + cov_b.trace() - 2 * cross))


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Squared maximum mean discrepancy with the kernel (x y / D + 1)^3, unbiased: for equal distributions around 0.

    Args:
        a, b: floating [N, D] and [M, D], at least two each.
    """
    a, b = _checked_features(a, b)

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    within = [(k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1)) for k in (kernel(a, a), kernel(b, b))]
    return float(within[0] + within[1] - 2 * kernel(a, b).mean())


def _checked(name: str, distances: Tensor) -> Tensor:
    if distances.ndim != 2 or not distances.numel() or not distances.is_floating_point():
        raise ValueError(f"{name} must be a floating-point matrix that is not empty, got {list(distances.shape)}")
    if bool(distances.isnan().any()):
        raise ValueError(f"{name} must not have NaN")
    return distances.double()


def _checked_features(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    for name, features in (("a", a), ("b", b)):
        if features.ndim != 2 or not features.is_floating_point():
            raise ValueError(
                f"{name} must be floating-point features [N, D], got {features.dtype} {list(features.shape)}"
            )
        if len(features) < 2 or features.shape[1] < 1:
            raise ValueError(f"{name} must have at least two rows of features, got {list(features.shape)}")
        if not bool(features.isfinite().all()):
            raise ValueError(f"{name} must be finite")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a and b must have equally many dimensions, got {a.shape[1]} and {b.shape[1]}")
    return a.double(), b.double()
