"""Time one callable: repeated samples in milliseconds, their summary, and peak memory.

On CUDA every sample starts from a cold L2 cache, none of it set aside for data that persists, and is enclosed by
events; a short spin on the device is queued first, so that the host has launched the work before the device reaches it
and launch overhead stays outside the sample. Memory is measured in a call of its own.

A sample during which the clock was held back (`bench.conditions`) is discarded and taken again, within bounds: where
the clock is held back all the time, samples are kept and the series says so.
"""

from __future__ import annotations

import ctypes
import functools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from bench import clocks
from bench.conditions import Condition, monitor, spoiled
from bench.records import Summary

# A sample set is done when the standard error of its median is below this share of the median.
_TARGET_ERROR = 0.005
_MAX_SAMPLES = 1000
# The spin covers the host's launch time with this margin, up to a bound: beyond it the callable waits for the device
# itself, and no spin can hide that.
_SPIN_MARGIN = 1.5
_MAX_SPIN_MS = 10.0
# Launching is a small part of such a call, so that its first run tells enough.
_LONG_CALL_S = 0.1
# Discards end when they are as many as the samples asked for, or have taken this share of the sampling time.
_DISCARD_SHARE = 0.1
_RECOVERY_S = 0.02
_PERSISTING_L2_LIMIT = 6  # CU_LIMIT_PERSISTING_L2_CACHE_SIZE of cuda.h

Call = Callable[[], object]
Inspect = Callable[[object], None]


@dataclass
class Series:
    """Samples in the order they were taken, and what is known about them."""

    samples_ms: list[float] = field(default_factory=list)
    conditions: list[Condition] = field(default_factory=list)  # read behind each sample
    blocks: list[int] = field(default_factory=list)  # samples of each block
    discarded: Counter[str] = field(default_factory=Counter)  # by reason
    disturbed: int = 0  # samples that should have been discarded but were kept, because the bound was reached


class Sampler(Protocol):
    def sample(self, inspect: Inspect | None = None) -> float:
        """Milliseconds of one call. `inspect` gets its result, or that of another, the moment it must be complete."""


def measure(
    fn: Call,
    device: torch.device | str,
    *,
    min_samples: int = 5,
    max_seconds: float = 2.0,
    before: Callable[[], object] | None = None,
) -> Series:
    """Repeated calls of `fn`, after one untimed call.

    Sampling stops when the standard error of the median is below 0.5 % of the median, or after `max_seconds`, and never
    before `min_samples`.

    Args:
        device: where `fn` does its work.
        before: called before every sample, untimed.
    """
    return measure_blocks([fn], 1, device, min_samples=min_samples, max_seconds=max_seconds, before=before)


def measure_blocks(
    calls: Iterable[Call],
    blocks: int,
    device: torch.device | str,
    *,
    min_samples: int = 5,
    max_seconds: float = 2.0,
    before: Callable[[], object] | None = None,
    inspect: Inspect | None = None,
) -> Series:
    """The same in blocks, each with a call of its own and an equal part of the samples and of the time.

    Args:
        calls: one for each block, taken when its block begins; by then the one before is released.
        blocks: how many.
        inspect: gets what the last call returned, before anything could complete it belatedly. On the CPU that call is
            the last sample. On CUDA there are two more, launched without the spin that would give other streams a
            lead, and `inspect` runs right behind each on its stream.
    """
    if min_samples < 1:
        raise ValueError(f"min_samples must be at least 1, got {min_samples}")
    device = torch.device(device)
    series = Series()
    taking = _Taking(series, monitor(device), most=min_samples, seconds=_DISCARD_SHARE * max_seconds)
    iterator, spin_ms, pace = iter(calls), 0.0, 0.0
    for block in range(1, blocks + 1):
        fn = next(iterator)
        began = clocks.perf_counter()
        if device.type == "cuda":
            spin_ms = cuda_warm_up(fn, device, before) if block == 1 else spin_ms
            sampler: Sampler = CudaSampler(fn, device, before, spin_ms)
        else:
            sampler = _HostSampler(fn, before)
            if block == 1:
                sampler.sample()
        if block == 1:
            pace = clocks.perf_counter() - began  # seconds that a sample takes
        start = len(series.samples_ms)
        # Where a call was repeated, so is the last one: a result kept within its block is then found out.
        repeats = 2 if max(series.blocks, default=0) > 1 else 1
        least, most = max(min_samples * block // blocks, start + repeats), _MAX_SAMPLES * block // blocks
        end = clocks.perf_counter() + max_seconds / blocks
        last = False
        while not last:
            count, began = len(series.samples_ms) + 1, clocks.perf_counter()
            settled = relative_error(series.samples_ms) < _TARGET_ERROR or began + pace >= end
            last = count >= most or (count >= least and settled)
            taking.take(sampler, inspect if last and block == blocks else None)
            pace = clocks.perf_counter() - began
        series.blocks.append(len(series.samples_ms) - start)
        del fn, sampler  # what they hold must be free before the next block's call is made
    return series


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
    start = clocks.perf_counter()
    fn()
    _synchronize(device)
    return clocks.perf_counter() - start


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
    clocks.synchronize_device(device)
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device) if baseline is None else baseline
    fn()
    clocks.synchronize_device(device)
    return max(0, torch.cuda.max_memory_allocated(device) - held)


class _Taking:
    """Takes samples into a series, and those again that the clock spoiled, within bounds."""

    def __init__(self, series: Series, state: Callable[[], Condition], *, most: int, seconds: float) -> None:
        self._series, self._state = series, state
        self._left, self._seconds = most, seconds

    def take(self, sampler: Sampler, inspect: Inspect | None) -> None:
        series = self._series
        while True:
            milliseconds = sampler.sample(inspect)
            condition = self._state()
            reason = spoiled(condition, series.conditions)
            cost = milliseconds / 1e3 + _RECOVERY_S
            if reason is None or self._left == 0 or cost > self._seconds:
                break
            series.discarded[reason] += 1
            self._left -= 1
            self._seconds -= cost
            time.sleep(_RECOVERY_S)
        series.samples_ms.append(milliseconds)
        series.conditions.append(condition)
        series.disturbed += reason is not None


class _HostSampler:
    def __init__(self, fn: Call, before: Callable[[], object] | None) -> None:
        self._fn, self._before = fn, before

    def sample(self, inspect: Inspect | None = None) -> float:
        if self._before is not None:
            self._before()
        start = clocks.perf_counter()
        result = self._fn()
        milliseconds = (clocks.perf_counter() - start) * 1e3
        if inspect is not None:
            inspect(result)
        return milliseconds


class CudaSampler:
    """Event times of a call, from a cold L2 cache unless `cold` is False."""

    def __init__(
        self, fn: Call, device: torch.device, before: Callable[[], object] | None, spin_ms: float, *, cold: bool = True
    ) -> None:
        self._fn, self._device, self._before, self._spin_ms = fn, device, before, spin_ms
        self._flush: torch.Tensor | None = None
        if cold:
            _give_up_persisting_l2(device)
            cache_bytes = torch.cuda.get_device_properties(device).L2_cache_size
            # Twice the L2, because its replacement is not strictly by age.
            self._flush = torch.empty(2 * cache_bytes, dtype=torch.int8, device=device)
        self._start, self._end = (clocks.Event(enable_timing=True) for _ in range(2))

    def sample(self, inspect: Inspect | None = None) -> float:
        with torch.cuda.device(self._device):
            self._launch(self._spin_ms)
            clocks.synchronize_event(self._end)
            milliseconds: float = clocks.elapsed_time(self._start, self._end)
            if inspect is not None:
                # The first use loads the kernels of `inspect`, for which the driver may wait for streams.
                for _ in range(2):
                    self._launch(0.0, inspect)
                    clocks.synchronize_device(self._device)
        return milliseconds

    def _launch(self, spin_ms: float, inspect: Inspect | None = None) -> None:
        # Stream and events are the harness's own, whatever the call makes current or replaces.
        stream = clocks.current_stream(self._device)
        if self._before is not None:
            self._before()
        if self._flush is not None:
            self._flush.zero_()
        torch.cuda._sleep(int(spin_ms * _cycles_per_ms(self._device)))
        clocks.record_event(self._start, stream)
        result = self._fn()
        clocks.record_event(self._end, stream)
        if inspect is not None:
            with torch.cuda.stream(stream):
                inspect(result)


def cuda_warm_up(fn: Call, device: torch.device, before: Callable[[], object] | None) -> float:
    """Call twice, a long call once; the milliseconds of spin that cover what the host took to launch it."""
    with torch.cuda.device(device):
        _cycles_per_ms(device)
        for _ in range(2):
            if before is not None:
                before()
            clocks.synchronize_device(device)
            start = clocks.perf_counter()
            fn()
            host_ms = (clocks.perf_counter() - start) * 1e3
            clocks.synchronize_device(device)
            if clocks.perf_counter() - start > _LONG_CALL_S:
                break
    return min(_SPIN_MARGIN * host_ms, _MAX_SPIN_MS)


@functools.cache
def _cycles_per_ms(device: torch.device) -> float:
    """Cycles of torch's device-side spin per millisecond."""
    cycles = 20_000_000
    start, end = (clocks.Event(enable_timing=True) for _ in range(2))
    stream = clocks.current_stream(device)
    torch.cuda._sleep(cycles)
    clocks.record_event(start, stream)
    torch.cuda._sleep(cycles)
    clocks.record_event(end, stream)
    clocks.synchronize_event(end)
    return cycles / float(clocks.elapsed_time(start, end))


def _give_up_persisting_l2(device: torch.device) -> None:
    """No part of the L2 cache may keep data over a flush: torch has no call for that limit, so the driver is asked.

    Devices without such a part refuse the limit, and need none.
    """
    driver = ctypes.CDLL("libcuda.so.1")
    with torch.cuda.device(device):
        clocks.synchronize_device(device)  # makes the device's context current
        driver.cuCtxSetLimit(ctypes.c_int(_PERSISTING_L2_LIMIT), ctypes.c_size_t(0))


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        clocks.synchronize_device(device)
