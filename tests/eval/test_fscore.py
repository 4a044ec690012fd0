"""F-scores by numbers of reference implementations, on both sides of a threshold."""

from __future__ import annotations

import math

import pytest
import torch
from oracles import K1
from torch import Tensor

from eval.fscore import FScore, fscores, kaolin_fscore
from eval.nearest import nearest_point

K3_REF = [[8.8977, 4.1709, 1.2839], [8.5640, 7.7767, 9.4214]]
K3_PRED = [[9.4863, 4.2249, 0.1712], [8.1783, 8.5310, 8.5119]]


def both_ways(pred: list[list[float]], ref: list[list[float]]) -> tuple[Tensor, Tensor]:
    a, b = torch.tensor(pred), torch.tensor(ref)
    return nearest_point(a, b).distance, nearest_point(b, a).distance


def on_x(*values: float) -> list[list[float]]:
    return [[x, 0.0, 0.0] for x in values]


def test_values_of_open3d() -> None:
    found = fscores(*K1.distances(), [3, 5, 7], strict=True)
    assert [100 * f.fscore for f in found] == pytest.approx([0, 50, 66.6667], abs=1e-4)


@pytest.mark.parametrize(("radius", "expected"), [(1.0, 0.0), (1.5, 1.0)])
def test_values_of_kaolin(radius: float, expected: float) -> None:
    distances = both_ways(K3_PRED, K3_REF)
    assert fscores(*distances, [radius])[0].fscore == expected
    assert kaolin_fscore(*distances, radius) == expected


def test_kaolins_recall_is_not_that_of_the_reference() -> None:
    distances = both_ways(on_x(0, 0, 1, 1), on_x(0, 1, 2, 3))
    (found,) = fscores(*distances, [0.1])
    assert (found.precision, found.recall) == (1, 0.5)
    assert found.fscore == pytest.approx(0.6667, abs=1e-4)
    assert kaolin_fscore(*distances, 0.1) == pytest.approx(0.8)


def test_a_distance_at_the_threshold_counts_unless_strict() -> None:
    distances = both_ways(on_x(0), on_x(1))
    assert fscores(*distances, [1.0])[0].fscore == 1
    assert fscores(*distances, [1.0], strict=True)[0].fscore == 0


def test_precision_is_of_the_prediction_and_recall_of_the_reference() -> None:
    (found,) = fscores(*both_ways(on_x(0, 5, 6, 7), on_x(0)), [0.5])
    assert found == FScore(0.5, precision=0.25, recall=1.0)
    assert found.fscore == pytest.approx(0.4)


def test_swapping_the_sides_swaps_precision_and_recall() -> None:
    forward, back = torch.rand(50), torch.rand(70)
    (one,), (other,) = fscores(forward, back, [0.4]), fscores(back, forward, [0.4])
    assert (one.precision, one.recall) == (other.recall, other.precision)
    assert one.fscore == other.fscore


@pytest.mark.parametrize("thresholds", [[], [0.0], [0.1, -1.0], [math.nan], [math.inf]])
def test_thresholds_that_are_none_are_refused(thresholds: list[float]) -> None:
    with pytest.raises(ValueError, match=r"^thresholds must be positive and finite, at least one"):
        fscores(torch.ones(1), torch.ones(1), thresholds)
