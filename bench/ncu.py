"""NVIDIA Nsight Compute (`ncu`): the command that looks into a call's kernels, its run, and its table."""

from __future__ import annotations

import csv
import io
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SECTIONS: Final = (
    *("SpeedOfLight", "LaunchStats", "Occupancy"),
    *("ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis", "SchedulerStats", "WarpStateStats"),
)
_TIMEOUT_S = 540


class NcuError(Exception):
    """ncu made no report; the message is its reason, in one line."""


@dataclass(frozen=True)
class NcuLaunch:
    """One profiled launch."""

    kernel: str
    metrics: dict[tuple[str, str], float]  # (section's title, metric) -> value in base units: ns, byte, %, ...


def ncu_command(program: Sequence[str], kernels: Sequence[str], launches: int | None, report: Path) -> list[str]:
    """The command line that profiles the kernels of one call of `program`.

    What comes before the call (compilation, set-up, warm-up) is left out by the program, which calls cudaProfilerStart
    before it and cudaProfilerStop after it: that holds however many kernels come before, which a number of launches to
    skip does not. Clocks are left as they are, so that times compare with those measured without ncu.

    Args:
        program: command line with such a range.
        kernels: names without namespaces and template arguments; none for every kernel.
        launches: of those kernels in the range; None where it is not known.
        report: file without its suffix, .ncu-rep.
    """
    names = "|".join(map(re.escape, kernels))
    return [
        *("ncu", "--profile-from-start", "off", "--clock-control", "none"),
        *(("--kernel-name", f"regex:^({names})$") if kernels else ()),
        *(("--launch-skip", "0", "--launch-count", str(launches)) if launches is not None else ()),
        *(part for section in SECTIONS for part in ("--section", section)),
        *("--force-overwrite", "--export", str(report)),
        *program,
    ]


def run_ncu(command: Sequence[str], report: Path) -> str:
    """Run a command of `ncu_command` and read its report back.

    Returns:
        The report's details as CSV; the report itself is left beside it.

    Raises:
        NcuError: no report came out, for instance without permission to read the counters (ERR_NVGPUCTRPERM).
    """
    made = report.with_name(f"{report.name}.ncu-rep")
    made.unlink(missing_ok=True)
    output = _run(command)
    if not made.exists():
        raise NcuError(failure(output))
    return _run(["ncu", "--import", str(made), "--csv", "--page", "details", "--print-units", "base"])


def failure(output: str) -> str:
    """Why there is no report: ncu's first error or, where that is the program's, the program's last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors, warnings = (
        [line.removeprefix(mark).strip() for line in lines if line.startswith(mark)]
        for mark in ("==ERROR==", "==WARNING==")
    )
    of_ncu = [error for error in errors if not error.startswith("The application returned an error")]
    of_program = [line for line in lines if not line.startswith("==")]
    if of_ncu or (warnings and not errors):
        return (of_ncu or warnings)[0]
    return (of_program or errors or ["ncu printed nothing"])[-1]


def parse_ncu(text: str) -> list[NcuLaunch]:
    """The launches of ncu's CSV of the details page; lines before the header are passed over, rules too.

    Raises:
        ValueError: there is no such table in the text.
    """
    found = re.search(r'^"ID",.*"Kernel Name",.*"Metric Value"', text, re.MULTILINE)
    if found is None:
        raise ValueError("not a CSV of ncu's details page: it has no header with ID, Kernel Name and Metric Value")
    launches: dict[str, NcuLaunch] = {}
    for row in csv.DictReader(io.StringIO(text[found.start() :])):
        launch = launches.setdefault(row["ID"], NcuLaunch(row["Kernel Name"], {}))
        try:
            value = float((row["Metric Value"] or "").replace(",", ""))
        except ValueError:  # a name, e.g. of a cache configuration, or a rule's empty cell
            continue
        launch.metrics[row["Section Name"], row["Metric Name"]] = value
    return list(launches.values())


def _run(command: Sequence[str]) -> str:
    """What the command prints; an exit code that is not 0 is told by the report that is missing."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except FileNotFoundError as error:
        raise NcuError("ncu is not on the PATH") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NcuError(str(error).splitlines()[0]) from error
    return done.stdout + done.stderr
