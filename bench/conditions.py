"""The state of the clocks beside each sample, and whether it spoils the sample.

On CUDA the driver answers through NVML (optional package `nvidia-ml-py`): SM clock, power, temperature and the reasons
why the clock is held back. On a CPU the kernel's cpufreq gives the frequency of the core that runs the process, where
it is readable. What is not readable is None; without anything readable no sample is spoiled.

A reading follows its sample, so that it lies in no timed region. One younger than 10 ms stands for the next sample too:
the driver averages over longer, and a query takes up to milliseconds.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from bench import clocks
from bench.environment import throttle_reasons

# Clock states that hold no clock below what its owner asked for.
HARMLESS: Final = frozenset({"gpu_idle", "applications_clocks_setting", "display_clock_setting"})
# A clock below this share of the median of the samples before it spoils a sample: at a steady load clocks vary by less.
LOW_CLOCK_SHARE: Final = 0.9
# At this share of the full clock a throttle reason has cost nothing that matters: an H200 at full load reports its
# power cap at 1965 of 1980 MHz.
FULL_CLOCK_SHARE: Final = 0.98
_FEWEST_FOR_MEDIAN = 3
_FRESH_S = 0.01


@dataclass(frozen=True)
class Condition:
    """One reading; None where the machine does not tell."""

    clock_mhz: int | None = None  # of the SMs, or of the CPU core
    power_w: float | None = None
    temperature_c: int | None = None
    throttle_reasons: tuple[str, ...] | None = None
    full_clock_mhz: int | None = None  # the highest that the SMs may have


def held_back(reasons: Sequence[str] | None) -> list[str]:
    """The throttle reasons that slow a measurement down, sorted."""
    return sorted(set(reasons or ()) - HARMLESS)


def spoiled(condition: Condition, earlier: Sequence[Condition]) -> str | None:
    """Why a sample with this reading should not count beside the earlier ones, or None."""
    if (held := held_back(condition.throttle_reasons)) and not _runs_full(condition):
        return ", ".join(held)
    clocks = [one.clock_mhz for one in earlier if one.clock_mhz is not None]
    if condition.clock_mhz is None or len(clocks) < _FEWEST_FOR_MEDIAN:
        return None
    return "low clock" if condition.clock_mhz < LOW_CLOCK_SHARE * float(np.median(clocks)) else None


def _runs_full(condition: Condition) -> bool:
    if condition.clock_mhz is None or condition.full_clock_mhz is None:
        return False
    return condition.clock_mhz >= FULL_CLOCK_SHARE * condition.full_clock_mhz


def monitor(device: torch.device | str) -> Callable[[], Condition]:
    """A function that reads the device's state; readings younger than 10 ms are reused."""
    device = torch.device(device)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        query = _nvml(index)
    else:
        query = _cpu_clock
    last: list[tuple[float, Condition]] = []

    def read() -> Condition:
        now = clocks.perf_counter()
        if not last or now - last[0][0] >= _FRESH_S:
            last[:] = [(now, query())]
        return last[0][1]

    return read


@functools.cache
def _nvml(index: int) -> Callable[[], Condition]:
    """NVML's readings of a CUDA device; it stays open until the process ends."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return Condition
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(index).uuid}")
    except nvml.NVMLError:
        return Condition

    def value(query: Any, *arguments: Any) -> Any:
        try:
            return query(handle, *arguments)
        except nvml.NVMLError:  # this GPU does not support the query
            return None

    def read() -> Condition:
        power_mw = value(nvml.nvmlDeviceGetPowerUsage)
        bits = value(nvml.nvmlDeviceGetCurrentClocksThrottleReasons)
        return Condition(
            clock_mhz=value(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            power_w=None if power_mw is None else power_mw / 1000,
            temperature_c=value(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            throttle_reasons=None if bits is None else tuple(throttle_reasons(bits)),
            full_clock_mhz=value(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_SM),
        )

    return read


def _cpu_clock() -> Condition:
    """Frequency of the core that this process ran on last."""
    try:
        # The fields after the command's name, which may hold anything but a last ")"; `processor` is the 39th of all.
        core = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[36]
        kilohertz = int(Path(f"/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq").read_text())
    except (OSError, ValueError, IndexError):
        return Condition()
    return Condition(clock_mhz=round(kilohertz / 1000))
