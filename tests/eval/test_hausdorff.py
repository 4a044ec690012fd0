"""Hausdorff distance and quantiles beneath it."""

from __future__ import annotations

import pytest
import surfaces
import torch
from oracles import K1, K2, Oracle

from eval.hausdorff import hausdorff


@pytest.mark.parametrize("oracle", [K1, K2], ids=["K1", "K2"])
def test_values_of_reference_implementations(oracle: Oracle) -> None:
    assert hausdorff(*oracle.distances()).distance == pytest.approx(oracle.hausdorff, abs=1e-5)


def test_concentric_spheres_are_their_radii_apart() -> None:
    inner, outer = surfaces.sphere(0.9, 5), surfaces.sphere(1.0, 5)
    found = hausdorff(*surfaces.to_surfaces(inner, outer, 5000))
    assert found.distance == pytest.approx(0.1, rel=1e-2)


def test_one_point_moves_the_maximum_but_not_the_quantiles() -> None:
    distances = torch.full((1000,), 0.5)
    distances[7] = 9
    found = hausdorff(distances, torch.full((10,), 0.25))
    assert (found.pred_to_ref, found.ref_to_pred, found.distance) == (9, 0.25, 9)
    assert found.quantiles == {0.5: 0.5, 0.9: 0.5, 0.95: 0.5, 0.99: 0.5}


@pytest.mark.parametrize(("share", "value"), [(0.01, 1), (0.07, 7), (0.5, 50), (0.501, 51), (0.95, 95), (1.0, 100)])
def test_a_quantile_is_the_least_distance_that_so_many_do_not_exceed(share: float, value: float) -> None:
    distances = torch.arange(1.0, 101)[torch.randperm(100)]
    assert hausdorff(distances, torch.zeros(1), [share]).quantiles[share] == value


@pytest.mark.parametrize("share", [0.0, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"^quantiles must be in \(0, 1\]"):
        hausdorff(torch.ones(1), torch.ones(1), [share])
