"""`ssabench history`: what goes into the store, what is shown of it, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from records_factory import CPU, GPU, correctness, timed
from typer.testing import CliRunner

import bench.speed
from bench.records import Record, read_records, write_records
from cli.app import app

run = CliRunner().invoke
START = datetime(2026, 3, 1, tzinfo=UTC)
CHANGED = 12  # the run that makes ssa-triton slower


def commit(number: int) -> str:
    return f"{number:02d}{number:038x}"


def sweep(number: int, **changes: Any) -> list[Record]:
    """One run: two providers at two sizes, noise of half a percent."""
    rng = np.random.default_rng(number)
    environment = GPU.model_copy(update={"git_commit": commit(number), "git_dirty": number == 5})
    own = {"run_id": f"r{number}", "created": START + timedelta(hours=number), "environment": environment}
    records = []
    for provider, ms in (("ssa-triton", 2.1 if number >= CHANGED else 2.0), ("dense-sdpa-flash", 7.0)):
        for tokens in (8192, 32768):
            for stage in ("total", "cmp") if provider == "ssa-triton" else ("total",):
                noisy = ms * float(np.exp(0.005 * rng.normal()))
                records.append(timed(provider, tokens, "fwd", noisy, stage=stage, **(own | changes)))
    return records


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Twenty runs, added by the command."""
    for number in range(20):
        write_records(tmp_path / "files" / f"{number}.jsonl", sweep(number))
    result = run(app, ["history", "add", str(tmp_path / "files"), "--store", str(tmp_path / "store")])
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 20
    return tmp_path / "store"


def show(store: Path, *arguments: str) -> str:
    result = run(app, ["history", "show", "--store", str(store), *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def row(output: str, *parts: str) -> list[str]:
    """Cells of the one row of a table that holds all the parts."""
    (line,) = [line for line in output.splitlines() if line.startswith("│") and all(part in line for part in parts)]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_adding_prints_the_new_files_and_refuses_what_is_there(store: Path, tmp_path: Path) -> None:
    assert len(list(store.iterdir())) == 20
    result = run(app, ["history", "add", str(tmp_path / "files" / "3.jsonl"), "--store", str(store)])
    assert result.exit_code == 2
    assert "run r3 is in the store already: " in result.stderr
    assert len(list(store.iterdir())) == 20


def test_a_row_a_series_with_the_commit_that_changed_it(store: Path) -> None:
    output = show(store)
    assert "NVIDIA H200, torch 2.9.1, fingerprint a1b2c3d4e5f6; 32 heads of width 32" in output
    changed = row(output, "ssa-triton", "32K")
    assert changed[:4] == ["gyroid", "ssa-triton", "fwd", "32K"]
    assert changed[6].startswith("1.0")
    assert changed[7:9] == ["20", "20"]
    name, ratio = changed[9].split()
    assert name == commit(CHANGED)[:10]
    assert float(ratio.rstrip("×")) == pytest.approx(1.05, abs=0.01)
    assert row(output, "dense-sdpa-flash", "8K")[9] == "none"
    assert "(cmp)" not in output
    assert "+ has local changes" in output


def test_one_series_is_listed_commit_by_commit(store: Path) -> None:
    output = show(store, "--provider", "ssa-*", "--tokens", "8K", "--direction", "fwd", "--workload", "gyr*")
    assert "SSA Triton, forward, gyroid, 8K tokens" in output
    changed = row(output, "2026-03-01 12:00")
    assert changed[1:3] == [commit(CHANGED)[:10], "1"]
    assert " to " in changed[6]
    assert row(output, "2026-03-01 05:00")[1] == commit(5)[:10] + "+"
    assert row(output, "2026-03-01 04:00")[6] == ""


def test_branches_are_shown_when_asked_for(store: Path) -> None:
    assert "ssa-triton (cmp)" in show(store, "--stage", "*")
    assert "dense" not in show(store, "--stage", "cmp")


def test_machines_have_tables_of_their_own(store: Path, tmp_path: Path) -> None:
    other = tmp_path / "cpu.jsonl"
    write_records(other, sweep(30, environment=CPU))
    assert run(app, ["history", "add", str(other), "--store", str(store)]).exit_code == 0
    output = show(store, "--provider", "ssa-triton", "--tokens", "8K")
    assert "fingerprint a1b2c3d4e5f6" in output
    assert "fingerprint c0ffee000000" in output
    assert "too short: 1 of 8 points" in output


def test_a_plot_and_a_table_of_the_records_are_written(store: Path, tmp_path: Path) -> None:
    plot, csv = tmp_path / "new" / "a.svg", tmp_path / "new" / "a.csv"
    output = show(store, "--provider", "ssa-triton", "--plot", str(plot), "--csv", str(csv))
    assert output.endswith(f"plot: {plot}\nrecords: {csv}\n")
    assert f"{commit(CHANGED)[:10]} 1.0" in plot.read_text()
    frame = pd.read_csv(csv)
    assert len(frame) == 40
    assert {"git_commit", "git_dirty", "fingerprint", "tokens", "p50_ms", "n", "error_over_budget"} <= set(frame)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--provider", "ssa-cuda"], "--provider 'ssa-cuda' matches none of dense-sdpa-flash, ssa-triton"),
        (["--workload", "sphere"], "--workload 'sphere' matches none of gyroid"),
        (["--tokens", "16K"], "--tokens '16384' matches none of 32768, 8192"),
        (["--tokens", "many"], "--tokens takes counts"),
        (["--direction", "bwd"], "--direction 'bwd' matches none of fwd"),
        (["--stage", "whole"], "--stage 'whole' matches none of cmp, total"),
        (["--plot", "a.pdf"], "a plot must end in one of .png, .svg, .html"),
    ],
)
def test_what_cannot_be_shown_is_one_line_and_exit_code_2(store: Path, arguments: list[str], message: str) -> None:
    result = run(app, ["history", "show", "--store", str(store), *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_empty_store_says_how_to_fill_it(tmp_path: Path) -> None:
    result = run(app, ["history", "show", "--store", str(tmp_path / "none")])
    assert result.exit_code == 2
    assert "no runs in" in result.stderr
    assert "ssabench history add" in result.stderr


TINY = [
    "--tokens",
    "64",
    "--heads",
    "2",
    "--kv-heads",
    "1",
    "--head-dim",
    "16",
    "--device",
    "cpu",
    "--direction",
    "fwd",
]


def test_speed_adds_its_run_to_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.speed, "check_provider", lambda provider, problem: correctness())
    out, store = tmp_path / "speed.jsonl", tmp_path / "store"
    command = ["speed", *TINY, "--out", str(out), "--store", str(store), "--provider"]
    first = run(app, [*command, "dense-sdpa-cpu"])
    assert first.exit_code == 0, first.output
    (path,) = store.iterdir()
    assert f"stored: {path}" in first.stdout
    assert read_records(path) == read_records(out)
    # Going on with the file adds only the new run.
    second = run(app, [*command, "packed-sdpa-cpu", "--resume"])
    assert second.exit_code == 0, second.output
    assert len(list(store.iterdir())) == 2


def test_speed_finds_a_store_it_cannot_use_before_it_measures(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    result = run(app, ["speed", *TINY, "--store", str(tmp_path)])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "notes.txt is not the file of a run" in result.stderr
