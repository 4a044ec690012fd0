"""Metrics of sets: closed forms and hand-made matrices."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from eval.set_metrics import (
    coverage,
    frechet_distance,
    kernel_distance,
    minimum_matching_distance,
    nearest_neighbour_accuracy,
)


def white(count: int, dims: int) -> Tensor:
    """Features with exactly zero mean and exactly the identity as unbiased covariance."""
    x = torch.randn(count, dims, dtype=torch.float64)
    x = x - x.mean(0)
    return x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov()).T)


def distances(a: Tensor, b: Tensor) -> Tensor:
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def test_a_set_and_itself() -> None:
    shapes = torch.randn(8, 5)
    d = distances(shapes, shapes)
    assert minimum_matching_distance(d) == 0
    assert coverage(d) == 1
    found = nearest_neighbour_accuracy(d, d, d)
    assert (found.samples, found.references, found.all) == (0, 0, 0)


def test_sets_far_apart_are_told_apart() -> None:
    near, far = torch.randn(10, 3), torch.randn(15, 3) + 100
    found = nearest_neighbour_accuracy(distances(near, far), distances(near, near), distances(far, far))
    assert (found.samples, found.references, found.all) == (1, 1, 1)


def test_sets_of_one_distribution_are_told_apart_half_the_time() -> None:
    a, b = torch.randn(300, 3), torch.randn(300, 3)
    assert nearest_neighbour_accuracy(distances(a, b), distances(a, a), distances(b, b)).all == pytest.approx(
        0.5, abs=0.06
    )


def test_values_of_a_matrix_by_hand() -> None:
    d = torch.tensor([[1.0, 5.0, 9.0], [2.0, 4.0, 7.0]])  # two samples, three references
    assert minimum_matching_distance(d) == pytest.approx((1 + 4 + 7) / 3)
    assert coverage(d) == pytest.approx(1 / 3)  # both samples are nearest to the first reference
    found = nearest_neighbour_accuracy(d, torch.full((2, 2), 1.5), torch.full((3, 3), 3.0))
    assert found.samples == 0.5  # the second one: 1.5 < 2
    assert found.references == pytest.approx(2 / 3)  # not the first: 1 < 3
    assert found.all == pytest.approx(3 / 5)


def test_one_sample_for_all_covers_one_reference() -> None:
    d = distances(torch.zeros(6, 3), torch.randn(6, 3))
    assert coverage(d) == pytest.approx(1 / 6)


def test_frechet_distance_of_equal_features_is_zero() -> None:
    x = torch.randn(50, 8)
    assert frechet_distance(x, x[torch.randperm(50)]) == pytest.approx(0, abs=1e-10)


def test_frechet_distance_of_a_shift_is_its_square() -> None:
    x, shift = torch.randn(50, 8).double(), torch.randn(8).double()
    assert frechet_distance(x, x + shift) == pytest.approx(float(shift @ shift), rel=1e-9)


@pytest.mark.parametrize("scale", [0.25, 3.0])
def test_frechet_distance_of_a_scale(scale: float) -> None:
    assert frechet_distance(white(100, 6), scale * white(80, 6)) == pytest.approx(6 * (1 - scale) ** 2, rel=1e-9)


def test_frechet_distance_of_covariances_that_do_not_commute() -> None:
    a, b = white(100, 4) @ torch.randn(4, 4).double(), white(100, 4) @ torch.randn(4, 4).double()
    ca, cb = a.T.cov(), b.T.cov()
    eigenvalues = torch.linalg.eigvals(ca @ cb)
    expected = ca.trace() + cb.trace() - 2 * eigenvalues.sqrt().real.sum()
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-9)


def test_fewer_features_than_dimensions_are_taken() -> None:
    assert frechet_distance(torch.randn(3, 64), torch.randn(3, 64)) > 0
    assert frechet_distance(torch.randn(9, 1), torch.randn(9, 1)) >= 0


def test_kernel_distance_by_its_definition() -> None:
    a, b = torch.randn(4, 3).double(), torch.randn(5, 3).double()

    def k(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / 3 + 1) ** 3

    within_a = sum(k(a[i], a[j]) for i in range(4) for j in range(4) if i != j) / 12
    within_b = sum(k(b[i], b[j]) for i in range(5) for j in range(5) if i != j) / 20
    between = sum(k(x, y) for x in a for y in b) / 20
    assert kernel_distance(a, b) == pytest.approx(within_a + within_b - 2 * between)


def test_kernel_distance_is_around_zero_for_equal_distributions() -> None:
    values = torch.tensor([kernel_distance(torch.randn(60, 4), torch.randn(60, 4)) for _ in range(60)])
    assert abs(float(values.mean())) < 3 * float(values.std()) / math.sqrt(60)
    assert kernel_distance(torch.randn(60, 4), torch.randn(60, 4) + 1) > float(values.max())


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.randn(1, 3), torch.randn(5, 3), "^a must have at least two rows"),
        (torch.randn(5, 3), torch.randn(5, 4), "^a and b must have equally many dimensions, got 3 and 4$"),
        (torch.randn(5, 3), torch.full((5, 3), math.nan), "^b must be finite$"),
        (torch.randn(5), torch.randn(5), "^a must be floating-point features"),
    ],
)
def test_features_that_are_none_are_refused(a: Tensor, b: Tensor, message: str) -> None:
    for metric in (frechet_distance, kernel_distance):
        with pytest.raises(ValueError, match=message):
            metric(a, b)


def test_matrices_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^distances must be a floating-point matrix that is not empty"):
        coverage(torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"^distances must not have NaN"):
        minimum_matching_distance(torch.full((2, 2), math.nan))
    with pytest.raises(ValueError, match=r"^references must be \[3, 3\], got \[2, 2\]"):
        nearest_neighbour_accuracy(torch.zeros(2, 3), torch.zeros(2, 2), torch.zeros(2, 2))
