"""`ssabench compare --base`: two revisions of a real repository, measured by real processes on a CPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.records import read_records

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


def compare(repository: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the command from the repository, on one thread, with its temporary files beside it."""
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
    ran = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False, env=environment)
    assert list(temporary.glob("ssabench-*")) == []
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    return ran


def compute_scores_twice(repository: Path) -> None:
    """One more product of queries and keys for every tile of every branch: a tenth more time, and the same results."""
    edit(
        repository,
        "kernels/eager.py",
        "    return (q_rows.to(wide) @ k_rows.to(wide).T) * scale\n",
        "    _ = (q_rows.to(wide) @ k_rows.to(wide).T) * scale\n"
        "    return (q_rows.to(wide) @ k_rows.to(wide).T) * scale\n",
    )


@pytest.mark.slow
def test_a_slowdown_by_a_tenth_in_a_real_kernel_is_caught(repository: Path) -> None:
    compute_scores_twice(repository)
    git(repository, "commit", "--quiet", "--all", "--message=slower")
    result = compare(repository, "--base=HEAD~1", "--head=HEAD", *SMALL, "--stage=slc", "--stage=select")
    assert result.returncode == 1, result.stdout + result.stderr
    slower = [line for line in result.stdout.splitlines() if "│ slower" in line]
    assert len(slower) == 1
    assert "ssa-eager slc fwd" in slower[0]
    assert "1 regression in 2 measurements: 1 slower" in result.stdout


@pytest.mark.slow
def test_a_changed_comment_is_no_slowdown(repository: Path) -> None:
    edit(repository, "kernels/eager.py", "# Merge with what the token's earlier", "# Add to what the token's earlier")
    git(repository, "commit", "--quiet", "--all", "--message=comment")
    result = compare(repository, "--base=HEAD~1", "--head=HEAD", *SMALL, "--stage=slc", "--stage=select")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "no regression in 2 measurements: 0 slower, 0 faster" in result.stdout
