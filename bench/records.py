"""The record: one JSON line per measurement, and the file that holds them.

A speed record carries raw samples only if its provider ran *and* passed its correctness check; pydantic refuses
anything else, so a time without a passed check cannot be written down.

Schema version 2 added what is known about the samples (conditions, blocks, discards), a judgement of what the timed
call returned, and the times of other modes. Records of version 1 have none of it and stay readable.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.files import write_whole as write_whole

SCHEMA_VERSION: Final = 2

Status = Literal["ok", "unavailable", "failed_check", "out_of_memory", "error"]
Pass = Literal["fwd", "bwd", "fwd_bwd"]
# "total" is the whole operator; the others are the branches of SSA in the order they run.
Stage = Literal["total", "cmp", "select", "slc", "win"]


class _Frozen(BaseModel):
    # The error of a result that is not a number is one neither, and must survive the file.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Environment(_Frozen):
    """Where a measurement was made. `fingerprint` hashes what must match for two times to be comparable."""

    device: str  # marketing name of the GPU, or of the CPU
    device_type: Literal["cuda", "cpu"]
    compute_capability: str | None = None
    device_memory_bytes: int | None = None
    multiprocessors: int | None = None
    driver: str | None = None
    cuda: str | None = None
    sm_clock_mhz: int | None = None  # at the start of the run
    max_sm_clock_mhz: int | None = None
    power_limit_w: float | None = None
    temperature_c: int | None = None
    throttle_reasons: list[str] | None = None
    cpu: str
    cpu_cores: int
    threads: int  # torch intra-op threads
    os: str
    python: str
    torch: str
    triton: str | None
    packages: dict[str, str] = Field(default_factory=dict)  # optional baselines found
    ssabench: str
    git_commit: str | None
    git_dirty: bool | None
    fingerprint: str


class Workload(_Frozen):
    """What the tokens are."""

    name: str  # "gyroid", "sphere", "mesh:<asset>" or "mesh:<file stem>"; of captured inputs what their file says
    inputs: str = "random"  # or "captured:<digest>" of the file (bench.captured)
    tokens: int
    resolution: int  # latent grid
    batch_size: int = 1
    seed: int
    selection_blocks: int  # occupied
    compression_blocks: int  # occupied

    @property
    def captured(self) -> str | None:
        """Digest of the captured inputs; None for random ones."""
        kind, _, digest = self.inputs.partition(":")
        return digest if kind == "captured" else None

    @property
    def label(self) -> str:
        """What the workload is called in tables and figures."""
        return self.name if self.captured is None else f"{self.name}, captured"


class Shape(_Frozen):
    """The attention problem on those tokens."""

    heads: int
    kv_heads: int
    head_dim: int
    dtype: Literal["bfloat16", "float16", "float32"]
    compression_block: int
    selection_block: int
    window: int
    window_shift: int
    topk: int


class TensorError(_Frozen):
    """Error of one output or gradient against the oracle, beside what was allowed."""

    name: str  # "o", "dq", ...
    error: float  # relative RMS error against the oracle
    budget: float

    @property
    def passed(self) -> bool:
        return self.error <= self.budget  # false for NaN


class Correctness(_Frozen):
    passed: bool
    oracle: str  # what it was compared with, on how many tokens
    tensors: list[TensorError]
    selection_errors: int | None = None  # rows whose chosen blocks break the score or tie rule


class Ceilings(_Frozen):
    """What simple programs reach on the machine, by `bench.ceilings`."""

    copy_bytes_per_s: float  # read + written
    matrix_flops_per_s: float  # in the dtype of the run
    exp2_per_s: float  # fp32


class Summary(_Frozen):
    """Milliseconds."""

    p20: float
    p50: float
    p80: float
    count: int


class Conditions(_Frozen):
    """The device beside each sample, one entry a sample; None where the machine does not tell."""

    clock_mhz: list[int | None] | None = None  # of the SMs, or of the CPU core that ran the call
    power_w: list[float | None] | None = None
    temperature_c: list[int | None] | None = None
    throttle_reasons: list[list[str] | None] | None = None


class Sampling(_Frozen):
    """How `samples_ms` came about (bench.timing)."""

    blocks: list[int]  # samples of each block, in order; the inputs' values changed between blocks
    conditions: Conditions
    discarded: dict[str, int] = Field(default_factory=dict)  # samples taken again, by what held the clock back
    disturbed: int = 0  # samples kept although the clock was held back: the bound of discards was reached


class Modes(_Frozen):
    """Times of the same call beside those from a cold L2 cache (bench.modes); CUDA only, milliseconds."""

    host: Summary  # of the host alone, until the call returns
    warm: Summary | None = None  # device, L2 cache as the call before left it
    graph: Summary | None = None  # device, replayed as a CUDA graph, cold L2
    reason: str | None = None  # why there is no graph, or neither


class Record(_Frozen):
    """One measurement of one provider on one workload."""

    schema_version: Literal[1, 2] = SCHEMA_VERSION
    run_id: str  # shared by all records of one invocation
    created: datetime = Field(default_factory=lambda: datetime.now(UTC))
    provider: str  # "ssa-triton", "dense-sdpa-flash", ...
    implementation: str  # what really ran, e.g. "triton", "sdpa flash (FlashAttention-2)"
    stage: Stage = "total"
    direction: Pass
    workload: Workload
    shape: Shape
    status: Status
    reason: str | None = None  # why there is no time, in one sentence
    correctness: Correctness | None = None
    timed_correctness: Correctness | None = None  # of what the timed call returned (bench.judging)
    samples_ms: list[float] = Field(default_factory=list)  # cold L2, in the order they were taken
    summary: Summary | None = None
    sampling: Sampling | None = None
    modes: Modes | None = None
    compile_s: float | None = None  # first call, compilation included
    flops: float | None = None  # executed, by the formula of bench.accounting
    dense_flops: float | None = None  # of exact dense attention on the same tokens
    bytes: float | None = None  # least device-memory traffic
    exponentials: float | None = None  # least number, by the formula of bench.accounting
    ceilings: Ceilings | None = None  # of the machine, probed in the same run
    peak_memory_bytes: int | None = None  # above what the inputs hold
    environment: Environment

    @model_validator(mode="after")
    def _time_needs_a_passed_check(self) -> Record:
        if self.status == "ok":
            if self.correctness is None or not self.correctness.passed:
                raise ValueError("a time is recorded only with a passed correctness check")
            if self.timed_correctness is not None and not self.timed_correctness.passed:
                raise ValueError("a time is recorded only if what the timed call returned is right")
            if not self.samples_ms or self.summary is None:
                raise ValueError("status ok needs samples_ms and summary")
        elif self.samples_ms or self.summary is not None:
            raise ValueError(f"status {self.status} must not carry times")
        elif not self.reason:
            raise ValueError(f"status {self.status} needs a reason")
        return self


class RecordFileError(Exception):
    """A record file that cannot be read; the message names file and line."""


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write a record file whole."""
    write_whole(path, (record.model_dump_json() + "\n" for record in records))


def read_records(path: Path) -> list[Record]:
    """All records of a JSONL file, of a JSON by `pytest bench`, or of every ``*.jsonl`` below a folder, in file order.

    Raises:
        RecordFileError: nothing there, or a line or benchmark that is not a record of this schema.
    """
    from bench.pytest_json import parse_benchmarks, to_record  # which is made of records

    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    records = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise RecordFileError(f"cannot read {file}: {error.strerror}") from error
        benchmarks = parse_benchmarks(text)
        if benchmarks is not None:
            try:
                records += [to_record(benchmark) for benchmark in benchmarks]
            except ValueError as error:
                raise RecordFileError(f"{file}: {error}") from error
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                records.append(Record.model_validate_json(line))
            except ValidationError as error:
                detail = error.errors()[0]
                where = ".".join(str(part) for part in detail["loc"])
                raise RecordFileError(f"{file}:{number}: not a record: {where} {detail['msg']}") from error
    if not records:
        raise RecordFileError(f"no records in {path}")
    return records
