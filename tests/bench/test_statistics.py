"""Ratios, intervals and tests against laws that hold for any samples, and against simulated noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from noise_models import lognormal

from bench import statistics

times = st.lists(st.floats(0.01, 100.0), min_size=2, max_size=12)


@given(times, times)
def test_exchanging_the_sides_inverts_the_ratio_and_mirrors_the_tests(base: list[float], head: list[float]) -> None:
    assert statistics.ratio(head, base) == pytest.approx(1 / statistics.ratio(base, head))
    assert statistics.p_slower(base, head, 0.02) == statistics.p_faster(head, base, 0.02)
    assert statistics.p_equivalent(base, head, 0.02) == statistics.p_equivalent(head, base, 0.02)


@given(times, times, st.integers(-4, 4))
def test_the_unit_of_time_does_not_matter(base: list[float], head: list[float], power: int) -> None:
    scaled = [[value * 2.0**power for value in side] for side in (base, head)]
    assert statistics.ratio(*scaled) == pytest.approx(statistics.ratio(base, head))
    assert statistics.p_slower(*scaled, 0.02) == statistics.p_slower(base, head, 0.02)
    assert statistics.p_equivalent(*scaled, 0.02) == statistics.p_equivalent(base, head, 0.02)


@given(times, st.floats(0.1, 10.0))
def test_the_ratio_of_a_set_to_its_multiple_is_the_factor(base: list[float], factor: float) -> None:
    assert statistics.ratio(base, [factor * value for value in base]) == pytest.approx(factor)


def test_one_outlier_leaves_the_ratio_alone() -> None:
    base = np.linspace(1.0, 1.01, 21)
    head = base.copy()
    head[3] = 50.0
    assert statistics.ratio(base, head) == pytest.approx(1.0, abs=0.001)


@pytest.mark.parametrize("count", [20, 150])
def test_the_interval_holds_the_true_ratio_as_often_as_it_says(count: int) -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        low, high = statistics.ratio_interval(
            lognormal(generator, (count,)), 1.03 * lognormal(generator, (count,)), draws=200
        )
        hits += low <= 1.03 <= high
    assert 88 <= hits <= 100


def test_the_interval_is_the_same_every_time() -> None:
    base, head = lognormal(np.random.default_rng(1), (2, 30))
    assert statistics.ratio_interval(base, head) == statistics.ratio_interval(base, head)


def test_the_margin_is_granted_before_the_test() -> None:
    base = np.linspace(1.0, 1.001, 20)
    assert statistics.p_slower(base, 1.019 * base, 0.02) > 0.99
    assert statistics.p_slower(base, 1.03 * base, 0.02) < 1e-6
    assert statistics.p_equivalent(base, 1.03 * base, 0.02) > 0.99
    assert statistics.p_equivalent(base, 1.01 * base, 0.02) < 1e-6


def test_samples_that_are_all_tied_show_nothing() -> None:
    assert statistics.p_slower([1.0] * 30, [1.02] * 30, 0.02) == 1.0
    assert statistics.p_equivalent([1.0] * 30, [1.02] * 30, 0.02) == 1.0


@pytest.mark.parametrize("count", [2, 5, 12])
def test_no_p_value_goes_below_what_the_counts_can_show(count: int) -> None:
    least = 1 / math.comb(2 * count, count)
    assert statistics.least_p(count, count) == pytest.approx(least)
    tied = [1.0] * count
    assert statistics.p_slower(tied, [2.0] * count, 0.02) >= least


def test_the_samples_needed_are_the_fewest_that_reach_the_level() -> None:
    for level in (0.05, 0.01, 0.01 / 20, 0.01 / 500):
        count = statistics.samples_needed(level)
        assert statistics.least_p(count, count) <= level < statistics.least_p(count - 1, count - 1)


def test_holm_on_a_worked_example() -> None:
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0]
    assert statistics.holm([]) == []


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20))
def test_holm_keeps_the_order_and_lies_between_no_correction_and_bonferronis(p: list[float]) -> None:
    corrected = statistics.holm(p)
    for raw, value in zip(p, corrected, strict=True):
        assert raw <= value <= min(1.0, len(p) * raw) + 1e-12
    assert np.all(np.diff(np.array(corrected)[np.argsort(p, kind="stable")]) >= 0)


def test_comparisons_that_can_never_be_certain_do_not_weigh_on_the_others() -> None:
    assert statistics.testable([1e-9, 0.004] + [0.05] * 50, 0.01) == [True, True] + [False] * 50
    assert statistics.testable([0.004] * 20, 0.01) == [False] * 20
    assert statistics.testable([0.004], 0.01) == [True]
    assert statistics.testable([], 0.01) == []


def test_the_centre_is_the_median_of_all_averages_of_two() -> None:
    assert statistics.centre([1.0, 2.0, 9.0]) == pytest.approx(3.5)  # of 1, 1.5, 2, 5, 5.5, 9
    assert statistics.centre([[1.0, 2.0, 9.0], [0.0, 0.0, 0.0]]) == pytest.approx([3.5, 0])


@pytest.mark.parametrize("count", [16, 200])
def test_the_interval_of_the_centre_covers_the_truth_in_95_of_100(count: int) -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for seed, values in enumerate(generator.standard_normal((100, count))):
        low, high = statistics.centre_interval(values, draws=200, seed=seed)
        covered += low <= 0 <= high
    assert 87 <= covered <= 100


def test_the_signed_rank_test_is_exact_and_never_below_what_signs_can_show() -> None:
    rising = np.arange(1.0, 9.0)
    assert statistics.p_above(rising, 0.0) == pytest.approx(1 / 256)
    assert statistics.p_above(rising, 9.0) == 1.0
    assert statistics.p_above([3.0] * 4, 0.0) >= 1 / 16
    assert statistics.p_above([0.0] * 4, 0.0) >= 0.5
