"""Earth mover's distance: exact where it can be known, and bounds that hold elsewhere."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from eval import emd
from eval.emd import auction_bounds, earth_mover


def test_the_best_of_all_matchings() -> None:
    pred, ref = torch.randn(6, 3), torch.randn(6, 3)
    cost = torch.cdist(pred.double(), ref.double())
    best = min(float(cost[range(6), p].mean()) for p in itertools.permutations(range(6)))
    found = earth_mover(pred, ref)
    assert found.exact
    assert found.distance == pytest.approx(best, rel=1e-9)


def test_a_copy_moved_by_less_than_half_the_spacing_costs_the_move() -> None:
    grid = torch.cartesian_prod(*[torch.arange(6.0)] * 3)
    move = torch.tensor([0.2, -0.1, 0.3])
    shuffled = grid[torch.randperm(len(grid))] + move
    assert earth_mover(grid, shuffled).distance == pytest.approx(float(move.norm()), rel=1e-6)


@pytest.mark.parametrize("gap", [0.1, 0.01, 1e-3])
def test_the_auctions_bounds_hold_the_optimum_and_close_in_on_it(gap: float) -> None:
    pred, ref = torch.randn(400, 3), torch.rand(400, 3)
    bounds = auction_bounds(pred, ref, gap)
    optimum = earth_mover(pred, ref).distance
    assert bounds.lower <= optimum * (1 + 1e-12)
    assert optimum <= bounds.upper * (1 + 1e-12)
    assert bounds.upper - bounds.lower <= gap * bounds.upper
    assert bounds.lower <= bounds.distance <= bounds.upper


@pytest.mark.parametrize("points", [torch.zeros(5, 3), torch.ones(1, 3), torch.arange(30.0).view(10, 3)])
def test_a_set_is_at_no_distance_from_itself(points: torch.Tensor) -> None:
    assert earth_mover(points, points.flip(0)).distance == 0
    assert auction_bounds(points, points.flip(0)).upper == pytest.approx(0, abs=1e-8)


def test_one_point() -> None:
    assert auction_bounds(torch.zeros(1, 3), torch.ones(1, 3)).upper == pytest.approx(math.sqrt(3))


def test_large_sets_get_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emd, "EXACT_LIMIT", 50)
    pred, ref = torch.randn(60, 3), torch.randn(60, 3)
    assert not earth_mover(pred, ref).exact
    assert earth_mover(pred, ref) == auction_bounds(pred, ref)


@pytest.mark.parametrize(
    ("pred", "ref", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 3), "^pred and ref must have equally many points, got 2 and 3$"),
        (torch.zeros(0, 3), torch.zeros(0, 3), "^pred must have at least one point"),
        (torch.zeros(1, 3), torch.full((1, 3), math.nan), "^ref must be finite"),
    ],
)
def test_what_cannot_be_matched_is_refused(pred: torch.Tensor, ref: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        earth_mover(pred, ref)
    with pytest.raises(ValueError, match=message):
        auction_bounds(pred, ref)
