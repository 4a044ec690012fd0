"""Every convention of Chamfer distance, by numbers of reference implementations and by its definition."""

from __future__ import annotations

import math

import pytest
import surfaces
import torch
from oracles import K1, K2, Oracle

from eval.chamfer import chamfer


@pytest.mark.parametrize("oracle", [K1, K2], ids=["K1", "K2"])
def test_values_of_reference_implementations(oracle: Oracle) -> None:
    forward, back = oracle.distances()
    found = chamfer(forward, back)
    assert found.sum_l2sq == pytest.approx(oracle.squared_sum, abs=1e-5)
    assert found.weighted_l2sq(1.3, 0.8) == pytest.approx(oracle.weighted, abs=1e-5)
    assert found.sum_l1 == pytest.approx(oracle.sum, abs=1e-5)
    assert forward.square().tolist() == pytest.approx(oracle.nearest_squared, abs=1e-4)


def test_conventions_of_unequal_sides() -> None:
    found = chamfer(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0, 6.0]))
    assert (found.accuracy, found.completeness) == (2, 4)
    assert found.squared_accuracy == 5
    assert found.squared_completeness == pytest.approx(56 / 3)
    assert found.sum_l1 == 6
    assert found.mean_l1 == 3
    assert found.max_l1 == 4
    assert found.sum_l2sq == pytest.approx(5 + 56 / 3)
    assert found.mean_l2sq == pytest.approx((5 + 56 / 3) / 2)
    assert found.sum_l2 == pytest.approx(math.sqrt(5) + math.sqrt(56 / 3))
    assert found.mean_l2 == pytest.approx((math.sqrt(5) + math.sqrt(56 / 3)) / 2)


def test_concentric_spheres_are_their_radii_apart() -> None:
    inner, outer = surfaces.sphere(0.9, 5), surfaces.sphere(1.0, 5)
    found = chamfer(*surfaces.to_surfaces(inner, outer, 5000))
    assert found.accuracy == pytest.approx(0.1, rel=5e-3)
    assert found.completeness == pytest.approx(0.1, rel=5e-3)
    assert found.mean_l2sq == pytest.approx(0.01, rel=1e-2)


def test_between_points_the_spacing_of_samples_is_added() -> None:
    """With 200,000 points it is 9e-5, by numpy and scipy; it grows with the square of the spacing."""
    found = chamfer(*surfaces.between_points(surfaces.sphere(0.9, 5), surfaces.sphere(1.0, 5), 50_000))
    assert found.accuracy == pytest.approx(0.1 + 4 * 9e-5, abs=1e-4)
    assert found.squared_accuracy == pytest.approx(0.01 + 4 * 1.8e-5, abs=3e-5)


def test_distances_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^ref_to_pred must be finite and not negative$"):
        chamfer(torch.ones(2), torch.tensor([math.nan]))
