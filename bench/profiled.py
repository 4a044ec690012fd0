"""What a profile says, and its table and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from bench.ncu import NcuLaunch
from bench.records import Environment, Pass, Shape, Stage, Workload


@dataclass(frozen=True)
class Target:
    """What is profiled.

    Attributes:
        workload, tokens: as `bench.workloads.make_tokens` takes them, without `inputs`.
        inputs: a file of captured inputs.
    """

    stage: Stage
    direction: Pass
    provider: str
    shape: Shape
    device: str
    workload: str = "gyroid"
    tokens: int = 0
    inputs: Path | None = None
    seed: int = 0


@dataclass(frozen=True)
class Row:
    """A kernel with certain resources, or a kind of copies; on a CPU an operator. None: it has no such thing."""

    name: str
    launches: float  # a call
    milliseconds: float  # a call, on the device; on a CPU without the operators that it calls
    share: float  # of all rows
    programs: int | None = None  # of the largest launch
    threads: int | None = None  # of a program
    registers: int | None = None  # of a thread
    local_bytes: int | None = None  # of a thread, Triton kernels only: spilled registers and indexed arrays
    shared_bytes: int | None = None  # of a program
    resident_programs: int | None = None  # of a multiprocessor, by bench.occupancy
    resident_warps: int | None = None
    most_warps: int | None = None
    limited_by: str | None = None
    flops_per_s: float | None = None  # of its matrix products, where they are known
    matrix_share: float | None = None  # of the probed rate


@dataclass(frozen=True)
class Rate:
    """What the whole pass reaches of one ceiling, by the counts of `bench.accounting`."""

    ceiling: str
    unit: str
    achieved: float
    most: float

    @property
    def share(self) -> float:
        return self.achieved / self.most


@dataclass(frozen=True)
class Profile:
    target: Target
    implementation: str
    workload: Workload
    environment: Environment
    calls: int
    milliseconds: float  # a call: device time on a GPU, wall time under the profiler on a CPU
    rows: tuple[Row, ...]
    rates: tuple[Rate, ...]
    synchronizations: Mapping[str, float]  # host calls that wait for the device, a call
    ncu: tuple[str, ...]  # command line
    launches: tuple[NcuLaunch, ...]  # what ncu measured
    notes: tuple[str, ...]  # what is missing, and why
    files: tuple[Path, ...]


def to_csv(rows: Sequence[Row]) -> str:
    """One line a row; columns that no row has are left out."""
    names = [field.name for field in fields(Row) if any(getattr(row, field.name) is not None for row in rows)]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(names)
    table.writerows([getattr(row, name) for name in names] for row in rows)
    return text.getvalue()


def to_json(result: Profile) -> str:
    """Everything but the files; names and units as in the classes above."""
    target = result.target
    content = {
        "stage": target.stage,
        "direction": target.direction,
        "provider": target.provider,
        "implementation": result.implementation,
        "workload": result.workload.model_dump(mode="json"),
        "shape": target.shape.model_dump(mode="json"),
        "environment": result.environment.model_dump(mode="json"),
        "calls": result.calls,
        "milliseconds": result.milliseconds,
        "rates": [asdict(rate) | {"share": rate.share} for rate in result.rates],
        "synchronizations": dict(result.synchronizations),
        "rows": [{key: value for key, value in asdict(row).items() if value is not None} for row in result.rows],
        "ncu": {
            "command": list(result.ncu),
            "launches": [
                {
                    "kernel": launch.kernel,
                    "metrics": [
                        {"section": section, "metric": metric, "value": value}
                        for (section, metric), value in launch.metrics.items()
                    ],
                }
                for launch in result.launches
            ],
        },
        "notes": list(result.notes),
    }
    return json.dumps(content, indent=2) + "\n"
