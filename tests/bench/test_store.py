"""The store: it only grows, takes a run once, and reads nothing that is not a run."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from records_factory import CPU, timed

from bench import store
from bench.records import Record, RecordFileError, write_records

START = datetime(2026, 3, 1, 12, 0, 5, tzinfo=UTC)


def run(name: str, hours: int = 0, **changes: object) -> list[Record]:
    """Two records of one run."""
    created = START + timedelta(hours=hours)
    later = created + timedelta(minutes=1)
    return [
        timed("ssa-triton", 8192, "bwd", 2.0, run_id=name, created=later, **changes),
        timed("ssa-triton", 8192, "fwd", 1.0, run_id=name, created=created, **changes),
    ]


def test_a_run_becomes_one_file_named_by_time_commit_and_run(tmp_path: Path) -> None:
    (path,) = store.add(tmp_path / "history", run("a1"))
    assert path == tmp_path / "history" / "20260301T120005Z-0123456789-a1.jsonl"
    assert store.read(tmp_path / "history") == run("a1")


def test_times_are_utc_and_a_commit_may_be_unknown(tmp_path: Path) -> None:
    east = START.astimezone(timezone(timedelta(hours=9)))
    records = [record.model_copy(update={"created": east}) for record in run("a1")]
    unknown = CPU.model_copy(update={"git_commit": None})
    (path,) = store.add(tmp_path, [record.model_copy(update={"environment": unknown}) for record in records])
    assert path.name == "20260301T120005Z-unknown-a1.jsonl"


def test_runs_of_one_file_are_parted_and_read_in_the_order_of_time(tmp_path: Path) -> None:
    assert len(store.add(tmp_path, [*run("late", hours=30), *run("early")])) == 2
    store.add(tmp_path, run("middle", hours=5))
    assert [record.run_id for record in store.read(tmp_path)] == [*["early"] * 2, *["middle"] * 2, *["late"] * 2]
    assert list(store.runs(tmp_path)) == ["early", "middle", "late"]


def test_a_run_is_taken_once_and_a_refused_addition_writes_nothing(tmp_path: Path) -> None:
    (path,) = store.add(tmp_path, run("a1"))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"run a1 is in the store already: {path}"):
        store.add(tmp_path, [*run("b2"), *run("a1", hours=1)])
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_adding_leaves_other_files_as_they_are(tmp_path: Path) -> None:
    (first,) = store.add(tmp_path, run("a1"))
    before = first.stat()
    store.add(tmp_path, run("b2"))
    assert first.stat() == before


@pytest.mark.parametrize("name", ["", "a/b", "../a", "a b"])
def test_a_run_id_that_cannot_be_a_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be part of a file name"):
        store.add(tmp_path, run(name))
    assert not list(tmp_path.iterdir())


def test_run_ids_that_end_alike_are_told_apart(tmp_path: Path) -> None:
    store.add(tmp_path, run("run-1"))
    store.add(tmp_path, run("1"))
    assert set(store.runs(tmp_path)) == {"run-1", "1"}


def test_a_store_that_is_not_there_has_no_runs_and_cannot_be_read(tmp_path: Path) -> None:
    assert store.runs(tmp_path / "none") == {}
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(RecordFileError, match=f"no runs in {missing}; `ssabench history add`"):
            store.read(missing)
    (tmp_path / "file").touch()
    with pytest.raises(RecordFileError, match="the store must be a folder"):
        store.runs(tmp_path / "file")


@pytest.mark.parametrize("name", ["speed.jsonl", "notes.txt", "20260301T120005Z-0123456789.jsonl"])
def test_a_foreign_file_is_named(tmp_path: Path, name: str) -> None:
    store.add(tmp_path, run("a1"))
    write_records(tmp_path / name, run("b2"))
    for use in (store.read, lambda folder: store.add(folder, run("c3"))):
        with pytest.raises(RecordFileError, match=f"{name} is not the file of a run"):
            use(tmp_path)


def test_unfinished_writes_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    (path,) = store.add(tmp_path, run("a1"))
    (tmp_path / f"{path.name}x7.tmp").write_text('{"half')
    (tmp_path / ".gitignore").write_text("*")
    assert store.read(tmp_path) == run("a1")


def test_a_damaged_file_is_named_with_its_line(tmp_path: Path) -> None:
    (path,) = store.add(tmp_path, run("a1"))
    path.write_text(path.read_text()[:-20])
    with pytest.raises(RecordFileError, match=f"{path}:2: not a record"):
        store.read(tmp_path)


def test_a_file_must_hold_the_run_of_its_name_and_only_one_file_may(tmp_path: Path) -> None:
    (path,) = store.add(tmp_path, run("a1"))
    write_records(path, run("b2"))
    with pytest.raises(RecordFileError, match=f"{path} holds records of another run"):
        store.read(tmp_path)
    write_records(tmp_path / path.name.replace("2026", "2027"), run("a1"))
    with pytest.raises(RecordFileError, match="are the same run"):
        store.runs(tmp_path)
