"""Series that must not be judged are recognised, steady ones are left alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from noise_models import MODELS, lognormal

from bench.disturbance import disturbance, drift, modes

MARGIN = 0.02


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("count", [20, 60, 200])
@pytest.mark.parametrize("change", [0.05, -0.05])
def test_a_drift_beyond_the_margin_is_found(generator: np.random.Generator, count: int, change: float) -> None:
    trend = np.linspace(1.0, 1.0 + change, count)
    for noise in lognormal(generator, (50, count)):
        assert drift(trend * noise, MARGIN) == pytest.approx(change, abs=0.025)


def test_a_clock_that_falls_in_the_middle_is_found(generator: np.random.Generator) -> None:
    step = np.where(np.arange(60) < 30, 1.0, 1.05)
    for noise in lognormal(generator, (50, 60)):
        assert disturbance(step * noise, MARGIN) is not None


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_two_modes_beyond_the_margin_are_found(generator: np.random.Generator, share: float) -> None:
    found = 0
    for noise in lognormal(generator, (100, 60)):
        found += modes(np.where(generator.random(60) < share, 1.05, 1.0) * noise**0.4, MARGIN) is not None
    assert found >= 97


def test_modes_closer_than_the_margin_are_left_to_the_rank_test() -> None:
    assert modes([1.0, 1.01] * 30, MARGIN) is None
    assert modes([1.0, 1.03] * 30, MARGIN) == pytest.approx(0.03)


def test_outliers_are_no_mode() -> None:
    assert modes([1.0 + 0.0001 * i for i in range(57)] + [1.5] * 3, MARGIN) is None


# Calling a steady series disturbed costs a verdict but never makes one wrong; it must stay rare with enough samples.
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
@pytest.mark.parametrize(("count", "share"), [(20, 0.1), (60, 0.03)])
def test_steady_series_are_seldom_called_disturbed(
    generator: np.random.Generator,
    model: Callable[[np.random.Generator, tuple[int, ...]], np.ndarray],
    count: int,
    share: float,
) -> None:
    found = [disturbance(samples, MARGIN) is not None for samples in model(generator, (300, count))]
    assert np.mean(found) <= share


def test_two_samples_have_no_trend() -> None:
    assert disturbance([1.0, 2.0], MARGIN) is None
    assert disturbance([1.0], MARGIN) is None


def test_equal_samples_are_undisturbed() -> None:
    assert disturbance([1.0] * 40, MARGIN) is None
