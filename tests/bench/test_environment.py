"""What is recorded about a machine, on machines that the test invents."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from bench import environment
from bench.environment import capture, environment_line, fingerprint, parse_nvidia_smi, throttle_reasons


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_a_cpu_is_described_without_driver_facts() -> None:
    found = capture("cpu")
    assert found.device == found.cpu
    assert found.device_type == "cpu"
    assert found.threads == torch.get_num_threads()
    assert found.torch == str(torch.__version__)
    assert found.python == ".".join(str(part) for part in sys.version_info[:3])
    assert (found.driver, found.sm_clock_mhz, found.throttle_reasons) == (None, None, None)


def test_an_unknown_kind_of_device_is_refused() -> None:
    with pytest.raises(ValueError, match="device must be cpu or cuda, got meta"):
        capture("meta")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_a_missing_cuda_device_is_refused() -> None:
    with pytest.raises(ValueError, match="torch finds no CUDA device"):
        capture("cuda")


def test_the_fingerprint_is_12_hex_digits_that_change_with_every_part() -> None:
    parts: dict[str, str | int | None] = {"device": "a", "driver": None, "threads": 2}
    first = fingerprint(**parts)
    others = [fingerprint(**{**parts, name: "other"}) for name in parts]
    assert len(first) == 12
    assert int(first, 16) >= 0
    assert len({first, *others}) == 4


def test_the_order_of_the_parts_does_not_change_the_fingerprint() -> None:
    assert fingerprint(device="a", torch="2") == fingerprint(torch="2", device="a")


def test_the_number_of_threads_is_part_of_a_cpu_fingerprint() -> None:
    threads = torch.get_num_threads()
    before = capture("cpu").fingerprint
    try:
        torch.set_num_threads(threads + 1)
        assert capture("cpu").fingerprint != before
    finally:
        torch.set_num_threads(threads)
    assert capture("cpu").fingerprint == before


def test_throttle_bits_are_named_and_unknown_ones_kept() -> None:
    assert throttle_reasons(0) == []
    assert throttle_reasons(0x4 | 0x20) == ["sw_power_cap", "sw_thermal_slowdown"]
    assert throttle_reasons(0x1 | 0x10000) == ["gpu_idle", "0x10000"]


def test_a_line_of_nvidia_smi_is_read_field_by_field() -> None:
    state = parse_nvidia_smi("570.124.06, 345, 1980, 700.00, 31, 0x0000000000000001")
    assert state.driver == "570.124.06"
    assert (state.sm_clock_mhz, state.max_sm_clock_mhz, state.temperature_c) == (345, 1980, 31)
    assert state.power_limit_w == 700.0
    assert state.throttle_reasons == ["gpu_idle"]


@pytest.mark.parametrize(
    "line", ["", "No devices were found", "570.1, [N/A], [N/A], [Not Supported], [N/A], [Unknown Error]"]
)
def test_what_nvidia_smi_does_not_know_is_none(line: str) -> None:
    state = parse_nvidia_smi(line)
    assert (state.sm_clock_mhz, state.power_limit_w, state.temperature_c, state.throttle_reasons) == (None,) * 4


def fake_nvml(**answers: object) -> types.SimpleNamespace:
    """A pynvml that answers with the given values and refuses everything else."""

    class NVMLError(Exception):
        pass

    def refuse(*_: object) -> object:
        raise NVMLError("not supported")

    queries = (
        "DeviceGetHandleByUUID",
        "DeviceGetCurrentClocksThrottleReasons",
        "DeviceGetEnforcedPowerLimit",
        "SystemGetDriverVersion",
        "DeviceGetClockInfo",
        "DeviceGetMaxClockInfo",
        "DeviceGetTemperature",
    )
    functions = {
        f"nvml{name}": (lambda *_, value=answers[name]: value) if name in answers else refuse for name in queries
    }
    return types.SimpleNamespace(
        NVMLError=NVMLError,
        NVML_CLOCK_SM=1,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        **functions,
    )


def test_nvml_is_read_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fake_nvml(
        DeviceGetHandleByUUID=object(),
        SystemGetDriverVersion="570.1",
        DeviceGetEnforcedPowerLimit=700_000,
        DeviceGetClockInfo=1500,
        DeviceGetCurrentClocksThrottleReasons=0x40,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    state = environment._gpu_state("GPU-1")
    assert state.driver == "570.1"
    assert state.power_limit_w == 700.0
    assert state.sm_clock_mhz == 1500
    assert state.throttle_reasons == ["hw_thermal_slowdown"]
    assert state.temperature_c is None  # this GPU does not tell


def test_a_gpu_that_nvml_does_not_know_leaves_every_fact_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    assert environment._gpu_state("MIG-1") == environment.GpuState()


def test_without_pynvml_and_nvidia_smi_every_fact_is_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment._gpu_state("GPU-1") == environment.GpuState()


def test_a_clean_checkout_has_a_commit(checkout: Path) -> None:
    commit, dirty = environment._git_state(checkout)
    assert commit is not None
    assert len(commit) == 40
    assert dirty is False


def test_a_changed_file_makes_it_dirty_and_a_new_one_does_not(checkout: Path) -> None:
    (checkout / "results.jsonl").write_text("{}\n")
    assert environment._git_state(checkout)[1] is False
    (checkout / "code.py").write_text("x = 2\n")
    assert environment._git_state(checkout)[1] is True


def test_a_folder_inside_another_checkout_has_no_commit_of_its_own(checkout: Path) -> None:
    (checkout / "inner").mkdir()
    assert environment._git_state(checkout / "inner") == (None, None)


def test_a_folder_outside_any_checkout_has_no_commit(tmp_path: Path) -> None:
    assert environment._git_state(tmp_path) == (None, None)


def test_the_line_for_people_names_device_software_commit_and_what_holds_clocks_back() -> None:
    found = capture("cpu").model_copy(
        update={
            "device": "NVIDIA H200",
            "device_type": "cuda",
            "driver": "570.1",
            "cuda": "12.8",
            "triton": "3.5.0",
            "git_commit": "0123456789abcdef",
            "git_dirty": True,
            "throttle_reasons": ["gpu_idle", "sw_power_cap"],
        }
    )
    line = environment_line(found)
    assert "\n" not in line
    for part in ("NVIDIA H200", "driver 570.1", "CUDA 12.8", "triton 3.5.0", "0123456789 with local changes"):
        assert part in line
    assert "held back by sw_power_cap" in line
    assert "gpu_idle" not in line
