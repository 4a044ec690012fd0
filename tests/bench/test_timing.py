"""Sampling on a clock that the test controls."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from bench import timing


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
    monkeypatch.setattr("time.perf_counter", fake)
    return fake


def alternating(*durations: float) -> Iterator[float]:
    while True:
        yield from durations


def test_samples_are_the_durations_of_the_calls_in_milliseconds(clock: FakeClock) -> None:
    samples = timing.measure(lambda: clock.sleep(0.25), "cpu")
    assert samples == pytest.approx([250.0] * 5)


def test_a_steady_call_is_sampled_the_minimum_of_times(clock: FakeClock) -> None:
    assert len(timing.measure(lambda: clock.sleep(0.001), "cpu", min_samples=7)) == 7


def test_an_unsteady_call_is_sampled_until_the_time_is_up(clock: FakeClock) -> None:
    durations = alternating(0.1, 0.2, 0.3)
    samples = timing.measure(lambda: clock.sleep(next(durations)), "cpu", max_seconds=3.0)
    assert sum(samples) / 1e3 == pytest.approx(3.0, abs=0.3)


def test_an_unsteady_call_gets_more_samples_than_a_steady_one_within_the_same_time(clock: FakeClock) -> None:
    durations = alternating(0.0010, 0.0011)
    unsteady = timing.measure(lambda: clock.sleep(next(durations)), "cpu", max_seconds=10.0)
    assert 5 < len(unsteady) < 1000
    assert timing.relative_error(unsteady) < 0.005


def test_a_call_slower_than_the_time_is_still_sampled_the_minimum_of_times(clock: FakeClock) -> None:
    durations = alternating(10.0, 20.0)
    assert len(timing.measure(lambda: clock.sleep(next(durations)), "cpu", max_seconds=1.0)) == 5


def test_the_first_call_is_not_a_sample(clock: FakeClock) -> None:
    durations = iter([99.0, *[1.0] * 5])
    assert timing.measure(lambda: clock.sleep(next(durations)), "cpu") == pytest.approx([1000.0] * 5)


def test_what_runs_before_a_sample_is_not_timed(clock: FakeClock) -> None:
    samples = timing.measure(lambda: clock.sleep(1.0), "cpu", before=lambda: clock.sleep(50.0), max_seconds=1e6)
    assert samples == pytest.approx([1000.0] * 5)


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
        on_device = np.median(timing.measure(many_tiny_kernels, "cuda"))
        start = time.perf_counter()
        for _ in range(50):
            many_tiny_kernels()
        torch.cuda.synchronize()
        assert on_device <= (time.perf_counter() - start) / 50 * 1e3 * 1.5

    def test_a_sample_covers_the_work_of_the_call(self) -> None:
        cycles = 100_000_000
        (short,) = timing.measure(lambda: torch.cuda._sleep(cycles), "cuda", min_samples=1, max_seconds=0)
        (long,) = timing.measure(lambda: torch.cuda._sleep(2 * cycles), "cuda", min_samples=1, max_seconds=0)
        assert long == pytest.approx(2 * short, rel=0.1)

    def test_peak_memory_counts_temporaries_and_the_result_above_the_baseline(self) -> None:
        held = torch.empty(2**20, dtype=torch.int8, device="cuda")

        def call() -> torch.Tensor:
            return torch.empty(2**22, dtype=torch.int8, device="cuda")[: held.numel()].clone()

        assert timing.peak_memory(call, "cuda") == 2**22 + 2**20
        baseline = timing.allocated_bytes("cuda")
        assert baseline is not None
        assert timing.peak_memory(call, "cuda", baseline=baseline - 2**20) == 2**22 + 2**21
