"""What counts as a regression between two sets of records, and what cannot be compared."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from noise_models import lognormal
from records_factory import CPU, GPU, SHAPE, correctness, missing, timed, workload

from bench.compare import Comparison, Entry, compare
from bench.noise import NoiseFloor, calibrate, read_noise, write_noise
from bench.pairing import labels
from bench.records import Conditions, Record, Sampling

PROVIDERS = ("ssa-triton", "dense-sdpa-flash")
FLOOR = NoiseFloor(margin=0.005, fingerprint=GPU.fingerprint, pairs=20, left_out=0, between_runs=True)


def run(seed: int, factor: float = 1.0, tokens: tuple[int, ...] = (8192, 16384), **changes: Any) -> list[Record]:
    """A speed run of 60 samples a measurement at 1 % noise; the first provider takes `factor` times as long."""
    generator = np.random.default_rng(seed)
    return [
        sampled((factor if provider == PROVIDERS[0] else 1.0) * lognormal(generator, (60,)), provider, count, **changes)
        for provider in PROVIDERS
        for count in tokens
    ]


def sampled(samples: np.ndarray, provider: str = PROVIDERS[0], tokens: int = 8192, **changes: Any) -> Record:
    return timed(provider, tokens, "fwd", float(np.median(samples)), samples_ms=samples.tolist(), **changes)


def one(base: Record, head: Record) -> Entry:
    (entry,) = compare([base], [head]).entries
    return entry


def outcomes(comparison: Comparison) -> list[str]:
    return [entry.outcome for entry in comparison.entries]


@pytest.fixture
def steady() -> np.ndarray:
    return lognormal(np.random.default_rng(7), (60,))


def test_equal_runs_have_no_regression() -> None:
    comparison = compare(run(1), run(2))
    assert outcomes(comparison) == ["equivalent"] * 4
    assert not comparison.failed
    assert comparison.geometric_mean == pytest.approx(1.0, abs=0.005)


def test_a_slowdown_of_one_provider_is_its_regression_alone() -> None:
    comparison = compare(run(1), run(2, factor=1.05), noise=FLOOR)
    assert outcomes(comparison) == ["slower", "slower", "equivalent", "equivalent"]
    assert comparison.failed
    entry = comparison.regressed[0]
    assert entry.interval is not None
    low, high = entry.interval
    assert low < 1.05 < high
    assert entry.regressions[0].startswith("takes 1.05")
    faster = compare(run(2, factor=1.05), run(1), noise=FLOOR)
    assert outcomes(faster) == ["faster", "faster", "equivalent", "equivalent"]
    assert not faster.failed


def test_without_a_noise_floor_a_slowdown_is_seen_but_fails_nothing() -> None:
    comparison = compare(run(1), run(2, factor=1.05))
    assert outcomes(comparison) == ["slower", "slower", "equivalent", "equivalent"]
    assert not comparison.failed
    assert comparison.entries[0].remarks[0].startswith("takes 1.05")


def test_of_repeated_measurements_the_newest_counts_wherever_it_stands() -> None:
    old = run(3, factor=2.0, created=datetime(2025, 1, 1, tzinfo=UTC))
    for head in (run(2) + old, old + run(2)):
        assert outcomes(compare(run(1), head)) == ["equivalent"] * 4


def test_different_environments_are_refused_with_the_fields_that_differ() -> None:
    other = GPU.model_copy(update={"driver": "580.1", "torch": "2.13.0", "fingerprint": "ffffffffffff"})
    with pytest.raises(ValueError, match=r"\(driver 570\.86\.15 and 580\.1; torch 2\.9\.1 and 2\.13\.0\)"):
        compare(run(1), run(2, environment=other))
    hidden = GPU.model_copy(update={"fingerprint": "ffffffffffff"})
    with pytest.raises(ValueError, match="fingerprint a1b2c3d4e5f6 and ffffffffffff"):
        compare(run(1), run(2, environment=hidden))
    threads = CPU.model_copy(update={"threads": 4, "fingerprint": "ffffffffffff"})
    with pytest.raises(ValueError, match="threads 2 and 4"):
        compare(run(1, environment=CPU), run(2, environment=threads))
    with pytest.raises(ValueError, match="HEAD holds records of several machines or installations: a1b2"):
        compare(run(1), run(2) + run(3, tokens=(100,), environment=other))


def test_across_machines_nothing_fails() -> None:
    other = GPU.model_copy(update={"driver": "580.1", "fingerprint": "ffffffffffff"})
    comparison = compare(run(1), run(2, factor=1.5, environment=other), across_machines=True)
    assert comparison.differences == ("driver 570.86.15 and 580.1",)
    assert comparison.entries[0].outcome == "slower"
    assert not comparison.failed
    # One machine is gated all the same.
    assert compare(run(1), run(2, factor=1.5), across_machines=True, noise=FLOOR).failed


@pytest.mark.parametrize(
    "change",
    [
        {"provider": "dense-sdpa-flash"},
        {"stage": "cmp"},
        {"direction": "bwd"},
        {"workload": workload(8192, seed=1)},
        {"workload": workload(8192, inputs="captured:abc")},
        {"shape": SHAPE.model_copy(update={"topk": 4})},
    ],
)
def test_only_the_same_measurement_is_a_counterpart(steady: np.ndarray, change: dict[str, Any]) -> None:
    base = sampled(steady)
    with pytest.raises(ValueError, match="no measurement is in both"):
        compare([base], [base.model_copy(update=change)])


def test_what_is_on_one_side_only_is_listed_and_fails_if_it_was_lost() -> None:
    comparison = compare(run(1), run(2)[1:] + run(3, tokens=(32768,)))
    assert outcomes(comparison) == ["missing", "equivalent", "equivalent", "equivalent", "new", "new"]
    assert [entry.regressions for entry in comparison.regressed] == [("was not measured in HEAD",)]


@pytest.mark.parametrize("status", ["unavailable", "out_of_memory", "error", "failed_check"])
def test_a_measurement_that_no_longer_succeeds_is_a_regression(steady: np.ndarray, status: str) -> None:
    entry = one(sampled(steady), missing(PROVIDERS[0], 8192, "fwd", status, "because"))
    assert entry.outcome == status.replace("_", " ")
    assert entry.regressions
    assert entry.regressions[0].endswith(": because")


def test_what_never_worked_is_no_regression_but_a_newly_failing_check_is(steady: np.ndarray) -> None:
    def pair(base: str, head: str) -> Comparison:
        sides = [missing("broken", 8192, "fwd", status, "because") for status in (base, head)]
        return compare([sampled(steady), sides[0]], [sampled(steady), sides[1]])

    assert not pair("failed_check", "failed_check").regressed
    assert not pair("failed_check", "error").regressed
    assert outcomes(pair("unavailable", "unavailable")) == ["equivalent"]
    assert pair("unavailable", "failed_check").regressed


def test_memory_beyond_its_margin_is_a_regression(steady: np.ndarray) -> None:
    base = sampled(steady, peak_memory_bytes=100 * 2**20)
    grown = base.model_copy(update={"peak_memory_bytes": 110 * 2**20})
    assert one(base, grown).regressions == ("peak memory grows from 100.0 to 110.0 MiB",)
    assert not one(base, base.model_copy(update={"peak_memory_bytes": 104 * 2**20})).regressions
    assert not one(grown, base).regressions
    assert not one(base, base.model_copy(update={"peak_memory_bytes": None})).regressions
    assert not compare([base], [grown], memory_margin=0.2).failed
    small = base.model_copy(update={"peak_memory_bytes": 1000})
    assert not one(small, small.model_copy(update={"peak_memory_bytes": 10_000})).regressions
    with pytest.raises(ValueError, match="memory margin must be positive"):
        compare([base], [grown], memory_margin=0)


def test_an_error_that_grows_within_its_budget_is_a_remark(steady: np.ndarray) -> None:
    base = sampled(steady, correctness=correctness(0.001))
    entry = one(base, sampled(steady, correctness=correctness(0.0025)))
    assert not entry.regressions
    assert entry.remarks[-1] == "error of dq grows from 1.00e-03 to 2.50e-03 (budget 5.00e-03)"
    assert not one(base, sampled(steady, correctness=correctness(0.0019))).remarks
    tiny = sampled(steady, correctness=correctness(1e-9))
    assert not one(tiny, sampled(steady, correctness=correctness(1e-6))).remarks


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"throttle_reasons": ["gpu_idle", "sw_power_cap"]}, "the clocks of HEAD were held back by sw_power_cap"),
        ({"power_limit_w": 500.0}, "power limits differ: 700 and 500 W"),
    ],
)
def test_throttled_clocks_are_inconclusive(steady: np.ndarray, change: dict[str, Any], reason: str) -> None:
    entry = one(sampled(steady), sampled(2 * steady, environment=GPU.model_copy(update=change)))
    assert (entry.outcome, entry.remarks, entry.regressions) == ("inconclusive", (reason,), ())
    idle = GPU.model_copy(update={"throttle_reasons": ["gpu_idle"]})
    assert one(sampled(steady), sampled(2 * steady, environment=idle)).outcome == "slower"


def test_samples_kept_though_the_clock_was_held_back_are_inconclusive(steady: np.ndarray) -> None:
    discards = {"sw_power_cap": 5}
    kept = Sampling(blocks=[20, 20, 20], conditions=Conditions(), discarded=discards, disturbed=12)
    entry = one(sampled(steady), sampled(2 * steady, sampling=kept))
    assert (entry.outcome, entry.regressions) == ("inconclusive", ())
    assert entry.remarks == ("the clocks of HEAD were held back during 12 of 60 samples",)
    discarded = kept.model_copy(update={"disturbed": 0})
    assert one(sampled(steady), sampled(2 * steady, sampling=discarded)).outcome == "slower"


def test_labels_tell_apart_what_differs_and_nothing_else() -> None:
    records = [timed("ssa-triton", 8192, "fwd", 1.0), timed("ssa-triton", 8192, "bwd", 1.0, stage="cmp")]
    keys = [entry.measured for entry in compare(records, records).entries]
    assert labels(keys) == ["ssa-triton fwd, gyroid, 8,192 tokens", "ssa-triton cmp bwd, gyroid, 8,192 tokens"]
    records.append(timed("ssa-triton", 8192, "fwd", 1.0, shape=SHAPE.model_copy(update={"compression_block": 8})))
    keys = [entry.measured for entry in compare(records, records).entries]
    assert labels(keys)[2] == "ssa-triton fwd, gyroid, 8,192 tokens, compression block 8"
    assert len({key.name for key in keys}) == 3
    assert labels([]) == []


class TestNoise:
    """Calibration by runs of one commit."""

    SIZES = tuple(range(1000, 11000, 1000))

    def runs(self, *factors: float, **changes: Any) -> list[list[Record]]:
        return [run(seed, factor, self.SIZES, **changes) for seed, factor in enumerate(factors)]

    def test_the_floor_of_runs_that_differ_by_chance_is_that_of_the_medians(self) -> None:
        floor = calibrate(self.runs(1.0, 1.0, 1.0))
        assert (floor.pairs + floor.left_out, floor.between_runs) == (60, True)
        assert floor.fingerprint == GPU.fingerprint
        assert 0.002 < floor.margin < 0.01

    def test_what_differs_between_runs_raises_the_floor(self) -> None:
        assert calibrate(self.runs(1.0, 1.04)).margin == pytest.approx(0.04, abs=0.01)
        assert calibrate(self.runs(1.0, 1 / 1.04)).margin == pytest.approx(0.04, abs=0.01)

    def test_one_run_is_halved(self) -> None:
        floor = calibrate(self.runs(1.0))
        assert (floor.pairs + floor.left_out, floor.between_runs) == (20, False)
        assert 0.002 < floor.margin < 0.015

    def test_runs_of_different_code_or_machines_are_refused(self) -> None:
        other = GPU.model_copy(update={"git_commit": "f" * 40})
        with pytest.raises(ValueError, match="different commits"):
            calibrate(self.runs(1.0) + self.runs(1.0, environment=other))
        with pytest.raises(ValueError, match="different environments: device"):
            calibrate(self.runs(1.0) + self.runs(1.0, environment=CPU))

    def test_few_pairs_are_refused(self) -> None:
        with pytest.raises(ValueError, match="8 undisturbed pairs are too few for a noise floor; needs 20"):
            calibrate([run(1, tokens=(8, 16, 32, 64)), run(2, tokens=(8, 16, 32, 64))])

    def test_disturbed_pairs_are_left_out(self) -> None:
        first, second = self.runs(1.0, 1.0)
        drifting = np.linspace(1.0, 3.0, 60)
        second.append(sampled(drifting, tokens=5))
        first.append(sampled(drifting, tokens=5))
        floor = calibrate([first, second])
        assert floor.left_out >= 1
        assert floor.margin < 0.01

    def test_a_margin_below_the_floor_is_refused(self) -> None:
        floor = NoiseFloor(margin=0.0312, fingerprint=GPU.fingerprint, pairs=40, left_out=0, between_runs=True)
        with pytest.raises(ValueError, match=r"2\.00% is below the noise floor .* 3\.12%; use --margin 3\.2 "):
            compare(run(1), run(2), noise=floor)
        assert compare(run(1), run(2, 1.1), margin=0.032, noise=floor).failed
        foreign = floor.model_copy(update={"fingerprint": "ffffffffffff"})
        with pytest.raises(ValueError, match="the noise floor is of environment ffffffffffff"):
            compare(run(1), run(2), margin=0.05, noise=foreign)

    def test_the_file_is_read_back(self, tmp_path: Any) -> None:
        floor = calibrate(self.runs(1.0, 1.0))
        write_noise(tmp_path / "noise.json", floor)
        assert read_noise(tmp_path / "noise.json") == floor
        (tmp_path / "noise.json").write_text("{}")
        with pytest.raises(ValueError, match="is no noise floor"):
            read_noise(tmp_path / "noise.json")
