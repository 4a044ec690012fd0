"""The command line, on tiny problems: what is printed, where, and with which exit code."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import bench.check
import bench.plan
import bench.speed
from bench.environment import capture
from bench.records import Correctness, TensorError, read_records
from bench.tune import Trial
from cli.app import app, require_own_kernels
from cli.info import _gpu_line
from cli.options import parse_tokens, resolve_device
from cli.tune import _summary, match_kernels
from kernels.triton.configs import TileConfig

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--tokens", "64", "--heads", "2", "--kv-heads", "1", "--head-dim", "16", "--device", "cpu"]
run = CliRunner().invoke


def correctness(error: float, selection_errors: int | None = None) -> Correctness:
    tensors = [TensorError(name="o", error=error, budget=0.1)]
    passed = error <= 0.1 and not selection_errors
    return Correctness(passed=passed, oracle="a fake", tensors=tensors, selection_errors=selection_errors)


def fake_checks(*results: bench.check.CheckResult) -> Callable[..., list[bench.check.CheckResult]]:
    return lambda device, *, quick, progress: list(results)


@pytest.fixture(autouse=True)
def checks_pass_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.speed, "check_provider", lambda provider, problem: correctness(0.01))


@pytest.mark.parametrize(
    "command",
    [
        *([], ["info"], ["check"], ["speed"], ["capture"], ["tune"], ["reproduce"], ["reproduce", "speed"], ["report"]),
        *(["compare"], ["calibrate"], ["history"], ["history", "add"], ["history", "show"], ["profile"]),
    ],
)
def test_help_describes_every_command(command: list[str]) -> None:
    result = run(app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.stdout


@pytest.mark.parametrize(
    "command",
    [
        *([], ["speed"], ["capture"], ["tune"], ["check"], ["report"], ["reproduce", "speed"]),
        *(["compare"], ["calibrate"], ["history", "add"], ["history", "show"], ["profile"]),
    ],
)
def test_help_teaches_by_example(command: list[str]) -> None:
    assert f"ssabench {' '.join(command)}" in run(app, [*command, "--help"]).stdout


def test_version_is_printed() -> None:
    result = run(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout.startswith("ssabench ")


def test_info_lists_every_provider_with_a_reason_where_it_cannot_run() -> None:
    result = run(app, ["info", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "dense-sdpa-cpu" in result.stdout
    (line,) = [line for line in result.stdout.splitlines() if " dense-sdpa-flash" in line]
    assert "no" in line
    assert "needs a CUDA device" in line


def test_info_tells_what_the_driver_knows_about_a_gpu() -> None:
    gpu = {"compute_capability": "9.0", "device_memory_bytes": 139 * 2**30, "sm_clock_mhz": 1980}
    assert _gpu_line(capture("cpu").model_copy(update=gpu)) == (
        "compute capability 9.0, memory 139 GiB, SM clock 1980 MHz"
    )


def test_check_prints_errors_beside_budgets_and_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = bench.check.CheckResult("eager, float32", correctness(0.02, selection_errors=0))
    monkeypatch.setattr(bench.check, "run_checks", fake_checks(passed))
    result = run(app, ["check", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    for text in ("eager, float32", "2.00e-02", "1.00e-01", "all 1 checks passed"):
        assert text in result.stdout


@pytest.mark.parametrize("wrong", [correctness(0.5), correctness(0.01, selection_errors=3)])
def test_a_failed_check_exits_with_1_and_is_named(monkeypatch: pytest.MonkeyPatch, wrong: Correctness) -> None:
    results = [bench.check.CheckResult("good", correctness(0.01)), bench.check.CheckResult("bad", wrong)]
    monkeypatch.setattr(bench.check, "run_checks", fake_checks(*results))
    result = run(app, ["check", "--device", "cpu"])
    assert result.exit_code == 1
    assert "failed: bad\n1 of 2 checks failed" in result.stdout


def test_a_kernel_that_raises_fails_the_check_and_one_that_cannot_run_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = bench.check.CheckResult("flash: a mesh", None, "it needs a CUDA device", unavailable=True)
    broken = bench.check.CheckResult("broken", None, "RuntimeError: boom")
    monkeypatch.setattr(bench.check, "run_checks", fake_checks(missing))
    result = run(app, ["check", "--device", "cpu"])
    assert result.exit_code == 0
    assert "not run: flash: it needs a CUDA device" in result.stdout
    monkeypatch.setattr(bench.check, "run_checks", fake_checks(missing, broken))
    result = run(app, ["check", "--device", "cpu"])
    assert result.exit_code == 1
    assert "failed: broken: RuntimeError: boom\n1 of 1 checks failed" in result.stdout


def test_speed_exits_with_1_when_a_provider_fails_its_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.speed, "check_provider", lambda provider, problem: correctness(0.5))
    result = run(app, ["speed", *TINY, "--provider", "dense-sdpa-cpu"])
    assert result.exit_code == 1
    assert "failed check: error of o 5.00e-01 exceeds its budget 1.00e-01" in result.stdout
    assert "failed: dense-sdpa-cpu" in result.stderr


def test_speed_prints_a_table_and_writes_records(tmp_path: Path) -> None:
    out = tmp_path / "speed.jsonl"
    providers = ["--provider", "dense-sdpa-cpu", "--provider", "packed-sdpa-cpu", "--provider", "dense-sdpa-flash"]
    result = run(app, ["speed", *TINY, *providers, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "speedup over dense-sdpa-cpu" in result.stdout
    assert "packed-sdpa-cpu" in result.stdout
    assert "dense-sdpa-flash, gyroid, 64 fwd/bwd/fwd_bwd: unavailable: " in result.stdout
    assert "[0/3] gyroid, 64 tokens, dense-sdpa-cpu" in result.stderr
    assert {record.provider for record in read_records(out)} == {
        "dense-sdpa-cpu",
        "dense-sdpa-flash",
        "packed-sdpa-cpu",
    }


@pytest.fixture
def captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file made by the command, of the shape of TINY."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # too slow to train with
    path = tmp_path / "deer.safetensors"
    result = run(app, ["capture", *TINY, "--steps", "20", "--out", str(path)])
    assert result.exit_code == 0, result.output
    assert "loss: " in result.stdout
    for text in ("hold the token's own block", "mean distance from it", "most popular block", "captured", "random"):
        assert text in result.stdout
    assert result.stdout.rstrip().endswith(str(path))
    assert "[20/20] training, loss " in result.stderr
    assert "warning" not in result.stderr
    return path


def test_captured_inputs_are_measured_and_reported_apart_from_random_ones(captured: Path, tmp_path: Path) -> None:
    out = tmp_path / "speed.jsonl"
    command = ["speed", *TINY, "--provider", "dense-sdpa-cpu", "--direction", "fwd", "--inputs", str(captured)]
    result = run(app, [*command, "--workload", "mesh:deer", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "\nmesh:deer, 2 heads" in result.stdout
    assert "\nmesh:deer, captured, 2 heads" in result.stdout
    assert [record.workload.captured is None for record in read_records(out)] == [True, False]

    fixed = [argument for argument in command if argument not in ("--tokens", "64")]
    result = run(app, fixed)
    assert result.exit_code == 0, result.output
    assert "gyroid" not in result.output
    result = run(app, command)
    assert result.exit_code == 2
    assert "--tokens is for workloads" in result.stderr
    result = run(app, [*fixed, "--heads", "4"])
    assert result.exit_code == 2
    assert "measure it with --heads 2 --kv-heads 1 --head-dim 16 --compression-block 4" in result.stderr


def test_capture_never_overwrites_a_file(tmp_path: Path) -> None:
    path = tmp_path / "deer.safetensors"
    path.write_text("precious\n")
    result = run(app, ["capture", *TINY, "--out", str(path)])
    assert result.exit_code == 2
    assert "exists; name another file" in result.stderr
    assert path.read_text() == "precious\n"


def test_capture_warns_of_a_loss_that_did_not_fall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    result = run(app, ["capture", *TINY, "--steps", "1", "--out", str(tmp_path / "deer.safetensors")])
    assert result.exit_code == 0, result.output
    assert "warning: the loss did not fall" in result.stderr


def test_speed_never_overwrites_records(tmp_path: Path) -> None:
    out = tmp_path / "speed.jsonl"
    out.write_text("precious\n")
    result = run(app, ["speed", *TINY, "--out", str(out)])
    assert result.exit_code == 2
    assert "add --resume to go on with it" in result.stderr
    assert out.read_text() == "precious\n"


def test_speed_takes_as_many_samples_as_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "speed.jsonl"
    command = ["speed", *TINY, "--direction", "fwd", "--provider", "dense-sdpa-cpu", "--samples"]
    assert run(app, [*command, "12", "--out", str(out)]).exit_code == 0
    (record,) = read_records(out)
    assert len(record.samples_ms) >= 12
    assert run(app, [*command, "0"]).exit_code == 2


def test_speed_resumes_a_file(tmp_path: Path) -> None:
    command = ["speed", *TINY, "--direction", "fwd", "--out", str(tmp_path / "speed.jsonl"), "--provider"]
    assert run(app, [*command, "dense-sdpa-cpu"]).exit_code == 0
    assert run(app, [*command, "packed-sdpa-cpu", "--resume"]).exit_code == 0
    providers = [record.provider for record in read_records(tmp_path / "speed.jsonl")]
    assert providers == ["dense-sdpa-cpu", "packed-sdpa-cpu"]


def test_a_mesh_file_is_a_workload(tmp_path: Path) -> None:
    corners = ["0 0 0", "1 0 0", "0 1 0", "0 0 1"]
    faces = ["1 2 3", "1 2 4", "1 3 4", "2 3 4"]
    path = tmp_path / "tetrahedron.obj"
    path.write_text("".join(f"v {c}\n" for c in corners) + "".join(f"f {f}\n" for f in faces))
    result = run(app, ["speed", *TINY, "--mesh", str(path), "--provider", "dense-sdpa-cpu", "--direction", "fwd"])
    assert result.exit_code == 0, result.output
    assert "mesh:tetrahedron" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed", "--tokens", "8Q"], "--tokens takes counts such as 8192, 8K or 1M, got '8Q'"),
        (["speed", "--workload", "torus", *TINY], "torus"),
        (["speed", "--mesh", "missing.obj", *TINY], "missing.obj"),
        (["speed", "--provider", "ssa-cuda"], "provider 'ssa-cuda' is unknown; known: ssa-triton"),
        (["speed", "--device", "tpu"], "--device must be cpu, cuda or cuda:N, got 'tpu'"),
        (["speed", "--device", "cuda:99"], "--device cuda:99: torch finds"),
        (["speed", "--resume"], "--resume needs --out"),
        (["speed", *TINY, "--kv-heads", "3"], "heads must be a multiple of kv_heads=3"),
        (["speed", *TINY, "--heads", "33"], "at most 32 times it, got 33"),
        (["speed", *TINY, "--head-dim", "7"], "head_dim must be from 16 to 128, got 7"),
        (["speed", *TINY, "--window-shift", "8"], "[0, window=8), got 8"),
        (["speed", "--inputs", "missing.safetensors"], "missing.safetensors: not a readable safetensors file"),
        (["capture", *TINY, "--out", "x", "--workload", "gyroid"], "capture needs the surface of a mesh"),
        (["capture", *TINY, "--out", "x", "--tokens", "1K,2K"], "--tokens takes one count"),
        (["capture", *TINY, "--out", "x", "--steps", "0"], "steps must be positive, got 0"),
        (["capture", *TINY, "--out", "x", "--head-dim", "7"], "head_dim must be from 16 to 128, got 7"),
        (["report", "missing.jsonl"], "cannot read missing.jsonl"),
        (["check", "--device", "tpu"], "--device must be"),
    ],
)
def test_bad_input_is_one_line_on_standard_error_and_exit_code_2(arguments: list[str], message: str) -> None:
    result = run(app, arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert len([line for line in result.stderr.splitlines() if not line.startswith("[")]) == 1


def test_a_wrong_option_exits_with_2() -> None:
    assert run(app, ["speed", "--dtype", "int8"]).exit_code == 2
    assert run(app, ["spede"]).exit_code == 2


def test_debug_shows_where_an_error_comes_from() -> None:
    result = run(app, ["--debug", "report", "missing.jsonl"])
    assert type(result.exception).__name__ == "RecordFileError"


def test_a_fault_of_ours_exits_with_3(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(device: str, *, quick: bool, progress: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr(bench.check, "run_checks", fault)
    result = run(app, ["check", "--device", "cpu"])
    assert result.exit_code == 3
    assert "internal error: KeyError: 'lost'" in result.stderr


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(device: str, *, quick: bool, progress: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.check, "run_checks", interrupt)
    result = run(app, ["check", "--device", "cpu"])
    assert result.exit_code == 130
    assert "interrupted" in result.stderr


def test_reproduce_measures_the_papers_shape_and_reports_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = dataclasses.replace(
        bench.plan.paper_plan("cpu"),
        workloads=("gyroid",),
        tokens=(64, 96),
        providers=("dense-sdpa-cpu", "packed-sdpa-cpu"),
        max_seconds=0.0,
    )
    monkeypatch.setattr(bench.plan, "paper_plan", lambda device: small)
    for _ in range(2):  # the second run replaces the first
        result = run(app, ["reproduce", "speed", "--device", "cpu", "--out", str(tmp_path)])
        assert result.exit_code == 0, result.output
    assert len(read_records(tmp_path / "speed.jsonl")) == 12
    assert (tmp_path / "report" / "index.html").is_file()


def test_report_writes_a_page_and_prints_its_path(tmp_path: Path) -> None:
    records = tmp_path / "speed.jsonl"
    run(app, ["speed", *TINY, "--provider", "dense-sdpa-cpu", "--out", str(records)])
    result = run(app, ["report", str(records), "--out", str(tmp_path / "report")])
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tmp_path / "report" / "index.html")


def test_token_counts_may_be_repeated_joined_and_abbreviated() -> None:
    assert parse_tokens(["8K,100", "1M", "2k"]) == [8192, 100, 1048576, 2048]
    for wrong in ("", "0", "-1", "1.5K", "8K,"):
        with pytest.raises(ValueError, match="--tokens takes counts"):
            parse_tokens([wrong])


def test_the_cpu_can_always_be_asked_for() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device(None) in ("cpu", "cuda")


def test_another_package_named_kernels_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").touch()
    monkeypatch.delitem(sys.modules, "kernels")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=f"must find ssabench's own package in .*, but finds {tmp_path}"):
        require_own_kernels()


class TestAsAProcess:
    """What only a process of its own can show."""

    def run(self, *arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
        code = f"import sys; sys.path.append({str(ROOT)!r}); from cli.app import main; main()"
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=60, check=False)

    def test_help_is_plain_text_and_loads_no_torch(self) -> None:
        code = "import sys; from typer.testing import CliRunner; from cli.app import app; "
        code += "print(CliRunner().invoke(app, ['--help']).stdout); sys.exit('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stderr
        assert "\x1b[" not in done.stdout

    def test_bad_input_leaves_standard_output_empty(self) -> None:
        done = self.run("report", "missing.jsonl")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "error: cannot read missing.jsonl: No such file or directory\n"

    def test_a_shadowed_kernels_package_stops_every_command(self, tmp_path: Path) -> None:
        (tmp_path / "kernels").mkdir()
        (tmp_path / "kernels" / "__init__.py").write_text("raise SystemExit('imported')\n")
        done = self.run("info", folder=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith("error: `import kernels` must find ssabench's own package")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cpu"], "needs a CUDA device"),
        (["--kernel", "nothing*"], "matches none of compressed_forward"),
        (["--tokens", "8K,16K"], "one count"),
        (["--tokens", "many"], "--tokens takes counts"),
    ],
)
def test_tune_refuses_what_it_cannot_do_in_one_line(arguments: list[str], message: str) -> None:
    result = run(app, ["tune", *arguments])
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_kernels_to_tune_keep_their_order() -> None:
    assert match_kernels(["*_dq", "gathered_*"]) == [
        *("compressed_dq", "gathered_forward", "gathered_dq", "gathered_dkv"),
    ]


def test_the_summary_of_tuning_shows_what_was_had_and_what_is_faster() -> None:
    before, after = TileConfig(64, 64, 4, 3), TileConfig(128, 64, 8, 2)
    trials = [Trial("block_scores", before, 2.0), Trial("block_scores", after, 1.5), Trial("block_scores", after, None)]
    table = _summary(trials)
    cells = [next(iter(column.cells)) for column in table.columns]
    assert cells == ["block_scores", "64 x 64, 4, 3", "2.00", "128 x 64, 8, 2", "1.50", "2", "1"]
