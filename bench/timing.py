"""Time one callable: repeated samples in milliseconds, their summary, and peak memory.

On CUDA every sample starts from a cold L2 cache and is enclosed by events; a short spin on the device is queued first,
so that the host has launched the work before the device reaches it and launch overhead stays outside the sample. Memory
is measured in a call of its own.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable

import numpy as np
import torch

from bench.records import Summary

# A sample set is done when the standard error of its median is below this share of the median.
_TARGET_ERROR = 0.005
_MAX_SAMPLES = 1000
# The spin covers the host's launch time with this margin, up to a bound: beyond it the callable waits for the device
# itself, and no spin can hide that.
_SPIN_MARGIN = 1.5
_MAX_SPIN_MS = 10.0


def measure(
    fn: Callable[[], object],
    device: torch.device | str,
    *,
    min_samples: int = 5,
    max_seconds: float = 2.0,
    before: Callable[[], object] | None = None,
) -> list[float]:
    """Milliseconds of repeated calls of `fn`, after one untimed call.

    Sampling stops when the standard error of the median is below 0.5 % of the median, or after `max_seconds`, and never
    before `min_samples`.

    Args:
        device: where `fn` does its work.
        before: called before every sample, untimed.
    """
    if min_samples < 1:
        raise ValueError(f"min_samples must be at least 1, got {min_samples}")
    device = torch.device(device)
    sample = _cuda_sampler(fn, device, before) if device.type == "cuda" else _host_sampler(fn, before)
    samples: list[float] = []
    end = time.perf_counter() + max_seconds
    while len(samples) < _MAX_SAMPLES:
        samples.append(sample())
        settled = relative_error(samples) < _TARGET_ERROR or time.perf_counter() >= end
        if len(samples) >= min_samples and settled:
            break
    return samples


def relative_error(samples: list[float]) -> float:
    """Standard error of the median over the median; the spread comes from the interquartile range.

    Factors are those of a normal distribution: sigma = IQR / 1.349, standard error = 1.253 sigma / sqrt(n).
    """
    if len(samples) < 2:
        return math.inf
    low, median, high = np.percentile(samples, [25, 50, 75])
    if median == 0:
        return 0.0
    return float(1.253 * (high - low) / 1.349 / math.sqrt(len(samples)) / median)


def summarise(samples: list[float]) -> Summary:
    """20th, 50th and 80th percentile (linear interpolation) of samples in ms."""
    if not samples:
        raise ValueError("samples must not be empty")
    p20, p50, p80 = np.percentile(samples, [20, 50, 80])
    return Summary(p20=float(p20), p50=float(p50), p80=float(p80), count=len(samples))


def first_call_seconds(fn: Callable[[], object], device: torch.device | str) -> float:
    """Wall seconds of one call until its work is done: compilation and first-use set-up included."""
    device = torch.device(device)
    _synchronize(device)
    start = time.perf_counter()
    fn()
    _synchronize(device)
    return time.perf_counter() - start


def allocated_bytes(device: torch.device | str) -> int | None:
    """Bytes that torch's allocator holds on a CUDA device now; None on the CPU, where torch does not count them."""
    return torch.cuda.memory_allocated(device) if torch.device(device).type == "cuda" else None


def peak_memory(fn: Callable[[], object], device: torch.device | str, *, baseline: int | None = None) -> int | None:
    """Most bytes held during one call of `fn`, its result included, above `baseline`; None on the CPU.

    Args:
        baseline: value of `allocated_bytes` to subtract; by default what is held when the call begins.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device) if baseline is None else baseline
    fn()
    torch.cuda.synchronize(device)
    return max(0, torch.cuda.max_memory_allocated(device) - held)


def _host_sampler(fn: Callable[[], object], before: Callable[[], object] | None) -> Callable[[], float]:
    def sample() -> float:
        if before is not None:
            before()
        start = time.perf_counter()
        fn()
        return (time.perf_counter() - start) * 1e3

    sample()
    return sample


def _cuda_sampler(
    fn: Callable[[], object], device: torch.device, before: Callable[[], object] | None
) -> Callable[[], float]:
    cache_bytes = torch.cuda.get_device_properties(device).L2_cache_size
    # Twice the L2, because its replacement is not strictly by age.
    flush = torch.empty(2 * cache_bytes, dtype=torch.int8, device=device)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def sample(spin_ms: float) -> float:
        if before is not None:
            before()
        flush.zero_()
        torch.cuda._sleep(int(spin_ms * _cycles_per_ms(device)))
        start.record()
        fn()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    with torch.cuda.device(device):
        sample(spin_ms=0.0)  # warms up
        torch.cuda.synchronize(device)
        if before is not None:
            before()
        host_start = time.perf_counter()
        fn()
        host_ms = (time.perf_counter() - host_start) * 1e3
        torch.cuda.synchronize(device)
    spin_ms = min(_SPIN_MARGIN * host_ms, _MAX_SPIN_MS)

    def sample_on_device() -> float:
        with torch.cuda.device(device):
            return sample(spin_ms)

    return sample_on_device


@functools.cache
def _cycles_per_ms(device: torch.device) -> float:
    """Cycles of torch's device-side spin per millisecond."""
    cycles = 20_000_000
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(cycles)
    start.record()
    torch.cuda._sleep(cycles)
    end.record()
    end.synchronize()
    return cycles / start.elapsed_time(end)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
