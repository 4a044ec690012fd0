"""How often verdicts are wrong, how often a slowdown is found, and what is refused a verdict."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_models import MODELS, lognormal

from bench import statistics
from bench.verdict import LEVEL, MARGIN, SAMPLES, Judgement, Pair, judge

Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
COMPARISONS = 1000
FAMILY = 20
by_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def family_alarms(base: np.ndarray, head: np.ndarray) -> float:
    """Share of families with any claim that Holm's first step, and so the whole procedure, makes of a difference."""
    p = np.minimum(statistics.p_slower(base, head, MARGIN), statistics.p_faster(base, head, MARGIN))
    return float(np.mean(p.reshape(-1, FAMILY).min(axis=1) <= LEVEL / FAMILY))


@by_model
@pytest.mark.parametrize("count", [10, SAMPLES])
def test_equal_sides_are_called_different_in_at_most_one_comparison_of_a_hundred(
    generator: np.random.Generator, model: Noise, count: int
) -> None:
    base, head = model(generator, (2, COMPARISONS, count))
    alarms = (statistics.p_slower(base, head, MARGIN) <= LEVEL) | (statistics.p_faster(base, head, MARGIN) <= LEVEL)
    assert np.mean(alarms) <= 0.01


@by_model
def test_families_of_equal_sides_hold_a_difference_in_at_most_one_of_a_hundred(
    generator: np.random.Generator, model: Noise
) -> None:
    base, head = model(generator, (2, COMPARISONS * FAMILY, 30))
    assert family_alarms(base, head) <= 0.01


@pytest.mark.parametrize("model", MODELS[:4], ids=lambda model: model.__name__)
def test_a_slowdown_of_exactly_the_margin_is_claimed_at_the_level(generator: np.random.Generator, model: Noise) -> None:
    base, head = model(generator, (2, COMPARISONS, SAMPLES))
    # Three standard deviations of a share of a thousand above the level.
    assert np.mean(statistics.p_slower(base, (1 + MARGIN) * head, MARGIN) <= LEVEL) <= 0.02
    base, head = model(generator, (2, COMPARISONS * FAMILY, 30))
    assert family_alarms(base, (1 + MARGIN) * head) <= 0.02


def test_whole_verdicts_on_equal_sides_are_equivalent_or_inconclusive(generator: np.random.Generator) -> None:
    for model in MODELS:
        base, head = model(generator, (2, 100, SAMPLES))
        verdicts = [judgement.verdict for judgement in judge([Pair(*pair) for pair in zip(base, head, strict=True)])]
        assert set(verdicts) <= {"equivalent", "inconclusive"}


def test_a_slowdown_of_3_percent_at_1_percent_noise_is_found_among_20(generator: np.random.Generator) -> None:
    base, head = lognormal(generator, (2, 2000, SAMPLES))
    assert np.mean(statistics.p_slower(base, 1.03 * head, MARGIN) <= LEVEL / FAMILY) >= 0.95


def test_whole_verdicts_find_a_slowdown_of_3_percent_with_60_samples(generator: np.random.Generator) -> None:
    found = 0
    for base, head in zip(*lognormal(generator, (2, 200, SAMPLES)), strict=True):
        found += judge([Pair(base, 1.03 * head)])[0].verdict == "slower"
    assert found >= 190


def test_equal_sides_are_found_equivalent(generator: np.random.Generator) -> None:
    base, head = lognormal(generator, (2, FAMILY, SAMPLES))
    judgements = judge([Pair(*pair) for pair in zip(base, head, strict=True)])
    assert [judgement.verdict for judgement in judgements] == ["equivalent"] * FAMILY


def only(pair: Pair, margin: float = MARGIN) -> Judgement:
    (judgement,) = judge([pair], margin)
    return judgement


def test_drift_modes_and_throttling_are_inconclusive_however_large_the_ratio(generator: np.random.Generator) -> None:
    steady, other = lognormal(generator, (2, 60))
    drifting = only(Pair(steady, 1.5 * other * np.linspace(1, 1.1, 60)))
    assert drifting.verdict == "inconclusive"
    assert drifting.reason is not None
    assert drifting.reason.startswith("HEAD drifts by +")
    modal = only(Pair(np.where(np.arange(60) % 2, 1.1, 1.0) * steady, 1.5 * other))
    assert modal.reason is not None
    assert modal.reason.startswith("BASE has two modes, ")
    throttled = only(Pair(steady, 1.5 * other, flaw="clocks of HEAD were held back"))
    assert (throttled.verdict, throttled.reason) == ("inconclusive", "clocks of HEAD were held back")


def test_too_few_samples_say_how_many_are_needed() -> None:
    fast, slow = [1.0, 1.001, 1.002, 1.003], [2.0, 2.001, 2.002, 2.003]
    judgement = only(Pair(fast, slow))
    assert judgement.reason == "4 and 4 samples are too few; needs 5 a side in a comparison of this size"
    fast, slow = [*fast, 1.004], [*slow, 2.004]
    assert only(Pair(fast, slow)).verdict == "slower"
    assert {judgement.verdict for judgement in judge([Pair(fast, slow)] * 20)} == {"inconclusive"}
    assert judge([Pair(fast, slow)] * 20)[0].reason == (
        "5 and 5 samples are too few; needs 7 a side in a comparison of this size"
    )


def test_noise_that_hides_the_answer_is_inconclusive(generator: np.random.Generator) -> None:
    base, head = np.exp(0.2 * generator.standard_normal((2, 10)))
    judgement = only(Pair(base, 1.05 * head))
    assert judgement.verdict == "inconclusive"
    assert judgement.reason == "too noisy, or too close to the margin of 0.02"


MIRROR = {"slower": "faster", "faster": "slower", "equivalent": "equivalent", "inconclusive": "inconclusive"}


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.floats(0.9, 1.1), st.integers(3, 40), st.integers(-3, 3))
def test_exchanging_sides_mirrors_the_verdict_and_units_do_not_matter(
    seed: int, factor: float, count: int, power: int
) -> None:
    base, head = lognormal(np.random.default_rng(seed), (2, count))
    there, back = only(Pair(base, factor * head)), only(Pair(factor * head, base))
    assert back.verdict == MIRROR[there.verdict]
    assert back.ratio == pytest.approx(1 / there.ratio)
    assert only(Pair(2.0**power * base, 2.0**power * factor * head)).verdict == there.verdict


def test_what_cannot_be_judged_is_refused() -> None:
    assert judge([]) == []
    with pytest.raises(ValueError, match="margin must be positive, got 0"):
        judge([Pair([1.0], [1.0])], margin=0)
    for wrong in ([], [0.0], [-1.0], [float("nan")], [float("inf")]):
        with pytest.raises(ValueError, match="samples must be positive numbers"):
            judge([Pair([1.0], wrong)])
