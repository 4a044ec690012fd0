"""`ssabench compare` and `calibrate`: exit codes, and every form of the result says what the table says."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from records_factory import GPU, missing, timed
from typer.testing import CliRunner, Result

from bench.environment import fingerprint
from bench.noise import NoiseFloor, write_noise
from bench.records import Environment, Record, write_records
from cli.app import app

run = CliRunner().invoke


def records(seed: int, slow: float = 1.0, environment: Environment = GPU) -> list[Record]:
    """Ten sizes of two providers, 60 samples each at 1 % noise; `slow` times as long at 1,000 tokens of the first."""
    generator = np.random.default_rng(seed)
    found = []
    for provider in ("ssa-triton", "dense-sdpa-flash"):
        for tokens in range(1000, 11000, 1000):
            ms = (slow if (provider, tokens) == ("ssa-triton", 1000) else 1.0) * np.exp(
                0.01 * generator.standard_normal(60)
            )
            median = float(np.median(ms))
            found.append(timed(provider, tokens, "fwd", median, samples_ms=ms.tolist(), environment=environment))
    return found


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with base, same (as fast), slow and broken, and the noise floor of their machine."""
    slow = records(3, slow=1.08)
    broken = [*records(4)[1:], missing("ssa-triton", 1000, "fwd", "failed_check", "50 % wrong | at\x1b row\n7")]
    for name, content in (("base", records(1)), ("same", records(2)), ("slow", slow), ("broken", broken)):
        write_records(tmp_path / f"{name}.jsonl", content)
    floor = NoiseFloor(margin=0.005, fingerprint=GPU.fingerprint, pairs=20, left_out=0, between_runs=True)
    write_noise(tmp_path / "floor.json", floor)
    return tmp_path


def compare(files: Path, base: str, head: str, *options: str) -> Result:
    return run(app, ["compare", str(files / f"{base}.jsonl"), str(files / f"{head}.jsonl"), *options])


def test_no_regression_exits_with_0(files: Path) -> None:
    result = compare(files, "base", "same")
    assert result.exit_code == 0, result.output
    assert "BASE: 0123456789, NVIDIA H200\nHEAD: 0123456789, NVIDIA H200\n" in result.stdout
    assert "no regression in 20 measurements: 0 slower, 0 faster, 20 equivalent, 0 inconclusive" in result.stdout
    assert "is unknown (ssabench calibrate, --noise)" in result.stdout


@pytest.mark.parametrize(("head", "text"), [("slow", " slower "), ("broken", " failed check ")])
def test_a_regression_exits_with_1_and_comes_first(files: Path, head: str, text: str) -> None:
    result = compare(files, "base", head, f"--noise={files / 'floor.json'}")
    assert result.exit_code == 1, result.output
    first = next(line for line in result.stdout.splitlines() if "tokens" in line)
    assert "ssa-triton fwd, gyroid, 1,000 tokens" in first
    assert text in first
    assert "1 regression in 20 measurements" in result.stdout


def test_a_slowdown_without_a_noise_floor_comes_first_and_exits_with_0(files: Path) -> None:
    result = compare(files, "base", "slow")
    assert result.exit_code == 0, result.output
    first = next(line for line in result.stdout.splitlines() if "tokens" in line)
    assert "ssa-triton fwd, gyroid, 1,000 tokens" in first
    assert "no regression in 20 measurements: 1 slower" in result.stdout
    assert "no time is gated" in result.stdout


def test_a_wide_margin_accepts_a_slowdown(files: Path) -> None:
    assert compare(files, "base", "slow", f"--noise={files / 'floor.json'}", "--margin", "12").exit_code == 0


def test_every_form_says_what_the_table_says(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(files / "summary.md"))
    (files / "summary.md").write_text("before\n")
    outputs = [f"--{name}={files / name}" for name in ("markdown", "junit", "benchmark-action", "bencher")]
    result = compare(files, "base", "slow", f"--noise={files / 'floor.json'}", "--github", *outputs)
    assert result.exit_code == 1, result.output

    table = (files / "markdown").read_text()
    assert (files / "summary.md").read_text() == "before\n" + table
    rows = [[cell.strip() for cell in line.split(" | ")] for line in table.splitlines() if line.startswith("| ")]
    assert rows[2][:2] == ["| ssa-triton fwd, gyroid, 1,000 tokens", "slower"]
    assert len(rows) == 22
    assert {len(row) for row in rows} == {7}
    assert "1 regression in 20 measurements: 1 slower" in table

    errors = [line for line in result.stdout.splitlines() if line.startswith("::")]
    assert len(errors) == 1
    assert errors[0].startswith("::error title=ssabench%3A slower::ssa-triton fwd, gyroid, 1,000 tokens: takes 1.0")

    suite = ElementTree.parse(files / "junit").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("20", "1", "0")
    (failed,) = [case for case in suite if case.find("failure") is not None]
    assert failed.get("classname") == "ssa-triton"
    failure = failed.find("failure")
    assert failure is not None
    assert (failure.get("message") or "").startswith("slower: takes ")

    action = json.loads((files / "benchmark-action").read_text())
    assert len(action) == 20
    assert [row["name"] for row in action if row["extra"] == "slower"] == [failed.get("name")]
    assert {type(row["value"]) for row in action} == {float}
    assert {row["unit"] for row in action} == {"ms"}

    bencher = json.loads((files / "bencher").read_text())
    assert list(bencher) == [row["name"] for row in action]
    latency = bencher[failed.get("name")]["latency"]
    assert latency["value"] == pytest.approx(1e6 * action[0]["value"])
    assert latency["lower_value"] <= latency["value"] <= latency["upper_value"]


def test_hostile_text_breaks_no_form(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(files / "summary.md"))
    result = compare(
        files, "base", "broken", "--github", f"--junit={files / 'junit'}", f"--bencher={files / 'bencher'}"
    )
    assert result.exit_code == 1, result.output
    (error,) = [line for line in result.stdout.splitlines() if line.startswith("::error")]
    assert "50 %25 wrong | at\x1b row%0A7" in error
    row = next(line for line in (files / "summary.md").read_text().splitlines() if "wrong" in line)
    assert "50 % wrong \\| at" in row
    suite = ElementTree.parse(files / "junit").getroot()
    assert suite.get("failures") == "1"
    assert len(json.loads((files / "bencher").read_text())) == 19


def test_doubt_is_skipped_and_warned_of(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(files / "summary.md"))
    few = [record.model_copy(update={"samples_ms": record.samples_ms[:3]}) for record in records(2)]
    write_records(files / "few.jsonl", few)
    result = compare(files, "base", "few", "--github", f"--junit={files / 'junit'}")
    assert result.exit_code == 0, result.output
    assert "20 inconclusive" in result.stdout
    assert "60 and 3 samples are too few; needs 7 a side" in (files / "summary.md").read_text()
    assert sum(line.startswith("::warning") for line in result.stdout.splitlines()) == 20
    assert ElementTree.parse(files / "junit").getroot().get("skipped") == "20"


def test_another_environment_exits_with_2_unless_asked_for(files: Path) -> None:
    other = GPU.model_copy(update={"driver": "580.1", "fingerprint": fingerprint(driver="580.1")})
    write_records(files / "other.jsonl", records(2, slow=1.5, environment=other))
    result = compare(files, "base", "other")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "measured in different environments (driver 570.86.15 and 580.1)" in result.stderr
    result = compare(files, "base", "other", "--across-machines", f"--junit={files / 'junit'}")
    assert result.exit_code == 0, result.output
    assert "not gated, the environments differ: driver 570.86.15 and 580.1" in result.stdout
    assert ElementTree.parse(files / "junit").getroot().get("failures") == "0"


def test_calibration_sets_the_least_margin(files: Path) -> None:
    for name, seed in (("again", 5), ("more", 6)):
        write_records(files / f"{name}.jsonl", records(seed))
    noise = files / "noise.json"
    result = run(app, ["calibrate", *(str(files / f"{name}.jsonl") for name in ("again", "more")), "--out", str(noise)])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("noise floor 0.")
    result = compare(files, "base", "same", "--noise", str(noise))
    assert result.exit_code == 0, result.output
    assert "; noise floor 0." in result.stdout
    result = compare(files, "base", "same", "--noise", str(noise), "--margin", "0.1")
    assert result.exit_code == 2
    assert "a margin of 0.10% is below the noise floor of this machine" in result.stderr


def test_calibration_by_one_run_says_what_it_lacks(files: Path) -> None:
    result = run(app, ["calibrate", str(files / "base.jsonl"), "--out", str(files / "noise.json")])
    assert result.exit_code == 0, result.output
    assert "from the halves of one run" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--margin", "0"], "--margin takes percent between 0 and 100, got 0"),
        (["--memory-margin", "100"], "--memory-margin takes percent between 0 and 100, got 100"),
        (["--noise", "missing.json"], "missing.json"),
        (["--github"], "--github needs GITHUB_STEP_SUMMARY"),
    ],
)
def test_bad_input_exits_with_2(files: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    result = compare(files, "base", "same", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_unreadable_file_exits_with_2(files: Path) -> None:
    assert "cannot read" in compare(files, "base", "nothing").stderr
    (files / "text.jsonl").write_text("no record\n")
    result = compare(files, "base", "text")
    assert result.exit_code == 2
    assert "not a record" in result.stderr


def test_a_report_against_base_has_the_verdicts_and_the_difference_of_environments(files: Path) -> None:
    out = files / "report"
    options = ["--against", str(files / "base.jsonl"), "--noise", str(files / "floor.json"), "--out", str(out)]
    result = run(app, ["report", str(files / "slow.jsonl"), *options])
    assert result.exit_code == 0, result.output
    markdown = (out / "report.md").read_text()
    assert "1 regression in 20 measurements: 1 slower" in markdown
    first = next(line for line in markdown.splitlines() if line.startswith("| ssa-triton fwd"))
    assert first.startswith("| ssa-triton fwd, gyroid, 1,000 tokens | slower | 1.0")
    assert "regressions-forest" in (out / "index.html").read_text()
    assert "Differences between environments" not in markdown


def test_a_report_against_another_machine_says_how_it_differs(files: Path) -> None:
    other = GPU.model_copy(update={"driver": "580.1", "temperature_c": 60, "fingerprint": fingerprint(driver="580.1")})
    write_records(files / "other.jsonl", records(5, environment=other))
    out = files / "report"
    result = run(app, ["report", str(files / "other.jsonl"), "--against", str(files / "base.jsonl"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    markdown = (out / "report.md").read_text()
    assert "not gated, the environments differ: driver 570.86.15 and 580.1" in markdown
    assert "| Driver | 570.86.15 | 580.1 | not comparable |" in markdown
    assert "| Temperature at start, °C | 34 | 60 | harmless |" in markdown


def test_a_noise_floor_without_base_is_refused(files: Path) -> None:
    result = run(app, ["report", str(files / "base.jsonl"), "--noise", str(files / "floor.json")])
    assert result.exit_code == 2
