"""Nsight Compute: its command line, its CSV, and what becomes of its errors. A stand-in plays ncu."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from bench.ncu import NcuError, failure, ncu_command, parse_ncu, run_ncu

DETAILS = Path(__file__).parent / "samples" / "ncu_details.csv"
SPEED_OF_LIGHT = "GPU Speed Of Light Throughput"
PERMISSION = (
    "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU Performance Counters on the "
    "target device 0."
)


def test_metrics_of_every_launch_are_numbers_by_section() -> None:
    dkv, dq = parse_ncu(DETAILS.read_text())
    assert (dkv.kernel, dq.kernel) == ("_segment_dkv_kernel", "_segment_dq_kernel")
    assert dkv.metrics[SPEED_OF_LIGHT, "Duration"] == 1_013_280
    # The same name, in percent and in bytes a second.
    assert dkv.metrics[SPEED_OF_LIGHT, "Memory Throughput"] == 48.31
    assert dkv.metrics["Memory Workload Analysis", "Memory Throughput"] == 336_812_330_101.02
    assert ("Launch Statistics", "Function Cache Configuration") not in dkv.metrics
    assert ("Occupancy", "Achieved Occupancy") not in dq.metrics


@pytest.mark.parametrize("text", ["", "==PROF== Connected to process 1\n", "a,b\n1,2\n"])
def test_a_text_without_the_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a CSV of ncu's details page"):
        parse_ncu(text)


def test_the_command_profiles_the_named_kernels_of_one_call_after_its_warm_up() -> None:
    command = ncu_command(["ssabench", "profile", "slc", "--bare"], ["_a_kernel", "_b_kernel"], 3, Path("out/ncu"))
    assert command[0] == "ncu"
    assert command[-4:] == ["ssabench", "profile", "slc", "--bare"]
    options = dict(itertools.pairwise(command))
    assert options["--profile-from-start"] == "off"
    assert options["--kernel-name"] == "regex:^(_a_kernel|_b_kernel)$"
    assert options["--launch-count"] == "3"
    assert options["--export"] == "out/ncu"
    assert "SpeedOfLight" in command


def test_unknown_kernels_are_not_filtered() -> None:
    command = ncu_command(["program"], [], None, Path("ncu"))
    assert "--kernel-name" not in command
    assert "--launch-count" not in command


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (f"==PROF== Connected to process 7\nhello\n{PERMISSION}\n", PERMISSION.removeprefix("==ERROR== ")),
        (
            "error: provider ssa-triton cannot run here\n==ERROR== The application returned an error code (2).\n",
            "error: provider ssa-triton cannot run here",
        ),
        ("==PROF== Connected\n==WARNING== No kernels were profiled.\n", "No kernels were profiled."),
        ("cannot open display\n", "cannot open display"),
        ("", "ncu printed nothing"),
    ],
)
def test_the_reason_of_a_failure_is_one_line(output: str, reason: str) -> None:
    assert failure(output) == reason


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A program called ncu on the PATH."""
    program = folder / "ncu"
    program.write_text(f"#!{sys.executable}\nimport pathlib, sys\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_a_run_returns_the_details_of_its_own_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = (
        "if '--import' in sys.argv:\n"
        f"    print(pathlib.Path({str(DETAILS)!r}).read_text())\n"
        "else:\n"
        "    pathlib.Path(sys.argv[sys.argv.index('--export') + 1] + '.ncu-rep').write_bytes(b'report')\n"
    )
    install(tmp_path, monkeypatch, body)
    report = tmp_path / "ncu-of-slc"
    details = run_ncu(ncu_command(["program"], [], None, report), report)
    assert len(parse_ncu(details)) == 2
    assert (tmp_path / "ncu-of-slc.ncu-rep").read_bytes() == b"report"


def test_a_run_without_a_report_tells_why_and_takes_no_older_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, f"print({PERMISSION!r})")
    (tmp_path / "ncu.ncu-rep").write_text("of an earlier run")
    with pytest.raises(NcuError, match=r"^ERR_NVGPUCTRPERM - The user does not have permission"):
        run_ncu(ncu_command(["program"], [], None, tmp_path / "ncu"), tmp_path / "ncu")


def test_a_missing_ncu_is_an_error_of_ncu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NcuError, match="ncu is not on the PATH"):
        run_ncu(ncu_command(["program"], [], None, tmp_path / "ncu"), tmp_path / "ncu")
