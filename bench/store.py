"""The store: a folder of runs, one record file each, that only ever grows.

A file is named by the time (UTC) of the run's first record, its commit and its run id, so that names sort by time.
Nothing here rewrites or deletes a file; whoever wants a run gone removes its file.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC
from pathlib import Path

from bench.records import Record, RecordFileError, read_records, write_records

_NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-z]+-(?P<run>[\w.-]+)\.jsonl", re.ASCII)
_RUN_ID = re.compile(r"[\w.-]+", re.ASCII)


def runs(store: Path) -> dict[str, Path]:
    """The file of each run by its id, the oldest first; empty where there is no folder yet.

    Raises:
        RecordFileError: something in the folder is not the file of a run. Hidden files and unfinished writes are passed
            over.
    """
    if not store.exists():
        return {}
    if not store.is_dir():
        raise RecordFileError(f"the store must be a folder, but {store} is a file")
    found: dict[str, Path] = {}
    for path in sorted(store.iterdir()):
        if path.name.startswith(".") or path.suffix == ".tmp":
            continue
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise RecordFileError(f"{path} is not the file of a run; a store holds nothing else")
        if match["run"] in found:
            raise RecordFileError(f"{path} and {found[match['run']]} are the same run")
        found[match["run"]] = path
    return found


def add(store: Path, records: Iterable[Record]) -> list[Path]:
    """Write one file for each run among the records.

    Returns:
        The new files.

    Raises:
        ValueError: a run that the store already has; then nothing is written.
        RecordFileError: what `runs` raises.
    """
    known = runs(store)
    members: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        members[record.run_id].append(record)
    for run in members:
        if run in known:
            raise ValueError(f"run {run} is in the store already: {known[run]}")
        if _RUN_ID.fullmatch(run) is None:
            raise ValueError(f"run id {run!r} cannot be part of a file name")
    paths = []
    for run, own in members.items():
        path = store / _name(run, own)
        write_records(path, own)
        paths.append(path)
    return paths


def read(store: Path) -> list[Record]:
    """All records, the oldest run first.

    Raises:
        RecordFileError: no runs there, what `runs` raises, or a file whose content is not that of its run.
    """
    found = runs(store)
    if not found:
        raise RecordFileError(f"no runs in {store}; `ssabench history add` puts them there")
    records = []
    for run, path in found.items():
        own = read_records(path)
        if any(record.run_id != run for record in own):
            raise RecordFileError(f"{path} holds records of another run than its name says")
        records += own
    return records


def _name(run: str, records: list[Record]) -> str:
    started = min(record.created for record in records).astimezone(UTC)
    commit = (records[0].environment.git_commit or "unknown")[:10]
    return f"{started:%Y%m%dT%H%M%SZ}-{commit}-{run}.jsonl"
