"""The pytest-benchmark suite under bench/, and its JSON as records."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from records_factory import GPU, SHAPE, correctness, workload
from typer.testing import CliRunner

from bench.pytest_json import FIELD, parse_benchmarks, to_extra_info, to_record
from bench.records import RecordFileError, read_records, write_records
from cli.app import app

ROOT = Path(__file__).resolve().parents[2]
FIELDS = {
    "run_id": "run-1",
    "provider": "ssa-triton",
    "implementation": "triton",
    "stage": "slc",
    "direction": "bwd",
    "workload": workload(4096),
    "shape": SHAPE,
    "correctness": correctness(),
    "flops": 1e9,
    "environment": GPU,
}


def benchmark(**changes: Any) -> dict[str, Any]:
    """As pytest-benchmark writes one."""
    stats = {"min": 0.001, "median": 0.002, "rounds": 3, "iterations": 1, "data": [0.001, 0.002, 0.003]}
    values = {"group": None, "name": "test_operator[x]", "extra_info": to_extra_info(**FIELDS), "stats": stats}
    return values | changes


def write(path: Path, *benchmarks: dict[str, Any]) -> Path:
    content = {"machine_info": {}, "commit_info": {}, "benchmarks": list(benchmarks), "version": "5.3.1"}
    path.write_text(json.dumps(content, indent=4))
    return path


def test_a_benchmark_is_a_record_with_its_single_times_in_milliseconds(tmp_path: Path) -> None:
    (record,) = read_records(write(tmp_path / "head.json", benchmark()))
    assert record.samples_ms == [1.0, 2.0, 3.0]
    assert record.summary is not None
    assert (record.summary.p20, record.summary.p50, record.summary.p80, record.summary.count) == (1.4, 2.0, 2.6, 3)
    assert record.status == "ok"
    for name, value in FIELDS.items():
        assert getattr(record, name) == value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"stats": {"median": 0.002}},
            "has no single times: write the file with --benchmark-json, or add --benc",
        ),
        ({"extra_info": {}}, "is not a benchmark of `pytest bench`"),
        ({"extra_info": {FIELD: {"provider": "x"}}}, "is not a record: run_id Field required"),
    ],
)
def test_what_is_no_measurement_is_refused_in_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "head.json", benchmark(), benchmark(**changes))
    with pytest.raises(RecordFileError) as caught:
        read_records(path)
    assert str(caught.value).startswith(f"{path}: test_operator[x] ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_time_without_a_passed_check_is_refused() -> None:
    wrong = to_extra_info(**FIELDS | {"correctness": correctness(error=1.0)})
    with pytest.raises(ValueError, match="only with a passed correctness check"):
        to_record(benchmark(extra_info=wrong))


def test_a_file_without_benchmarks_has_no_records(tmp_path: Path) -> None:
    with pytest.raises(RecordFileError, match="no records in"):
        read_records(write(tmp_path / "head.json"))


def test_record_files_are_not_taken_for_benchmarks(tmp_path: Path) -> None:
    record = to_record(benchmark()).model_copy(update={"implementation": 'says "benchmarks"'})
    for count in (1, 2):
        write_records(tmp_path / "speed.json", [record] * count)
        assert parse_benchmarks((tmp_path / "speed.json").read_text()) is None
        assert read_records(tmp_path / "speed.json") == [record] * count


def test_the_package_does_not_need_pytest() -> None:
    """Only the suite does, which the wheel leaves out."""
    excluded = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    suite = [ROOT / name for name in excluded["exclude"] if name.startswith("bench/")]
    assert all(path.exists() for path in suite)
    importing = set()
    for path in (ROOT / "bench").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "pytest" for name in names):
                importing.add(path)
    assert importing
    assert all(any(path.is_relative_to(part) for part in suite) for path in importing)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JSON of `pytest bench` on a tiny problem, in a process of its own."""
    path = tmp_path_factory.mktemp("suite") / "head.json"
    command = [sys.executable, "-m", "pytest", "bench", "--benchmark-only", f"--benchmark-json={path}"]
    command += ["--tokens", "64", "--device", "cpu", "--benchmark-max-time", "0.01", "-p", "no:xdist"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return path


def test_every_pass_of_every_branch_is_a_checked_measurement(written: Path) -> None:
    found = read_records(written)
    assert {(record.stage, record.direction) for record in found} == {
        *(("total", direction) for direction in ("fwd", "bwd", "fwd_bwd")),
        *((stage, direction) for stage in ("cmp", "slc", "win") for direction in ("fwd", "bwd")),
        ("select", "fwd"),
    }
    for record in found:
        assert record.provider == "ssa-eager"
        assert record.workload.tokens == 64
        assert len(record.samples_ms) >= 5
        assert record.correctness is not None
        assert record.flops
    assert len({record.run_id for record in found}) == 1


def test_wall_times_compare_with_each_other_and_not_with_those_of_speed(written: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["compare", str(written), str(written)])
    assert result.exit_code == 0, result.output
    assert "no regression in 10 measurements" in result.stdout
    assert "(wall clock)" in result.stdout
    ordinary = [record.model_copy(update={"environment": GPU}) for record in read_records(written)]
    write_records(tmp_path / "speed.jsonl", ordinary)
    result = CliRunner().invoke(app, ["compare", str(written), str(tmp_path / "speed.jsonl")])
    assert result.exit_code == 2
    assert "measured in different environments" in result.stderr
    assert "(wall clock)" in result.stderr
