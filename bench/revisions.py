"""The code of two revisions at once: throwaway worktrees beside the working tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = "kernels"


@dataclass(frozen=True)
class Revision:
    """What is compared."""

    name: str  # as the user called it
    commit: str
    dirty: bool  # the working tree with changes
    root: Path  # folder that holds its `kernels`

    @property
    def label(self) -> str:
        return f"{self.name} ({self.commit[:10]}{' with local changes' if self.dirty else ''})"


def repository(folder: Path) -> Path:
    """Top of the git repository that holds the folder.

    Raises:
        ValueError: there is none.
    """
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top.returncode:
        raise ValueError(f"--base needs a git repository, and {folder} is in none")
    return Path(top.stdout.strip())


@contextmanager
def checkout(repository: Path, revision: str) -> Iterator[Revision]:
    """A revision in a worktree of its own in a temporary folder; both are gone afterwards, whatever happens.

    Raises:
        ValueError: no such revision, or one without the package `kernels`.
    """
    found = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if found.returncode:
        raise ValueError(f"revision {revision!r} is unknown in {repository}; a shallow clone has only its last commits")
    commit = found.stdout.strip()
    with _temporary_folder() as folder:
        try:
            # Hooks of the repository expect a real checkout.
            added = _git(
                repository, "-c", f"core.hooksPath={os.devnull}", "worktree", "add", "--detach", str(folder), commit
            )
            if added.returncode:
                raise ValueError(f"git cannot check out {revision!r}: {added.stderr.strip().splitlines()[-1]}")
            _require_kernels(folder, revision)
            yield Revision(revision, commit, False, folder)
        finally:
            _git(repository, "worktree", "remove", "--force", str(folder))
            shutil.rmtree(folder, ignore_errors=True)
            _git(repository, "worktree", "prune")


@contextmanager
def working_tree(repository: Path) -> Iterator[Revision]:
    """The working tree as it is, changes included: a copy, so that edits during a long comparison do not mix into it.

    Raises:
        ValueError: no commit yet, unresolved conflicts, or no package `kernels`.
    """
    _require_kernels(repository, "the working tree")
    head = _git(repository, "rev-parse", "--verify", "--quiet", "HEAD")
    if head.returncode:
        raise ValueError(f"{repository} has no commit yet")
    if _git(repository, "ls-files", "--unmerged").stdout:
        raise ValueError("the working tree has unresolved conflicts; resolve them, or name a revision with --head")
    changes = _git(repository, "status", "--porcelain", "--", _PACKAGE).stdout
    with _temporary_folder() as folder:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repository / _PACKAGE, folder / _PACKAGE, ignore=ignored)
        yield Revision("the working tree", head.stdout.strip(), bool(changes), folder)


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ssabench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder, "side")


def _require_kernels(root: Path, revision: str) -> None:
    if not (root / _PACKAGE / "__init__.py").is_file():
        raise ValueError(f"{revision} has no package {_PACKAGE} to measure")


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # Within a hook these name the repository that runs it, and would override the folder.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    except FileNotFoundError as error:
        raise ValueError("--base needs git") from error
