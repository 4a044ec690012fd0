"""`ssabench compare --base`: two revisions of a real repository, measured by real processes on a CPU."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.records import read_records
from cli.app import app

PROJECT = Path(__file__).resolve().parents[2]
SMALL = ["--device=cpu", "--tokens=128", "--heads=4", "--kv-heads=1", "--topk=4", "--direction=fwd"]
QUICK = [*SMALL, "--stage=select", "--rounds=1"]


def git(repository: Path, *arguments: str) -> str:
    name = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    ran = subprocess.run(["git", *name, *arguments], cwd=repository, capture_output=True, text=True, check=True)
    return ran.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit: the packages of this project as they are."""
    root = tmp_path / "repository"
    for package in ("kernels", "bench", "reports", "cli"):
        shutil.copytree(PROJECT / package, root / package, ignore=shutil.ignore_patterns("__pycache__", "results"))
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(root))
    (root / ".gitignore").write_text("__pycache__/\n")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=base")
    return root


def edit(repository: Path, path: str, old: str, new: str) -> None:
    text = (repository / path).read_text()
    assert text.count(old) == 1
    (repository / path).write_text(text.replace(old, new))


def invocation(repository: Path, *options: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a comparison on one thread, its temporary files beside the repository."""
    temporary = repository.parent / "temporary"
    temporary.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(repository),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(temporary),
    }
    command = [sys.executable, "-P", "-c", "from cli.app import main; main()", "compare", *options]
    return command, environment


def assert_nothing_left(repository: Path) -> None:
    assert list((repository.parent / "temporary").glob("ssabench-*")) == []
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def compare(repository: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the command from the repository."""
    command, environment = invocation(repository, *options)
    ran = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False, env=environment)
    assert_nothing_left(repository)
    return ran


@pytest.mark.slow
def test_the_working_tree_is_compared_and_both_sides_are_kept(repository: Path) -> None:
    (repository / "kernels/new.py").write_text("")
    result = compare(repository, "--base=main", *QUICK, f"--out={repository / 'out'}")
    assert result.returncode == 0, result.stderr
    commit = git(repository, "rev-parse", "HEAD").strip()
    assert f"BASE: {commit[:10]}, " in result.stdout
    assert f"HEAD: {commit[:10]} with local changes, " in result.stdout
    assert "ssa-eager select fwd, gyroid, 128 tokens" in result.stdout
    assert "noise floor of this job" in result.stdout
    for side, dirty in (("base", False), ("head", True)):
        (record,) = read_records(repository / "out" / f"{side}.jsonl")
        assert (record.environment.git_commit, record.environment.git_dirty) == (commit, dirty)
        assert (record.provider, record.stage, record.status) == ("ssa-eager", "select", "ok")
        assert len(record.samples_ms) >= 2 * 3 * 16


@pytest.mark.slow
def test_a_head_that_is_wrong_is_a_regression(repository: Path) -> None:
    edit(repository, "kernels/eager.py", "g_win * o_win", "0.9 * g_win * o_win")
    result = compare(repository, "--base=main", *SMALL, "--stage=total", "--rounds=1")
    assert result.returncode == 1, result.stderr
    assert "fails its check: error of " in " ".join(result.stdout.split())


@pytest.mark.slow
def test_kernels_that_the_harness_cannot_import_are_bad_input(repository: Path) -> None:
    git(repository, "mv", "kernels/testing.py", "kernels/elsewhere.py")
    git(repository, "commit", "--quiet", "--message=other")
    git(repository, "checkout", "--quiet", "-b", "fixed", "HEAD~1")
    result = compare(repository, "--base=main", *QUICK)
    assert (result.returncode, result.stdout) == (2, "")
    assert "do not fit this harness: ModuleNotFoundError" in result.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_comparison_leaves_nothing_behind(repository: Path, number: signal.Signals) -> None:
    command, environment = invocation(repository, "--base=main", *SMALL)

    def heed() -> None:
        # A job that a script runs in the background ignores the interrupt, and so does all that it starts.
        signal.signal(number, signal.SIG_DFL)

    with subprocess.Popen(
        command, cwd=repository, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=heed
    ) as process:
        assert process.stderr is not None
        while "ssa-eager fwd" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(number)
        assert process.stderr.read().splitlines()[-1] == "interrupted"
    assert process.returncode == 130
    assert_nothing_left(repository)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--base=nothing"], "revision 'nothing' is unknown"),
        (["--base=main", "--head=nothing"], "revision 'nothing' is unknown"),
        (["a.jsonl", "b.jsonl", "--base=main"], "compare takes two record files or --base REVISION, not both"),
        (["a.jsonl"], "compare takes two record files, or --base REVISION"),
        ([], "compare takes two record files, or --base REVISION"),
        (["a.jsonl", "b.jsonl", "--tokens=8K"], "--tokens is for revisions (--base), not for record files"),
        (["--head=main"], "compare takes two record files, or --base REVISION"),
        (["--base=main", "--across-machines"], "--across-machines is for record files"),
        (["--base=main", "--provider=nothing"], "provider 'nothing' is unknown"),
        (["--base=main", "--heads=5"], "heads must be a multiple of kv_heads=2"),
        (["--base=main", "--provider=ssa-eager", "--margin=0"], "--margin takes percent between 0 and 100, got 0"),
    ],
)
def test_bad_input_is_one_line(
    repository: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(repository)
    result = CliRunner().invoke(app, ["compare", *options])
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_outside_a_repository_is_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["compare", "--base=main"])
    assert result.exit_code == 2
    assert "--base needs a git repository" in result.stderr


def compute_scores_twice(repository: Path) -> None:
    """One more product of queries and keys for every tile of every branch: a tenth more time, and the same results."""
    edit(
        repository,
        "kernels/eager.py",
        "    return (q_rows.to(wide) @ k_rows.to(wide).T) * scale\n",
        "    _ = q_rows.to(wide) @ k_rows.to(wide).T\n    return (q_rows.to(wide) @ k_rows.to(wide).T) * scale\n",
    )


@pytest.mark.slow
def test_a_slowdown_by_a_tenth_in_a_real_kernel_is_caught(repository: Path) -> None:
    compute_scores_twice(repository)
    git(repository, "commit", "--quiet", "--all", "--message=slower")
    options = ("--base=HEAD~1", "--head=HEAD", *SMALL, "--stage=slc", "--stage=select", "--rounds=6")
    for _ in range(3):
        result = compare(repository, *options)
        if result.returncode:
            break
        # While other work disturbs the machine a job may leave it open, but never call the kernels alike.
        (found,) = (line for line in result.stdout.splitlines() if "ssa-eager slc fwd" in line)
        assert "│ inconclusive │" in found
    assert result.returncode == 1, result.stdout + result.stderr
    slower = [line for line in result.stdout.splitlines() if "│ slower" in line]
    assert len(slower) == 1
    assert "ssa-eager slc fwd" in slower[0]
    assert "1 regression in 2 measurements: 1 slower" in result.stdout


@pytest.mark.slow
def test_a_changed_comment_is_no_slowdown(repository: Path) -> None:
    edit(repository, "kernels/eager.py", "# Merge with what the token's earlier", "# Add to what the token's earlier")
    git(repository, "commit", "--quiet", "--all", "--message=comment")
    result = compare(repository, "--base=HEAD~1", "--head=HEAD", *SMALL, "--stage=slc", "--stage=select", "--rounds=3")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "no regression in 2 measurements: 0 slower, 0 faster" in result.stdout
