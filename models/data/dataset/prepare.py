"""A source to a dataset: resumable at any moment, and the same bytes however often it was interrupted.

Which assets there are, their order, splits, duplicates and shards are decided first, from names and content alone; a
hash of that and of the settings is the identity of the dataset. Workers put encoded samples into a staging folder, this
process notes in a journal what became of each asset, joins a shard when all of its assets are through, and writes the
manifest at the end. A run that finds a journal goes on from there.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from models.data.dataset import shards
from models.data.dataset.crew import Crew, Here, Lost, Processes, run
from models.data.dataset.manifest import (
    HEADER,
    MANIFEST,
    DatasetError,
    Entry,
    Header,
    Shard,
    read_header,
    read_manifest,
    to_line,
    write_header,
    write_manifest,
)
from models.data.dataset.plan import Plan, Progress, make_plan
from models.data.dataset.sample import Job, entry_of, prepare_sample
from models.data.dataset.settings import Settings, versions
from models.data.dataset.sources import list_assets
from models.data.dataset.splits import Split
from models.files import write_whole

_STAGING = ".staging"
_FILES = (*(f"{split}-[0-9][0-9][0-9][0-9][0-9].tar" for split in Split), MANIFEST, HEADER)


@dataclass(frozen=True)
class Prepared:
    """What a run did, and the whole dataset after it."""

    entries: list[Entry]  # in the order of the manifest
    now: int  # assets that this run put through
    seconds: float


def prepare(
    source: str,
    out: Path,
    settings: Settings,
    *,
    workers: int | None = None,
    ray: bool = False,
    time_limit: float | None = 600.0,
    limit: int | None = None,
    restart: bool = False,
    progress: Progress = lambda message, done, total: None,
) -> Prepared:
    """Prepare the assets of a source, or those that an interrupted run left.

    Args:
        source: see `sources.KINDS`.
        out: the dataset's folder. With Ray, all machines must see it and the source under the same paths.
        workers: processes; 0 works in this one, without time limit and without surviving what kills it. None: one, or
            with Ray one for each CPU or GPU of the cluster.
        time_limit: seconds for an asset.
        limit: only so many assets, a random choice that is the same for the same source.
        restart: begin anew, whatever dataset is in `out`.

    Raises:
        ValueError: an argument outside its range, or no such source.
        DatasetError: `out` holds something else, a dataset of other settings, versions or assets, or another run is at
            work on it.
    """
    if workers is not None and workers < (1 if ray else 0):
        raise ValueError(f"workers must be at least {1 if ray else 0}, got {workers}")
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"time_limit must be positive, got {time_limit}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be positive, got {limit}")
    start = time.monotonic()
    with _locked(out):
        _refuse_foreign(out)
        plan = make_plan(list_assets(source, out / _STAGING / "source"), settings, limit, progress)
        header = _header(source, settings, plan)
        if restart:  # only now that there is something to prepare
            _remove(out)
        _refuse_another(out, header)
        if (out / HEADER).exists() and read_header(out).complete:
            shutil.rmtree(out / _STAGING, ignore_errors=True)
            return Prepared(read_manifest(out), 0, time.monotonic() - start)
        write_header(out, header)
        outcomes = _journaled(out, plan.jobs)
        done_before = len(outcomes)
        todo = [job for job in plan.jobs if job.asset.key not in outcomes]
        if todo:
            crew = _crew(partial(_stage, settings, out), min(workers, len(todo)) if workers else workers, ray, settings)
            try:
                _work(crew, todo, plan, outcomes, out, time_limit, progress)
            finally:
                crew.close()
        for shard in plan.shards:
            _join_if_ready(out, shard, plan, outcomes)
        entries = [plan.settled.get(key) or outcomes[key] for key in plan.order]
        entries = _placed(entries)
        write_manifest(out, entries)
        write_header(out, header.model_copy(update={"complete": True, "shards": _shards(out, plan, entries)}))
        shutil.rmtree(out / _STAGING, ignore_errors=True)
    return Prepared(entries, len(outcomes) - done_before, time.monotonic() - start)


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """Hold the folder against other runs on this machine, also against what a killed run left."""
    out.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise DatasetError(f"another run is at work on {out}") from error
    try:
        yield
    finally:
        os.close(descriptor)


def _refuse_foreign(out: Path) -> None:
    """Raise DatasetError unless all that is in the folder is ours; what was half written is removed."""
    for pattern in _FILES:
        for path in out.glob(f"{pattern}*.tmp"):
            path.unlink()
    if not (out / HEADER).exists() and any(path.name != _STAGING for path in out.iterdir()):
        raise DatasetError(f"{out} is not empty and not a prepared dataset; name another folder")


def _remove(out: Path) -> None:
    """Remove a dataset, but not what was unpacked of its source."""
    for pattern in (*_FILES, f"{_STAGING}/journal.jsonl", f"{_STAGING}/samples/*"):
        for path in out.glob(pattern):
            path.unlink()


def _header(source: str, settings: Settings, plan: Plan) -> Header:
    decided = {"settings": settings.to_json(), "versions": versions(), "assets_sha256": plan.assets_sha256}
    digest = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()
    return Header.model_validate(
        {"complete": False, "source": source, "assets": len(plan.order), "sha256": digest, **decided}
    )


def _refuse_another(out: Path, header: Header) -> None:
    """Raise DatasetError unless the dataset in the folder, if there is one, is the one that the header describes."""
    if not (out / HEADER).exists():
        return
    there = read_header(out)
    if there.sha256 == header.sha256:
        return
    differences = [
        f"{name} {old.get(name)} instead of {new.get(name)}"
        for old, new in ((there.settings, header.settings), (there.versions, header.versions))
        for name in new
        if old.get(name) != new.get(name)
    ]
    if not differences:
        differences = [f"other assets ({there.assets}) than SOURCE has now ({header.assets})"]
    raise DatasetError(f"{out} was prepared with {', '.join(differences)}; use --restart, or another folder")


def _crew(
    function: partial[Entry | _Unwritable], workers: int | None, ray: bool, settings: Settings
) -> Crew[Job, Entry | _Unwritable]:
    if ray:
        from models.data.dataset.ray_crew import RayActors

        return RayActors(function, workers, gpu=settings.device == "cuda")
    return Here(function) if workers == 0 else Processes(function, workers or 1)


@dataclass(frozen=True)
class _Unwritable:
    """A sample found no place: trouble of the disk, not of the asset."""

    reason: str


def _stage(settings: Settings, out: Path, job: Job) -> Entry | _Unwritable:
    """What a worker does."""
    entry, data = prepare_sample(job, settings)
    if entry.status == "ok":
        try:
            write_whole(_sample(out, job.asset.key), [data])
        except OSError as error:
            return _Unwritable(str(error))
    return entry


def _sample(out: Path, key: str) -> Path:
    return out / _STAGING / "samples" / key


def _journaled(out: Path, jobs: list[Job]) -> dict[str, Entry]:
    """What earlier runs put through; not what they noted but of which the sample is gone."""
    known = {job.asset.key: job for job in jobs}
    found = {}
    journal = out / _STAGING / "journal.jsonl"
    for line in journal.read_bytes().splitlines() if journal.exists() else []:
        try:
            entry = Entry.model_validate_json(line)
        except ValidationError:  # the last line of a run that was killed
            continue
        if entry.key not in known:
            continue
        shard = out / known[entry.key].shard
        if entry.status == "failed" or shard.exists() or _is_whole(_sample(out, entry.key), entry):
            found[entry.key] = entry
    return found


def _is_whole(sample: Path, entry: Entry) -> bool:
    return sample.is_file() and sample.stat().st_size == entry.size


def _work(
    crew: Crew[Job, Entry | _Unwritable],
    todo: list[Job],
    plan: Plan,
    outcomes: dict[str, Entry],
    out: Path,
    time_limit: float | None,
    progress: Progress,
) -> None:
    """Put the assets through, note what became of them, and join the shards that are ready."""
    journal = out / _STAGING / "journal.jsonl"
    journal.parent.mkdir(exist_ok=True)
    with journal.open("ab") as file:
        file.write(b"\n")  # after a line that was cut off
        progress("preparing", len(outcomes), len(plan.jobs))
        for job, result in run(crew, todo, time_limit):
            if isinstance(result, _Unwritable):
                raise OSError(f"cannot write to {out}: {result.reason}")
            if isinstance(result, Lost):
                entry = entry_of(job).model_copy(update={"status": "failed", "reason": result.reason, "shard": None})
            else:
                entry = result
                if entry.status == "ok" and not _is_whole(_sample(out, entry.key), entry):
                    raise OSError(f"a worker's sample is not in {out}: all machines must see it under this path")
            outcomes[job.asset.key] = entry
            file.write(to_line(entry).encode())
            file.flush()
            _join_if_ready(out, job.shard, plan, outcomes)
            progress(f"{entry.status} {entry.key}", len(outcomes), len(plan.jobs))


def _join_if_ready(out: Path, shard: str, plan: Plan, outcomes: dict[str, Entry]) -> None:
    """Write a shard if all of its assets are through, and let go of their samples."""
    keys = [job.asset.key for job in plan.shards[shard]]
    if not all(key in outcomes for key in keys):
        return
    samples = [_sample(out, key) for key in keys if outcomes[key].status == "ok"]
    if not (out / shard).exists():
        shards.write_shard(out / shard, samples)
    for sample in samples:
        sample.unlink(missing_ok=True)


def _placed(entries: list[Entry]) -> list[Entry]:
    """The entries with the places of their samples, which lie behind each other in the shards."""
    end: Counter[str] = Counter()
    placed = []
    for entry in entries:
        if entry.shard is None or entry.size is None:
            placed.append(entry)
            continue
        placed.append(entry.model_copy(update={"offset": end[entry.shard]}))
        end[entry.shard] += entry.size
    return placed


def _shards(out: Path, plan: Plan, entries: list[Entry]) -> list[Shard]:
    samples = Counter(entry.shard for entry in entries)
    return [
        Shard(
            name=name,
            split=jobs[0].split,
            samples=samples[name],
            size=(out / name).stat().st_size,
            sha256=shards.file_sha256(out / name),
        )
        for name, jobs in sorted(plan.shards.items())
    ]
