"""The machine, software and commit behind a measurement."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.records import Environment
from bench.version import version

_ROOT = Path(__file__).resolve().parent.parent
# Distributions whose presence decides which baselines can run.
_OPTIONAL_PACKAGES = ("flash-attn", "flash-attn-4", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "nvidia-ml-py")
# Bits of NVML's clocks event (formerly throttle) reasons, nvml.h.
_THROTTLE_BITS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}


@dataclass(frozen=True)
class GpuState:
    """What the driver reports about one GPU; None where it does not."""

    driver: str | None = None
    sm_clock_mhz: int | None = None
    max_sm_clock_mhz: int | None = None
    power_limit_w: float | None = None
    temperature_c: int | None = None
    throttle_reasons: list[str] | None = None


def capture(device: torch.device | str) -> Environment:
    """Describe the machine that `device` belongs to, as it is now.

    Driver facts come from NVML where `pynvml` is installed, else from `nvidia-smi`, else they are None.

    Raises:
        ValueError: `device` is neither the CPU nor a CUDA device of this machine.
    """
    device = torch.device(device)
    gpu = GpuState()
    facts: dict[str, Any] = {}
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("device must be cpu here: torch finds no CUDA device")
        properties = torch.cuda.get_device_properties(device)
        gpu = _gpu_state(f"GPU-{properties.uuid}")
        facts = {
            "compute_capability": f"{properties.major}.{properties.minor}",
            "device_memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
        }
        name = properties.name
    elif device.type == "cpu":
        name = _cpu_name()
    else:
        raise ValueError(f"device must be cpu or cuda, got {device}")

    commit, dirty = _git_state(_ROOT)
    triton_version = _distribution_version("triton")
    threads = torch.get_num_threads()
    return Environment(
        device=name,
        device_type="cuda" if device.type == "cuda" else "cpu",
        **facts,
        driver=gpu.driver,
        cuda=torch.version.cuda,
        sm_clock_mhz=gpu.sm_clock_mhz,
        max_sm_clock_mhz=gpu.max_sm_clock_mhz,
        power_limit_w=gpu.power_limit_w,
        temperature_c=gpu.temperature_c,
        throttle_reasons=gpu.throttle_reasons,
        cpu=_cpu_name(),
        cpu_cores=len(os.sched_getaffinity(0)),
        threads=threads,
        os=platform.platform(),
        python=platform.python_version(),
        torch=str(torch.__version__),
        triton=triton_version,
        packages={name: found for name in _OPTIONAL_PACKAGES if (found := _distribution_version(name))},
        ssabench=version(),
        git_commit=commit,
        git_dirty=dirty,
        fingerprint=fingerprint(
            device=name,
            driver=gpu.driver,
            torch=str(torch.__version__),
            triton=triton_version,
            python=".".join(platform.python_version_tuple()[:2]),
            threads=threads if device.type == "cpu" else None,
        ),
    )


def fingerprint(**parts: str | int | None) -> str:
    """12 hex digits of the SHA-256 of what must match for two times to be comparable."""
    text = "\n".join(f"{name}={value}" for name, value in sorted(parts.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def environment_line(environment: Environment) -> str:
    """One line for people: device, software, commit, fingerprint."""
    parts = [environment.device]
    if environment.device_type == "cpu":
        parts[0] += f" ({environment.threads} threads)"
    if environment.driver:
        parts.append(f"driver {environment.driver}")
    if environment.device_type == "cuda" and environment.cuda:
        parts.append(f"CUDA {environment.cuda}")
    parts.append(f"torch {environment.torch}")
    parts.append(f"triton {environment.triton}" if environment.triton else "no triton")
    parts.append(f"Python {environment.python}")
    if environment.git_commit:
        parts.append(f"commit {environment.git_commit[:10]}{' with local changes' if environment.git_dirty else ''}")
    else:
        parts.append(f"ssabench {environment.ssabench}")
    if environment.throttle_reasons and (held := set(environment.throttle_reasons) - {"gpu_idle"}):
        parts.append(f"clocks held back by {', '.join(sorted(held))}")
    parts.append(f"fingerprint {environment.fingerprint}")
    return ", ".join(parts)


def throttle_reasons(bits: int) -> list[str]:
    """Names of the set bits of NVML's clocks event reasons, lowest bit first; unknown bits as hex."""
    known = [name for bit, name in _THROTTLE_BITS.items() if bits & bit]
    unknown = bits & ~sum(_THROTTLE_BITS)
    return known + ([hex(unknown)] if unknown else [])


def parse_nvidia_smi(line: str) -> GpuState:
    """Read one CSV line of `nvidia-smi --query-gpu`, fields as `_SMI_FIELDS`, without header or units."""
    values = [value.strip() for value in line.split(",")]
    if len(values) != len(_SMI_FIELDS):
        return GpuState()
    driver, clock, max_clock, power, temperature, reasons = (
        None if value.startswith("[") else value for value in values
    )
    return GpuState(
        driver=driver,
        sm_clock_mhz=int(clock) if clock else None,
        max_sm_clock_mhz=int(max_clock) if max_clock else None,
        power_limit_w=float(power) if power else None,
        temperature_c=int(temperature) if temperature else None,
        throttle_reasons=throttle_reasons(int(reasons, 16)) if reasons else None,
    )


_SMI_FIELDS = (
    "driver_version",
    "clocks.sm",
    "clocks.max.sm",
    "power.limit",
    "temperature.gpu",
    "clocks_throttle_reasons.active",
)


def _gpu_state(uuid: str) -> GpuState:
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        query = ["nvidia-smi", f"--id={uuid}", f"--query-gpu={','.join(_SMI_FIELDS)}", "--format=csv,noheader,nounits"]
        return parse_nvidia_smi(_output(query) or "")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return GpuState()
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
        bits = _nvml_value(nvml, nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
        power_mw = _nvml_value(nvml, nvml.nvmlDeviceGetEnforcedPowerLimit, handle)
        return GpuState(
            driver=_nvml_value(nvml, nvml.nvmlSystemGetDriverVersion),
            sm_clock_mhz=_nvml_value(nvml, nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
            max_sm_clock_mhz=_nvml_value(nvml, nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM),
            power_limit_w=None if power_mw is None else power_mw / 1000,
            temperature_c=_nvml_value(nvml, nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            throttle_reasons=None if bits is None else throttle_reasons(bits),
        )
    except nvml.NVMLError:
        return GpuState()
    finally:
        nvml.nvmlShutdown()


def _nvml_value(nvml: Any, query: Any, *arguments: Any) -> Any:
    """The answer, or None where this GPU does not support the query."""
    try:
        return query(*arguments)
    except nvml.NVMLError:
        return None


def _git_state(root: Path) -> tuple[str | None, bool | None]:
    """(commit, whether tracked files are changed) if `root` itself is a checkout, else (None, None)."""
    top = _output(["git", "-C", str(root), "rev-parse", "--show-toplevel"])
    # An installed copy may lie inside the checkout of another project.
    if top is None or Path(top) != root:
        return None, None
    commit = _output(["git", "-C", str(root), "rev-parse", "HEAD"])
    changes = _output(["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"])
    return commit, None if changes is None else bool(changes)


def _output(command: list[str]) -> str | None:
    """Standard output of a command, stripped; None if it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _distribution_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
