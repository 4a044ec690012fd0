"""Worktrees of revisions: what is in them, that they go away, and what cannot be checked out."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench.revisions import checkout, repository, working_tree


def git(folder: Path, *arguments: str) -> str:
    name = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *name, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def commit(root: Path, path: str, text: str) -> str:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=change")
    return git(root, "rev-parse", "HEAD").strip()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of two commits; the working tree differs from both."""
    folder = tmp_path / "repository"
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(folder))
    commit(folder, "kernels/__init__.py", "value = 1\n")
    commit(folder, "kernels/__init__.py", "value = 2\n")
    (folder / "kernels/__init__.py").write_text("value = 3\n")
    (folder / "kernels/new.py").write_text("")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    return folder


def left(root: Path) -> list[str]:
    """What is left of worktrees and copies."""
    worktrees = git(root, "worktree", "list").splitlines()[1:]
    return worktrees + [path.name for path in (root.parent / "temporary").iterdir()]


def value(folder: Path) -> str:
    return (folder / "kernels/__init__.py").read_text()


def test_a_revision_is_checked_out_beside_the_working_tree_and_removed(root: Path) -> None:
    with checkout(root, "HEAD~1") as old, checkout(root, "main") as new:
        assert (value(old.root), value(new.root), value(root)) == ("value = 1\n", "value = 2\n", "value = 3\n")
        assert (old.commit, new.commit) == tuple(git(root, "rev-parse", "main~1", "main").split())
        assert not old.dirty
        assert old.label == f"HEAD~1 ({old.commit[:10]})"
        assert len(left(root)) == 4
    assert left(root) == []
    assert git(root, "branch", "--list").split() == ["*", "main"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_worktrees_are_removed_when_the_comparison_is_interrupted(root: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), checkout(root, "main"), working_tree(root):
        raise error
    assert left(root) == []


def test_the_working_tree_is_taken_with_its_changes_and_does_not_follow_later_ones(root: Path) -> None:
    with working_tree(root) as head:
        (root / "kernels/__init__.py").write_text("value = 4\n")
        assert value(head.root) == "value = 3\n"
        assert (head.root / "kernels/new.py").is_file()
        assert head.dirty
        assert head.label == f"the working tree ({head.commit[:10]} with local changes)"
    assert left(root) == []


def test_a_clean_working_tree_is_its_commit(root: Path) -> None:
    git(root, "stash", "--include-untracked")
    (root / "notes.txt").write_text("not of the kernels\n")
    with working_tree(root) as head:
        assert (head.commit, head.dirty) == (git(root, "rev-parse", "HEAD").strip(), False)


def test_hooks_of_the_repository_do_not_run(root: Path) -> None:
    hook = root / ".git/hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\ntouch ran\nexit 1\n")
    hook.chmod(0o755)
    with checkout(root, "main") as revision:
        assert not (revision.root / "ran").exists()


def test_the_variables_of_a_hook_do_not_redirect_git(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert repository(root / "kernels") == root


@pytest.mark.parametrize("name", ["nothing", "--help", "", "main:kernels"])
def test_an_unknown_revision_is_refused(root: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"revision '.*' is unknown in .*repository"), checkout(root, name):
        pass
    assert left(root) == []


def test_a_revision_without_kernels_is_refused(root: Path) -> None:
    git(root, "rm", "--quiet", "-r", "--force", "kernels")
    commit(root, "README.md", "nothing here\n")
    with pytest.raises(ValueError, match="main has no package kernels to measure"), checkout(root, "main"):
        pass
    (root / "kernels/new.py").unlink()
    with pytest.raises(ValueError, match="the working tree has no package kernels"), working_tree(root):
        pass
    assert left(root) == []


def test_conflicts_are_refused(root: Path) -> None:
    git(root, "stash", "--include-untracked")
    git(root, "checkout", "--quiet", "-b", "other", "HEAD~1")
    commit(root, "kernels/__init__.py", "value = 5\n")
    subprocess.run(["git", "merge", "--quiet", "main"], cwd=root, capture_output=True, check=False)
    with pytest.raises(ValueError, match="unresolved conflicts"), working_tree(root):
        pass


def test_outside_a_repository_there_is_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--base needs a git repository, and .* is in none"):
        repository(tmp_path)


def test_a_repository_without_commits_is_refused(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels/__init__.py").write_text("")
    with pytest.raises(ValueError, match="has no commit yet"), working_tree(tmp_path):
        pass
