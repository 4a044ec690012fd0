"""Synthetic records: times follow laws, so that a test can say what the report must print."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from bench.records import Ceilings, Correctness, Environment, Record, Shape, Summary, TensorError, Workload

GPU = Environment(
    device="NVIDIA H200",
    device_type="cuda",
    compute_capability="9.0",
    device_memory_bytes=150_000_000_000,
    multiprocessors=132,
    driver="570.86.15",
    cuda="12.8",
    sm_clock_mhz=1980,
    max_sm_clock_mhz=1980,
    power_limit_w=700.0,
    temperature_c=34,
    throttle_reasons=[],
    cpu="Intel Xeon Platinum 8592+",
    cpu_cores=16,
    threads=16,
    os="Linux 6.8",
    python="3.11.9",
    torch="2.9.1",
    triton="3.5.1",
    packages={"flash-attn": "2.8.3"},
    ssabench="0.1.0",
    git_commit="0123456789abcdef0123456789abcdef01234567",
    git_dirty=False,
    fingerprint="a1b2c3d4e5f6",
)
CPU = GPU.model_copy(
    update={
        "device": "Intel Xeon Platinum 8592+",
        "device_type": "cpu",
        "driver": None,
        "compute_capability": None,
        "triton": None,
        "packages": {},
        "git_dirty": True,
        "threads": 2,
        "fingerprint": "c0ffee000000",
    }
)
SHAPE = Shape(
    heads=32,
    kv_heads=2,
    head_dim=32,
    dtype="bfloat16",
    compression_block=4,
    selection_block=8,
    window=8,
    window_shift=4,
    topk=8,
)
CEILINGS = Ceilings(copy_bytes_per_s=4e12, matrix_flops_per_s=8e14, exp2_per_s=4e12)
SWEEP = (8192, 16384, 32768, 65536, 131072)
# Forward milliseconds = a * tokens ** b; backward takes 2.5 times, both together 3.5 times.
LAWS = {
    "ssa-triton": (2.0e-4, 0.9),
    "nsa-triton": (1.5e-5, 1.1),
    "dense-sdpa-flash": (6.0e-9, 2.0),
    "dense-sdpa-cudnn": (3.0e-9, 2.0),
    "dense-sdpa-math": (6.0e-8, 2.0),
    "packed-sdpa-flash": (2.0e-10, 2.0),
}
PASS_FACTOR = {"fwd": 1.0, "bwd": 2.5, "fwd_bwd": 3.5}
BRANCH_SHARE = {"cmp": 0.3, "select": 0.35, "slc": 0.25, "win": 0.1}


def workload(tokens: int, **changes: Any) -> Workload:
    values = {
        "name": "gyroid",
        "tokens": tokens,
        "resolution": 128,
        "seed": 0,
        "selection_blocks": tokens // 100,
        "compression_blocks": tokens // 16,
    }
    return Workload.model_validate(values | changes)


def correctness(error: float = 0.002, budget: float = 0.005) -> Correctness:
    tensors = [
        TensorError(name="o", error=error / 2, budget=budget),
        TensorError(name="dq", error=error, budget=budget),
    ]
    return Correctness(
        passed=error <= budget, oracle="fp64 reference on 2,048 tokens", tensors=tensors, selection_errors=0
    )


def timed(provider: str, tokens: int, direction: str, ms: float, stage: str = "total", **changes: Any) -> Record:
    """A passed measurement with median `ms`."""
    values: dict[str, Any] = {
        "run_id": "run-1",
        "created": datetime(2026, 1, 1, tzinfo=UTC),
        "provider": provider,
        "implementation": provider.split("-", 1)[1],
        "stage": stage,
        "direction": direction,
        "workload": workload(tokens),
        "shape": SHAPE,
        "status": "ok",
        "correctness": correctness(),
        "samples_ms": [0.97 * ms, ms, 1.05 * ms],
        "summary": Summary(p20=0.97 * ms, p50=ms, p80=1.05 * ms, count=3),
        "flops": 1e6 * tokens,
        "bytes": 1e4 * tokens,
        "exponentials": 1e4 * tokens,
        "ceilings": CEILINGS,
        "peak_memory_bytes": 4096 * tokens,
        "environment": GPU,
    }
    return Record.model_validate(values | changes)


def missing(provider: str, tokens: int, direction: str, status: str, reason: str, **changes: Any) -> Record:
    """A measurement that has no time."""
    values: dict[str, Any] = {
        "run_id": "run-1",
        "created": datetime(2026, 1, 1, tzinfo=UTC),
        "provider": provider,
        "implementation": "none",
        "direction": direction,
        "workload": workload(tokens),
        "shape": SHAPE,
        "status": status,
        "reason": reason,
        "environment": GPU,
    }
    return Record.model_validate(values | changes)


def law(provider: str, tokens: int, direction: str) -> float:
    scale, exponent = LAWS[provider]
    return PASS_FACTOR[direction] * scale * tokens**exponent


def gpu_sweep(tokens: tuple[int, ...] = SWEEP, without: tuple[str, ...] = ()) -> list[Record]:
    """A whole speed run on a GPU, with an out-of-memory and an unavailable provider."""
    records = []
    for count in tokens:
        for direction in PASS_FACTOR:
            for provider in (name for name in LAWS if name not in without):
                if provider == "dense-sdpa-math" and count > 16384:
                    reason = "needs 128 GiB for the score matrix"
                    records.append(missing(provider, count, direction, "out_of_memory", reason))
                else:
                    records.append(timed(provider, count, direction, law(provider, count, direction)))
            reason = "flash-attn-4 needs compute capability 10.0, this device has 9.0"
            records.append(missing("dense-flash-attn-4", count, direction, "unavailable", reason))
        for direction in ("fwd", "bwd"):
            for branch, share in BRANCH_SHARE.items():
                if (branch, direction) != ("select", "bwd"):
                    ms = share * law("ssa-triton", count, direction)
                    records.append(timed("ssa-triton", count, direction, ms, stage=branch))
    return records


def cpu_sweep(tokens: tuple[int, ...] = (512, 1024, 2048)) -> list[Record]:
    """A whole speed run on a CPU: no Triton, no FlashAttention-2, no peak memory."""
    changes = {
        "environment": CPU,
        "shape": SHAPE.model_copy(update={"dtype": "float32"}),
        "peak_memory_bytes": None,
    }
    lost = {key: value for key, value in changes.items() if key != "peak_memory_bytes"}
    records = []
    for count in tokens:
        for direction, factor in PASS_FACTOR.items():
            records.append(timed("ssa-eager", count, direction, factor * 2e-2 * count, **changes))
            records.append(timed("dense-sdpa-math", count, direction, factor * 1e-5 * count**2, **changes))
            reason = "FlashAttention-2 needs a CUDA device"
            records.append(missing("dense-sdpa-flash", count, direction, "unavailable", reason, **lost))
            records.append(missing("ssa-triton", count, direction, "unavailable", "Triton needs a CUDA device", **lost))
    return records
