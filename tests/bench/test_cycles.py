"""How often verdicts on interleaved sides are wrong, how often a slowdown is found, and what is refused a verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from noise_models import MODELS, drifting, heavy_tailed, lognormal, throttled, two_modes

from bench.cycles import BASE, CONTROL, HEAD, Series, floors, judge_series
from bench.interleave import ROUNDS, take_turns
from bench.verdict import LEVEL, MARGIN, Judgement

Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
JOBS = 100
SAMPLES_A_ROUND = 3 * (3 + 2 * 3 * 16)  # of calls of 50 ms
by_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)


@dataclass
class Machine:
    """A clock that shows the samples of one noise series after the other, whichever side takes them."""

    noise: np.ndarray
    factors: tuple[float, float, float] = (1.0, 1.0, 1.0)
    taken: int = field(default=0)

    def sampler(self, side: int) -> Callable[[int], list[float]]:
        def sample(count: int) -> list[float]:
            self.taken += count
            return (50 * self.factors[side] * self.noise[self.taken - count : self.taken]).tolist()

        return sample


def job(
    generator: np.random.Generator, model: Noise, slow: float = 1.0, *, measurements: int = 1, process: float = 0.0
) -> tuple[list[Judgement], int]:
    """The last verdicts of a job, and its rounds.

    Args:
        slow: head / base.
        process: standard deviation of the logarithm that every process has for itself.
    """
    series = [Series() for _ in range(measurements)]
    verdicts: list[Judgement] = []
    for number in range(ROUNDS):
        for one, old in zip(series, verdicts or [None] * measurements, strict=True):
            if old is None or old.verdict == "inconclusive":
                own = np.exp(process * generator.standard_normal(3)) * (1.0, slow, 1.0)
                machine = Machine(model(generator, (SAMPLES_A_ROUND,)), tuple(own))
                one.add(take_turns([machine.sampler(side) for side in (BASE, HEAD, CONTROL)], generator))
        verdicts, _ = judge_series(series, verdicts or [None] * measurements, MARGIN, ROUNDS)
        if all(judgement.verdict != "inconclusive" for judgement in verdicts):
            return verdicts, number + 1
    return verdicts, ROUNDS


def share(verdict: str, jobs: list[tuple[list[Judgement], int]]) -> float:
    """Of the jobs with such a verdict on any measurement."""
    return float(np.mean([verdict in {judgement.verdict for judgement in verdicts} for verdicts, _ in jobs]))


def alarms(jobs: list[tuple[list[Judgement], int]]) -> float:
    return share("slower", jobs) + share("faster", jobs)


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@by_model
def test_equal_sides_are_called_different_in_at_most_one_job_of_a_hundred(
    generator: np.random.Generator, model: Noise
) -> None:
    assert alarms([job(generator, model) for _ in range(JOBS)]) <= 0.01


@pytest.mark.parametrize("measurements", [1, 5])
def test_the_floor_holds_the_ratios_of_equal_code_in_99_of_100_jobs(
    generator: np.random.Generator, measurements: int
) -> None:
    level = LEVEL / 2 / ROUNDS / measurements
    beyond, jobs = 0, 1000 // measurements
    for processes in generator.standard_normal((jobs, measurements, ROUNDS, 1, 3)):
        series = [Series(list(rounds)) for rounds in 0.02 * processes]
        looks = [[Series(one.rounds[:count]) for one in series] for count in range(1, ROUNDS + 1)]
        beyond += any(
            not 1 / (1 + floor) <= one.ratio <= 1 + floor
            for look in looks
            for one, floor in zip(look, floors(look, level), strict=True)
        )
    # Three standard deviations of a share above the level.
    assert beyond / jobs <= LEVEL + 3 * np.sqrt(LEVEL / jobs)


@pytest.mark.parametrize(("measurements", "process"), [(1, 0.005), (1, 0.01), (1, 0.03), (5, 0.01)])
def test_what_belongs_to_a_process_for_its_life_is_no_regression(
    generator: np.random.Generator, process: float, measurements: int
) -> None:
    jobs = [job(generator, lognormal, process=process, measurements=measurements) for _ in range(JOBS)]
    assert alarms(jobs) <= 0.01


@by_model
def test_a_slowdown_of_3_percent_at_1_percent_noise_is_found_and_never_mistaken(
    generator: np.random.Generator, model: Noise
) -> None:
    jobs = [job(generator, model, 1.03) for _ in range(JOBS)]
    assert share("slower", jobs) >= (0.8 if model is heavy_tailed else 0.95)  # of infinite variance
    assert share("faster", jobs) == share("equivalent", jobs) == 0


def test_a_slowdown_of_3_percent_is_found_among_five_measurements_of_noisy_processes(
    generator: np.random.Generator,
) -> None:
    jobs = [job(generator, lognormal, 1.03, measurements=5, process=0.002) for _ in range(20)]
    assert np.mean([judgement.verdict == "slower" for verdicts, _ in jobs for judgement in verdicts]) >= 0.95


def test_a_slowdown_of_exactly_the_margin_is_claimed_at_the_level(generator: np.random.Generator) -> None:
    # Three standard deviations of a share of two hundred above the level.
    assert share("slower", [job(generator, lognormal, 1 + MARGIN) for _ in range(200)]) <= LEVEL + 0.02


@pytest.mark.parametrize("model", [drifting, two_modes, throttled], ids=lambda model: model.__name__)
def test_what_the_machine_does_to_both_sides_is_no_difference(generator: np.random.Generator, model: Noise) -> None:
    jobs = [job(generator, model) for _ in range(JOBS)]
    assert alarms(jobs) == 0
    jobs = [job(generator, model, 1.1) for _ in range(JOBS)]
    assert share("faster", jobs) == share("equivalent", jobs) == 0


@pytest.mark.parametrize("slow", [1.0, 1.03])
def test_drift_by_a_tenth_costs_nothing(generator: np.random.Generator, slow: float) -> None:
    jobs = [job(generator, drifting, slow) for _ in range(JOBS)]
    assert share("equivalent" if slow == 1 else "slower", jobs) >= 0.95


def test_more_rounds_are_for_what_is_undecided(generator: np.random.Generator) -> None:
    quiet = [job(generator, lognormal, 1.5, measurements=8)[1] for _ in range(10)]
    noisy = [job(generator, lognormal, 1.0, measurements=8, process=0.05) for _ in range(10)]
    assert set(quiet) == {1}
    assert {rounds for _, rounds in noisy} == {ROUNDS}
    reason = noisy[0][0][0].reason
    assert reason is not None
    assert reason.endswith("in this job, which is above the margin")


def test_a_verdict_stays_and_its_measurement_is_not_judged_again(generator: np.random.Generator) -> None:
    series = []
    for slow in (1.0, 1.5):
        machine = Machine(lognormal(generator, (SAMPLES_A_ROUND,)), (1.0, slow, 1.0))
        series.append(Series())
        series[-1].add(take_turns([machine.sampler(side) for side in range(3)], generator))
    kept = Judgement("faster", 0.5, 0.001)
    judgements, _ = judge_series(series, [kept, None], MARGIN, ROUNDS)
    assert judgements[0] is kept
    assert judgements[1].verdict == "slower"


def test_a_cycle_mirrors_itself_and_its_order_is_drawn(generator: np.random.Generator) -> None:
    visits: list[int] = []

    def sampler(side: int) -> Callable[[int], list[float]]:
        def sample(count: int) -> list[float]:
            visits.append(side)
            return [10.0] * count

        return sample

    cycles = take_turns([sampler(side) for side in range(3)], generator)
    orders = [tuple(visits[start : start + 6]) for start in range(3, len(visits), 6)]
    assert len(orders) == len(cycles)
    assert all(order == order[::-1] and set(order) == {0, 1, 2} for order in orders)
    assert len(set(orders)) == 6


@pytest.mark.parametrize(("ms", "samples", "cycles"), [(0.1, 10, 64), (5.0, 3, 44), (100.0, 3, 16)])
def test_blocks_are_short_and_long_calls_get_fewer_cycles(
    generator: np.random.Generator, ms: float, samples: int, cycles: int
) -> None:
    taken = take_turns([lambda count: [ms] * count] * 3, generator)
    assert len(taken) == cycles
    assert {len(block) for cycle in taken for side in cycle for block in side} == {samples}


def test_only_the_fastest_sample_of_a_block_counts() -> None:
    series = Series()
    series.add([(([1.0, 9.0], [1.0]), ([2.0], [7.0, 2.0]), ([1.0], [1.0]))] * 4)
    assert series.ratio == pytest.approx(2)
    assert series.interval == pytest.approx((2, 2))
    assert series.control_ratios == [0.0]


def test_the_floor_shrinks_with_rounds_and_grows_with_a_measurement_of_its_own() -> None:
    def series(*controls: float) -> Series:
        one = Series()
        for control in controls:
            one.rounds.append(np.tile([0.0, 0.0, control], (4, 1)))
        return one

    alone, more = floors([series(0.01)], 0.01), floors([series(0.01, -0.01, 0.01, -0.01)], 0.01)
    assert alone[0] == pytest.approx(np.expm1(31.82 * 0.01), rel=1e-3)  # Student's t of one degree of freedom
    assert more[0] == pytest.approx(np.expm1(3.747 * 0.01 / 2), rel=1e-3)
    steady, wild = floors([series(0.001, 0.001), series(0.1, 0.1)], 0.01)
    assert wild > steady


def test_what_cannot_be_judged_is_refused() -> None:
    assert judge_series([], [], MARGIN, ROUNDS) == ([], [])
    with pytest.raises(ValueError, match="margin must be positive, got 0"):
        judge_series([Series()], [None], 0, ROUNDS)
