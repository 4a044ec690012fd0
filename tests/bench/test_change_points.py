"""Change points by simulation: seldom where nothing happened, nearly always where something did, and where it did."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from bench.change_points import MIN_POINTS, ChangePoint, find_changes

Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]
NOISE: dict[str, Draw] = {  # all of standard deviation 1, but for the outliers
    "normal": lambda rng, n: rng.normal(size=n),
    "student": lambda rng, n: rng.standard_t(3, size=n) / np.sqrt(3),
    "outliers": lambda rng, n: rng.normal(size=n) * np.where(rng.random(n) < 0.1, 6, 1),
}
SERIES = 400


def series(noise: str, *levels: tuple[int, float], count: int = SERIES, percent: float = 1.0) -> list[list[float]]:
    """Series around levels, each given by its number of points and milliseconds, with multiplicative noise."""
    rng = np.random.default_rng(7)
    level = np.repeat([ms for _, ms in levels], [points for points, _ in levels])
    return [(level * np.exp(percent / 100 * NOISE[noise](rng, len(level)))).tolist() for _ in range(count)]


def near(point: ChangePoint, index: int) -> bool:
    return abs(point.index - index) <= 1


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("points", [MIN_POINTS, 15, 30])
def test_at_most_one_constant_series_in_a_hundred_has_a_change(noise: str, points: int) -> None:
    found = [find_changes(times) for times in series(noise, (points, 2.0))]
    assert sum(bool(changes.points or changes.drifts) for changes in found) <= 0.01 * SERIES


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("ratio", [1.05, 1 / 1.05])
def test_a_step_of_five_percent_is_found_where_it_is(noise: str, ratio: float) -> None:
    found = [find_changes(times).points for times in series(noise, (15, 2.0), (15, 2.0 * ratio))]
    assert sum(bool(points) for points in found) >= 0.95 * SERIES
    assert sum(len(points) == 1 and near(points[0], 15) for points in found) >= 0.9 * SERIES


def test_the_interval_holds_the_ratio_about_as_often_as_it_says() -> None:
    found = [find_changes(times).points for times in series("normal", (15, 2.0), (15, 2.1))]
    holds = [point.low <= 1.05 <= point.high for points in found for point in points]
    assert 0.92 <= np.mean(holds) <= 0.98
    assert all(point.low <= point.ratio <= point.high for points in found for point in points)


@pytest.mark.parametrize(
    ("levels", "share"),
    [
        (((10, 2.0), (10, 2.1), (10, 2.0)), 0.9),  # a regression, then its repair
        (((10, 2.0), (10, 2.1), (10, 1.9)), 0.95),
        (((10, 2.0), (10, 2.2), (10, 2.4)), 0.9),  # twice slower
    ],
)
def test_two_steps_are_both_found(levels: tuple[tuple[int, float], ...], share: float) -> None:
    found = [find_changes(times).points for times in series("normal", *levels)]
    both = [len(points) == 2 and near(points[0], 10) and near(points[1], 20) for points in found]
    assert sum(both) >= share * SERIES


def test_a_regression_is_seen_after_four_runs() -> None:
    found = [find_changes(times).points for times in series("normal", (26, 2.0), (4, 2.1))]
    assert sum(len(points) == 1 and near(points[0], 26) for points in found) >= 0.95 * SERIES


@pytest.mark.parametrize("at", [0, 15, 29])
@pytest.mark.parametrize("factor", [0.5, 1.1, 20.0])
def test_a_single_outlier_is_no_change(at: int, factor: float) -> None:
    found = []
    for times in series("normal", (30, 2.0), count=100):
        times[at] *= factor
        found.append(find_changes(times))
    assert sum(bool(changes.points or changes.drifts) for changes in found) <= 1


@pytest.mark.parametrize("percent", [2, 5, 10, 20, 50])
def test_a_slow_drift_is_not_many_steps(percent: int) -> None:
    drift = np.linspace(1, 1 + percent / 100, 30)
    found = [find_changes((drift * times).tolist()) for times in series("normal", (30, 2.0))]
    assert sum(len(changes.points) > 1 for changes in found) <= 0.03 * SERIES
    if percent >= 10:
        ratios = [changes.drifts[0].ratio for changes in found if len(changes.drifts) == 1 and not changes.points]
        assert len(ratios) >= 0.97 * SERIES
        assert np.median(ratios) == pytest.approx(1 + percent / 100, rel=0.01)


def test_a_step_after_a_drift_counts_from_where_the_drift_had_come() -> None:
    drift = np.concatenate([np.linspace(1, 1.3, 30), np.full(15, 1.5)])
    found = [find_changes((drift * times).tolist()) for times in series("normal", (45, 2.0), count=50)]
    assert all(len(changes.points) == len(changes.drifts) == 1 for changes in found)
    assert np.median([changes.points[0].ratio for changes in found]) == pytest.approx(1.5 / 1.3, rel=0.01)
    assert {changes.points[0].index for changes in found} <= {28, 29, 30, 31}


def test_a_series_too_short_says_so() -> None:
    changes = find_changes([1.0] * 3 + [2.0] * (MIN_POINTS - 4))
    assert not changes.points
    assert changes.note == "too short: 7 of 8 points"
    assert find_changes([1.0] * 4 + [2.0] * (MIN_POINTS - 4)).points
    assert find_changes([]).note is not None


def test_times_that_agree_exactly_or_nearly_have_no_change() -> None:
    assert find_changes([2.0] * 30) == find_changes([3.0] * 30)
    assert not find_changes([2.0] * 15 + [2.002] * 15).points  # 0.1 %
    (point,) = find_changes([2.0] * 15 + [2.1] * 15).points
    assert (point.index, point.ratio, point.low, point.high) == (15, *[pytest.approx(1.05)] * 3)


def test_the_same_series_always_gives_the_same_and_the_unit_does_not_matter() -> None:
    (times,) = series("student", (15, 2.0), (15, 2.1), count=1)
    assert find_changes(times) == find_changes(times)
    (point,), (scaled,) = find_changes(times).points, find_changes([1000 * time for time in times]).points
    assert scaled.index == point.index
    assert scaled.ratio == pytest.approx(point.ratio)


def test_a_clearer_change_has_a_higher_score() -> None:
    (small,), (large,) = (find_changes(series("normal", (15, 2.0), (15, ms), count=1)[0]).points for ms in (2.08, 2.2))
    assert 1 <= small.score < large.score


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_times_must_be_positive(wrong: float) -> None:
    with pytest.raises(ValueError, match="times must be positive"):
        find_changes([1.0] * 10 + [wrong])
