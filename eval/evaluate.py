"""Many assets by one protocol: in processes of their own, so that one that crashes or hangs costs one row.

Rows are appended to a file as they come; a run that was stopped goes on from there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from eval.job import Job, make_row, run_job, sha256
from eval.nearest import use_threads
from eval.protocols.protocol import Protocol
from eval.rows import FILE, Row, read_rows, to_lines
from models.data.dataset import crew
from models.data.dataset.crew import Lost, Processes

Progress = Callable[[str, int, int], None]
PICTURES = "pictures"
TIME_LIMIT = 600.0  # seconds for one asset by one method


def evaluate(
    jobs: Sequence[Job],
    protocol: Protocol,
    out: Path,
    *,
    workers: int,
    device: str = "cpu",
    time_limit: float = TIME_LIMIT,
    resume: bool = False,
    progress: Progress | None = None,
) -> list[Row]:
    """Rows of all jobs, in their order; also in ``rows.jsonl`` of the folder `out`, with pictures beside it.

    Args:
        workers: processes; on a CPU they share its cores.
        time_limit: seconds for a job; one that takes longer has failed.
        resume: keep the rows of an earlier run that have scores, if protocol and files are still the same; rows of
            other jobs are dropped.

    Raises:
        ValueError: no jobs, fewer than one worker, a time limit that is not positive, or rows in `out` that are not
            to be resumed.
    """
    if not jobs:
        raise ValueError("jobs must not be empty")
    if workers < 1:
        raise ValueError(f"workers must be positive, got {workers}")
    if not time_limit > 0:
        raise ValueError(f"time_limit must be positive, got {time_limit}")
    path = out / FILE
    if path.exists() and not resume:
        raise ValueError(f"{path} exists: resume it, or choose another folder")
    kept = _kept(read_rows(path), jobs, protocol) if path.exists() else {}
    out.mkdir(parents=True, exist_ok=True)
    _replace(path, list(kept.values()))

    open_jobs = [job for job in jobs if (job.asset, job.method) not in kept]
    found = dict(kept)
    with path.open("a", encoding="utf-8") as file:
        for row in _run(open_jobs, protocol, out / PICTURES, workers, device, time_limit):
            file.write(to_lines([row]))
            file.flush()
            found[row.asset, row.method] = row
            if progress is not None:
                progress(f"{row.asset}, {row.method}", len(found), len(jobs))
    rows = [found[job.asset, job.method] for job in jobs]
    _replace(path, rows)
    return rows


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))


def _run(
    jobs: Sequence[Job], protocol: Protocol, pictures: Path, workers: int, device: str, time_limit: float
) -> Iterator[Row]:
    if not jobs:
        return
    size = min(workers, len(jobs))
    threads = max(1, cores() // size) if device == "cpu" else cores()
    work = partial(_attempt, protocol=protocol, pictures=pictures, device=device, threads=threads)
    workforce: Processes[Job, Row] = Processes(work, size)
    try:
        for job, result in crew.run(workforce, jobs, time_limit):
            if isinstance(result, Lost):
                yield make_row(job, protocol, device, "failed", result.reason, seconds=None)
            else:
                yield result
    finally:
        workforce.close()


def _attempt(job: Job, protocol: Protocol, pictures: Path, device: str, threads: int) -> Row:
    """Of a worker, which has its share of the cores for searches."""
    use_threads(threads)
    return run_job(job, protocol, pictures, device)


def _kept(rows: Sequence[Row], jobs: Sequence[Job], protocol: Protocol) -> dict[tuple[str, str], Row]:
    """Rows with scores of what is still the same, by asset and method."""
    wanted = {(job.asset, job.method): job for job in jobs}
    kept = {}
    for row in rows:
        job = wanted.get((row.asset, row.method))
        if job is None or row.status != "ok" or row.protocol_digest != protocol.digest:
            continue
        pred_sha256 = None if job.pred_file is None else sha256(job.pred_file)
        same_pred = row.pred_sha256 == pred_sha256 and (isinstance(job.pred, Path) or row.pred == str(job.pred))
        if same_pred and row.ref_sha256 == sha256(job.ref):
            kept[row.asset, row.method] = row
    return kept


def _replace(path: Path, rows: Sequence[Row]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(to_lines(rows), encoding="utf-8")
    os.replace(temporary, path)
