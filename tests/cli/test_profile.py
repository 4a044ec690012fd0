"""`ssabench profile` on a CPU: what it prints and writes, and the command for a GPU machine."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench import profiler
from bench.ncu import NcuLaunch, parse_ncu
from bench.profiled import Row
from bench.records import Ceilings
from cli.app import app

SAMPLES = Path(__file__).parents[1] / "bench" / "samples"
TINY = ["--tokens", "64", "--heads", "2", "--kv-heads", "1", "--head-dim", "16", "--device", "cpu"]
run = CliRunner().invoke


@pytest.fixture(autouse=True)
def ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Ceilings(copy_bytes_per_s=1e10, matrix_flops_per_s=1e11, exp2_per_s=1e9)
    monkeypatch.setattr(profiler, "probe", lambda device, dtype: known)


def test_a_profile_prints_operators_rates_and_files(tmp_path: Path) -> None:
    out = tmp_path / "profile"
    result = run(app, ["profile", "slc", *TINY, "--pass", "bwd", "--out", str(out)])
    assert result.exit_code == 0, result.output
    for text in ("ssa-eager (eager), slc bwd, gyroid, 64 tokens", "aten::", "others", "matrix units", "1e+11 FLOP/s"):
        assert text in result.stdout
    assert "registers" not in result.stdout
    assert "[0/5] set-up" in result.stderr
    for name in ("trace.json", "kernels.csv", "profile.json"):
        assert (out / name).is_file()
        assert str(out / name) in result.stdout


def test_the_ncu_command_repeats_the_options_that_were_given_and_leaves_the_machine_its_defaults(
    tmp_path: Path,
) -> None:
    result = run(app, ["profile", "win", *TINY, "--no-ncu", "--dtype", "float32", "--out", str(tmp_path)])
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("ncu --profile-from-start off"))
    words = shlex.split(line)
    again = words[words.index("cli") + 1 :]
    assert again == [
        *("profile", "win", "--tokens", "64", "--heads", "2", "--kv-heads", "1", "--head-dim", "16"),
        *("--dtype", "float32", "--bare"),
    ]
    assert "ncu, on a machine with a GPU:" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["slc", *TINY, "--inputs", "deer.safetensors"], "--inputs has its own workload and tokens"),
        (["slc", "--device", "cpu", "--tokens", "1K,2K"], "--tokens takes one count, got '1K,2K'"),
        (["select", *TINY, "--pass", "bwd"], "branch select has no pass bwd"),
        (["total", *TINY, "--bare"], "a bare run is for profilers of a GPU, and this is a CPU"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = run(app, ["profile", *arguments, "--out", str(tmp_path)])
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_an_unknown_branch_is_a_usage_error() -> None:
    assert run(app, ["profile", "softmax"]).exit_code == 2


def test_the_table_of_a_gpu_has_a_dash_where_a_kernel_has_no_such_thing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU run prints, from the rows and counters of the samples."""
    rows = (
        Row("_segment_dkv_kernel", 1, 1.05, 0.6, 4096, 128, 168, 0, 49152, 3, 12, 64, "registers", 4e14, 0.5),
        Row("Memset (Device)", 2, 0.7, 0.4),
    )
    real = profiler.profile

    def on_a_gpu(*args: object, **kwargs: object) -> object:
        found = real(*args, **kwargs)  # type: ignore[arg-type]
        launches: list[NcuLaunch] = parse_ncu((SAMPLES / "ncu_details.csv").read_text())
        changes = {"rows": rows, "launches": tuple(launches), "synchronizations": {"cudaStreamSynchronize": 1.0}}
        environment = found.environment.model_copy(update={"device_type": "cuda"})
        return type(found)(**(vars(found) | changes | {"environment": environment}))

    monkeypatch.setattr(profiler, "profile", on_a_gpu)
    result = run(app, ["profile", "slc", *TINY, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    cells = {
        cell[0]: cell[1:]
        for line in result.stdout.splitlines()
        if len(cell := [part.strip() for part in line.strip("│┃ ").split("│")]) > 4
    }
    assert cells["Memset (Device)"] == ["2", "0.700", "40.0%", *("-",) * 10]
    kernels, counters = result.stdout.split("host waits for the device, a call: cudaStreamSynchronize 1\n")
    assert "12 of 64" in kernels
    assert "400" in kernels
    assert "1.01" in counters  # ms, from ns
    assert "62.5" in counters
