"""`render`: records in, a folder with the report out."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pandas as pd

from bench.records import Record
from reports.markup import to_latex
from reports.page import Report, chapter, default_title, to_html, to_markdown_report
from reports.regressions import Regressions
from reports.study import group, worst_error_ratio

_CONTENT = {"index.html", "report.md", "results.csv", "tables", "figures"}


def render(
    records: list[Record], out: Path, *, title: str | None = None, regressions: Regressions | None = None
) -> Path:
    """Write a report of `records` to the folder `out` and return its ``index.html``.

    With `regressions`, what a comparison found of them, the page and the Markdown have a chapter about it.

    The folder holds ``index.html`` (self-contained), ``report.md``, ``results.csv`` (one row a record),
    ``tables/*.tex`` (booktabs) and ``figures/*.png``. It appears whole or not at all; an earlier
    report in `out` is replaced.

    Raises:
        ValueError: `records` is empty, or `out` exists and holds anything that is not part of a report.
    """
    if not records:
        raise ValueError("records must hold at least one record")
    out = out.absolute()
    _require_replaceable(out)
    studies = group(records)
    report = Report(title or default_title(studies), [chapter(study) for study in studies], regressions)

    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        (building / "index.html").write_text(to_html(report), encoding="utf-8")
        (building / "report.md").write_text(to_markdown_report(report), encoding="utf-8")
        to_frame(records).to_csv(building / "results.csv", index=False)
        (building / "tables").mkdir()
        (building / "figures").mkdir()
        for done in report.chapters:
            for table in done.tables:
                name = f"{done.study.slug}-{table.id}"
                (building / "tables" / f"{name}.tex").write_text(to_latex(table, name), encoding="utf-8")
            for panel in (panel for figure in done.figures for panel in figure.panels):
                (building / "figures" / f"{panel.id}.png").write_bytes(panel.png())
        building.chmod(0o755)
        _swap(building, out)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return out / "index.html"


def to_frame(records: list[Record]) -> pd.DataFrame:
    """One row a record: what ran, how it was checked, the summary in ms. Raw samples stay in the record file."""
    return pd.DataFrame([_row(record) for record in records])


def _row(record: Record) -> dict[str, object]:
    environment, summary, check = record.environment, record.summary, record.correctness
    return {
        "run_id": record.run_id,
        "created": record.created.isoformat(),
        "provider": record.provider,
        "implementation": record.implementation,
        "stage": record.stage,
        "direction": record.direction,
        **{("workload" if key == "name" else key): value for key, value in record.workload.model_dump().items()},
        **record.shape.model_dump(),
        "status": record.status,
        "reason": record.reason,
        "p20_ms": summary.p20 if summary else None,
        "p50_ms": summary.p50 if summary else None,
        "p80_ms": summary.p80 if summary else None,
        "n": summary.count if summary else 0,
        "error_over_budget": worst_error_ratio(record),
        "selection_errors": check.selection_errors if check else None,
        "oracle": check.oracle if check else None,
        "compile_s": record.compile_s,
        "flops": record.flops,
        "dense_flops": record.dense_flops,
        "bytes": record.bytes,
        "peak_memory_bytes": record.peak_memory_bytes,
        "device": environment.device,
        "driver": environment.driver,
        "torch": environment.torch,
        "triton": environment.triton,
        "git_commit": environment.git_commit,
        "git_dirty": environment.git_dirty,
        "fingerprint": environment.fingerprint,
    }


def _require_replaceable(out: Path) -> None:
    """Only an earlier report may be replaced, so that a mistyped path deletes nothing."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"out must be a folder, but {out} is a file")
    foreign = sorted({entry.name for entry in out.iterdir()} - _CONTENT)
    if foreign:
        raise ValueError(f"out must be a new or empty folder or an earlier report, but {out} holds {foreign[0]}")


def _swap(building: Path, out: Path) -> None:
    """Put `building` in the place of `out`, keeping an earlier report until the new one is in place."""
    if not out.exists():
        building.rename(out)
        return
    previous = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    os.replace(out, previous)
    try:
        building.rename(out)
    except BaseException:
        os.replace(previous, out)
        raise
    shutil.rmtree(previous)
