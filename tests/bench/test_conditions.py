"""The state of the clocks, from drivers that the test plays."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from bench import clocks, conditions
from bench.conditions import Condition, held_back, monitor, spoiled


class Nvml:
    """pynvml for one GPU that does not tell its temperature."""

    NVML_CLOCK_SM, NVML_TEMPERATURE_GPU = 1, 0

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.queries = 0

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        assert uuid == "GPU-1234"
        return "handle"

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        self.queries += 1
        return 1980

    def nvmlDeviceGetMaxClockInfo(self, handle: str, kind: int) -> int:
        return 1980

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return 431_250

    def nvmlDeviceGetTemperature(self, handle: str, kind: int) -> int:
        raise self.NVMLError

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:
        return 0x1 | 0x4


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[Nvml]:
    driver = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1234"))
    conditions._nvml.cache_clear()
    yield driver
    conditions._nvml.cache_clear()


def test_nvml_tells_clock_power_and_reasons_and_what_it_does_not_know_is_none(nvml: Nvml) -> None:
    assert monitor("cuda:0")() == Condition(1980, 431.25, None, ("gpu_idle", "sw_power_cap"), 1980)


def test_a_fresh_reading_is_used_again(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(clocks, "perf_counter", lambda: now[0])
    read = monitor("cuda:0")
    for now[0] in (0.0, 0.004, 0.008, 0.012, 0.016):
        read()
    assert nvml.queries == 2


def test_without_nvml_nothing_is_known(nvml: Nvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert monitor("cuda:0")() == Condition()


def test_the_clock_of_a_cpu_is_that_of_the_core_that_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    after_the_name = ["S", *["0"] * 35, "7", "0"]
    files = {
        "/proc/self/stat": f"4711 (a (strange) name) {' '.join(after_the_name)}",
        "/sys/devices/system/cpu/cpu7/cpufreq/scaling_cur_freq": "3401000\n",
    }
    monkeypatch.setattr(conditions, "Path", lambda path: SimpleNamespace(read_text=lambda: files[path]))
    assert monitor("cpu")() == Condition(clock_mhz=3401)


def test_a_cpu_that_does_not_tell_its_clock_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_text() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(conditions, "Path", lambda path: SimpleNamespace(read_text=read_text))
    assert monitor("cpu")() == Condition()


def test_reasons_that_its_owner_asked_for_hold_nothing_back() -> None:
    assert held_back(None) == []
    assert held_back(["gpu_idle", "applications_clocks_setting"]) == []
    assert held_back(["sw_thermal_slowdown", "gpu_idle", "hw_slowdown"]) == ["hw_slowdown", "sw_thermal_slowdown"]


def test_a_low_clock_needs_others_to_be_low_against() -> None:
    low, usual = Condition(clock_mhz=800), Condition(clock_mhz=1000)
    assert spoiled(low, []) is None
    assert spoiled(low, [usual] * 2) is None
    assert spoiled(low, [usual] * 3) == "low clock"
    assert spoiled(Condition(clock_mhz=901), [usual] * 3) is None
    assert spoiled(Condition(), [usual] * 3) is None


def test_a_power_cap_that_costs_no_clock_spoils_nothing() -> None:
    capped = ("sw_power_cap",)
    assert spoiled(Condition(1965, throttle_reasons=capped, full_clock_mhz=1980), []) is None
    assert spoiled(Condition(1900, throttle_reasons=capped, full_clock_mhz=1980), []) == "sw_power_cap"
    assert spoiled(Condition(None, throttle_reasons=capped, full_clock_mhz=1980), []) == "sw_power_cap"
    assert spoiled(Condition(1965, throttle_reasons=capped), []) == "sw_power_cap"
