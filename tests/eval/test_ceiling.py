"""The sampling law: what two samples of one surface score is what the formula says."""

from __future__ import annotations

import math

import pytest
import surfaces

from eval.ceiling import SamplingCeiling, samples_needed
from eval.chamfer import chamfer
from eval.fscore import fscores

CUBE = surfaces.box(2, 2, 2)


def test_two_samples_of_a_cube_follow_the_law() -> None:
    distances = surfaces.between_points(CUBE, CUBE, 100_000)
    ceiling = SamplingCeiling(CUBE.area, 100_000, 100_000)
    found = chamfer(*distances)
    for value, expected in ((found.accuracy, ceiling.accuracy), (found.completeness, ceiling.completeness)):
        assert value == pytest.approx(expected, rel=0.01)
    for value, expected in (
        (found.squared_accuracy, ceiling.squared_accuracy),
        (found.squared_completeness, ceiling.squared_completeness),
    ):
        assert value == pytest.approx(expected, rel=0.02)
    for score in fscores(*distances, [0.001, 0.005, 0.01, 0.02]):
        expected = ceiling.fscore(score.threshold)
        spread = math.sqrt(expected * (1 - expected) / 100_000)
        assert score.fscore == pytest.approx(expected, abs=5 * spread)


def test_the_laws_numbers() -> None:
    ceiling = SamplingCeiling(24, 100_000, 100_000)
    assert ceiling.accuracy == pytest.approx(0.00775, abs=1e-5)
    assert ceiling.squared_accuracy == pytest.approx(7.64e-5, abs=1e-7)
    assert ceiling.fscore(0.001) == pytest.approx(0.0130, abs=1e-4)
    assert SamplingCeiling(24, 10**6, 10**6).fscore(0.001) == pytest.approx(0.123, abs=1e-3)
    assert samples_needed(24, 0.001) == pytest.approx(35e6, rel=0.01)


def test_each_side_has_the_spacing_of_the_other() -> None:
    ceiling = SamplingCeiling(24, pred_count=1000, ref_count=4000)
    assert ceiling.completeness == pytest.approx(2 * ceiling.accuracy)
    assert ceiling.squared_completeness == pytest.approx(4 * ceiling.squared_accuracy)
    distances = surfaces.between_points(CUBE, CUBE, 1000)
    assert chamfer(*distances).accuracy == pytest.approx(ceiling.completeness, rel=0.1)


def test_so_many_samples_reach_the_score() -> None:
    count = samples_needed(24, 0.01, 0.9)
    assert SamplingCeiling(24, count, count).fscore(0.01) == pytest.approx(0.9, abs=1e-4)


def test_point_to_surface_has_no_such_ceiling() -> None:
    forward, back = surfaces.to_surfaces(CUBE, CUBE, 2000)
    assert fscores(forward, back, [1e-9])[0].fscore == 1


@pytest.mark.parametrize(("area", "count", "message"), [(0, 1, "area"), (math.nan, 1, "area"), (1, 0, "pred_count")])
def test_what_is_no_sample_is_refused(area: float, count: int, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message} must be positive"):
        SamplingCeiling(area, count, 1)
