"""Sampling on a clock that the test controls."""

from __future__ import annotations

import functools
import math
import time
import weakref
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from bench import clocks, timing
from bench.conditions import Condition, monitor


class FakeClock:
    """perf_counter that advances only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    fake = FakeClock()
    monkeypatch.setattr(clocks, "perf_counter", fake)
    return fake


@pytest.fixture(autouse=True)
def conditions(monkeypatch: pytest.MonkeyPatch) -> list[Condition]:
    """What the device tells after one sample after another; at the end, and by default, nothing."""
    readings: list[Condition] = []
    monkeypatch.setattr(timing, "monitor", lambda device: lambda: readings.pop(0) if readings else Condition())
    monkeypatch.setattr(timing, "_RECOVERY_S", 0.0)
    return readings


def alternating(*durations: float) -> Iterator[float]:
    while True:
        yield from durations


def test_samples_are_the_durations_of_the_calls_in_milliseconds(clock: FakeClock) -> None:
    samples = timing.measure(lambda: clock.sleep(0.25), "cpu").samples_ms
    assert samples == pytest.approx([250.0] * 5)


def test_a_steady_call_is_sampled_the_minimum_of_times(clock: FakeClock) -> None:
    assert len(timing.measure(lambda: clock.sleep(0.001), "cpu", min_samples=7).samples_ms) == 7


def test_an_unsteady_call_is_sampled_until_the_time_is_up(clock: FakeClock) -> None:
    durations = alternating(0.1, 0.2, 0.3)
    samples = timing.measure(lambda: clock.sleep(next(durations)), "cpu", max_seconds=3.0).samples_ms
    assert sum(samples) / 1e3 == pytest.approx(3.0, abs=0.3)


def test_an_unsteady_call_gets_more_samples_than_a_steady_one_within_the_same_time(clock: FakeClock) -> None:
    durations = alternating(0.0010, 0.0011)
    unsteady = timing.measure(lambda: clock.sleep(next(durations)), "cpu", max_seconds=10.0).samples_ms
    assert 5 < len(unsteady) < 1000
    assert timing.relative_error(unsteady[:-1]) < 0.005  # then comes the last one


def test_a_call_slower_than_the_time_is_still_sampled_the_minimum_of_times(clock: FakeClock) -> None:
    durations = alternating(10.0, 20.0)
    assert len(timing.measure(lambda: clock.sleep(next(durations)), "cpu", max_seconds=1.0).samples_ms) == 5


def test_the_first_call_is_not_a_sample(clock: FakeClock) -> None:
    durations = iter([99.0, *[1.0] * 5])
    series = timing.measure(lambda: clock.sleep(next(durations)), "cpu")
    assert series.samples_ms == pytest.approx([1000.0] * 5)


def test_what_runs_before_a_sample_is_not_timed(clock: FakeClock) -> None:
    samples = timing.measure(
        lambda: clock.sleep(1.0), "cpu", before=lambda: clock.sleep(50.0), max_seconds=1e6
    ).samples_ms
    assert samples == pytest.approx([1000.0] * 5)


class TestBlocks:
    """Sampling in blocks, each with a call of its own."""

    def test_every_block_has_its_own_call_and_its_part_of_the_samples(self, clock: FakeClock) -> None:
        calls = [functools.partial(clock.sleep, seconds) for seconds in (0.001, 0.002, 0.004)]
        series = timing.measure_blocks(calls, 3, "cpu", min_samples=6, max_seconds=0.0)
        assert series.blocks == [2, 2, 2]
        assert series.samples_ms == pytest.approx([1, 1, 2, 2, 4, 4])

    def test_a_call_is_released_before_the_next_one_is_made(self, clock: FakeClock) -> None:
        class Call:
            def __call__(self) -> None:
                clock.sleep(1.0)

        alive: list[bool] = []
        made: list[weakref.ref[Call]] = []

        def calls() -> Iterator[Call]:
            for _ in range(3):
                alive.append(any(ref() is not None for ref in made))
                call = Call()
                made.append(weakref.ref(call))
                yield call
                del call

        timing.measure_blocks(calls(), 3, "cpu")
        assert alive == [False] * 3

    def test_time_is_shared_by_the_blocks(self, clock: FakeClock) -> None:
        durations = alternating(0.1, 0.2, 0.3)
        calls = [lambda: clock.sleep(next(durations))] * 3
        series = timing.measure_blocks(calls, 3, "cpu", max_seconds=6.0)
        assert all(8 <= count <= 12 for count in series.blocks)

    def test_a_call_slower_than_the_time_is_sampled_the_minimum_of_times_in_all(self, clock: FakeClock) -> None:
        calls = [lambda: clock.sleep(1.0)] * 3
        assert timing.measure_blocks(calls, 3, "cpu", min_samples=3, max_seconds=0.3).blocks == [1, 1, 1]
        assert timing.measure_blocks(calls, 3, "cpu", min_samples=5, max_seconds=2.0).blocks == [1, 2, 2]

    def test_the_last_block_repeats_its_call_where_others_did(self, clock: FakeClock) -> None:
        calls = [lambda: clock.sleep(0.001), lambda: clock.sleep(0.001), lambda: clock.sleep(9.0)]
        series = timing.measure_blocks(calls, 3, "cpu", min_samples=5, max_seconds=0.03)
        assert series.blocks[2] == 2

    def test_only_the_last_call_is_inspected_and_before_the_next_thing_happens(self, clock: FakeClock) -> None:
        results = iter(range(100))
        seen: list[object] = []
        calls = [lambda: next(results)] * 3
        series = timing.measure_blocks(calls, 3, "cpu", min_samples=6, max_seconds=0.0, inspect=seen.append)
        assert len(series.samples_ms) == 6
        assert seen == [6]  # the call before the samples is the first


class TestDiscards:
    """Samples during which the clock was held back."""

    def test_a_throttled_sample_is_taken_again_and_counted(self, clock: FakeClock, conditions: list[Condition]) -> None:
        durations = iter([0.0, 1.0, 5.0, 1.0, 1.0, 1.0, 1.0])
        hot = Condition(throttle_reasons=("gpu_idle", "sw_thermal_slowdown"))
        conditions += [Condition(), hot]
        series = timing.measure(lambda: clock.sleep(next(durations)), "cpu", max_seconds=100.0)
        assert series.samples_ms == pytest.approx([1000.0] * 5)
        assert series.discarded == {"sw_thermal_slowdown": 1}
        assert series.disturbed == 0
        assert hot not in series.conditions

    def test_a_clock_that_falls_behind_the_others_spoils_a_sample(
        self, clock: FakeClock, conditions: list[Condition]
    ) -> None:
        conditions += [Condition(clock_mhz=mhz) for mhz in (1000, 1010, 990, 950, 700, 1000)]
        series = timing.measure(lambda: clock.sleep(0.001), "cpu", max_seconds=100.0)
        assert [condition.clock_mhz for condition in series.conditions] == [1000, 1010, 990, 950, 1000]
        assert series.discarded == {"low clock": 1}

    def test_a_clock_held_back_all_the_time_ends_the_discards_and_the_series_says_so(
        self, clock: FakeClock, conditions: list[Condition]
    ) -> None:
        conditions += [Condition(throttle_reasons=("sw_power_cap",))] * 100
        series = timing.measure(lambda: clock.sleep(0.001), "cpu", min_samples=5, max_seconds=100.0)
        assert len(series.samples_ms) == 5
        assert series.discarded == {"sw_power_cap": 5}
        assert series.disturbed == 5

    def test_discards_take_a_tenth_of_the_time_at_most(self, clock: FakeClock, conditions: list[Condition]) -> None:
        conditions += [Condition(throttle_reasons=("sw_power_cap",))] * 100
        series = timing.measure(lambda: clock.sleep(0.4), "cpu", min_samples=5, max_seconds=10.0)
        assert series.discarded == {"sw_power_cap": 2}
        assert series.disturbed == len(series.samples_ms) == 5

    def test_harmless_states_spoil_nothing(self, clock: FakeClock, conditions: list[Condition]) -> None:
        conditions += [Condition(throttle_reasons=("gpu_idle", "applications_clocks_setting"))] * 100
        series = timing.measure(lambda: clock.sleep(0.001), "cpu")
        assert not series.discarded
        assert not series.disturbed


def test_fewer_than_one_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="min_samples must be at least 1"):
        timing.measure(lambda: None, "cpu", min_samples=0)


def test_the_relative_error_agrees_with_resampled_medians_of_normal_noise() -> None:
    generator = np.random.default_rng(0)
    samples = generator.normal(100.0, 5.0, size=200)
    medians = [np.median(generator.normal(100.0, 5.0, size=200)) for _ in range(500)]
    assert timing.relative_error(samples.tolist()) == pytest.approx(np.std(medians) / 100.0, rel=0.25)


def test_one_sample_says_nothing_about_its_error() -> None:
    assert timing.relative_error([1.0]) == math.inf


def test_the_summary_interpolates_percentiles() -> None:
    summary = timing.summarise([5.0, 1.0, 3.0, 2.0, 4.0, 6.0])
    assert (summary.p20, summary.p50, summary.p80, summary.count) == (2.0, 3.5, 5.0, 6)


def test_an_empty_sample_set_has_no_summary() -> None:
    with pytest.raises(ValueError, match="samples must not be empty"):
        timing.summarise([])


def test_the_first_call_is_timed_in_seconds(clock: FakeClock) -> None:
    assert timing.first_call_seconds(lambda: clock.sleep(3.0), "cpu") == 3.0


def test_memory_of_the_cpu_is_unknown() -> None:
    assert timing.peak_memory(lambda: torch.empty(10), "cpu") is None
    assert timing.allocated_bytes("cpu") is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnCuda:
    def test_launch_overhead_is_not_part_of_the_sample(self) -> None:
        x = torch.zeros(1, device="cuda")

        def many_tiny_kernels() -> None:
            for _ in range(20):
                x.add_(1)

        timing.measure(many_tiny_kernels, "cuda")
        on_device = np.median(timing.measure(many_tiny_kernels, "cuda").samples_ms)
        start = time.perf_counter()
        for _ in range(50):
            many_tiny_kernels()
        torch.cuda.synchronize()
        assert on_device <= (time.perf_counter() - start) / 50 * 1e3 * 1.5

    def test_a_sample_covers_the_work_of_the_call(self) -> None:
        cycles = 100_000_000
        short, long = (
            timing.measure(functools.partial(torch.cuda._sleep, n), "cuda", min_samples=1, max_seconds=0)
            for n in (cycles, 2 * cycles)
        )
        assert long.samples_ms[0] == pytest.approx(2 * short.samples_ms[0], rel=0.1)

    def test_the_last_call_is_inspected_on_its_stream_without_waiting_for_others(self) -> None:
        side, result = torch.cuda.Stream(), torch.zeros(1, device="cuda")
        seen: list[torch.Tensor] = []

        def on_another_stream() -> torch.Tensor:
            result.zero_()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                torch.cuda._sleep(100_000_000)
                result.fill_(1.0)
            return result

        timing.measure_blocks([on_another_stream], 1, "cuda", inspect=lambda x: seen.append(x.clone()))
        assert seen[0].item() == 0.0
        assert result.item() == 1.0

    def test_nvml_tells_clock_and_temperature(self) -> None:
        pytest.importorskip("pynvml")
        found = monitor("cuda")()
        assert found.clock_mhz is not None
        assert found.clock_mhz > 100
        assert found.temperature_c is not None

    def test_peak_memory_counts_temporaries_and_the_result_above_the_baseline(self) -> None:
        held = torch.empty(2**20, dtype=torch.int8, device="cuda")

        def call() -> torch.Tensor:
            return torch.empty(2**22, dtype=torch.int8, device="cuda")[: held.numel()].clone()

        assert timing.peak_memory(call, "cuda") == 2**22 + 2**20
        baseline = timing.allocated_bytes("cuda")
        assert baseline is not None
        assert timing.peak_memory(call, "cuda", baseline=baseline - 2**20) == 2**22 + 2**21
