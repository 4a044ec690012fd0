"""Processes of a comparison: whose kernels they run, what they answer, what is said when they cannot, die or hang."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from bench.plan import paper_plan
from bench.revisions import Revision
from bench.side import Side, SideError

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
SHAPE = paper_plan("cpu").shape.model_dump() | {"heads": 4, "kv_heads": 1}
PROBLEM = {"workload": "gyroid", "tokens": 64, "shape": SHAPE, "seed": 0, "directions": ["fwd", "bwd"], "stages": None}


def revision(root: Path) -> Revision:
    return Revision("main", "a" * 40, False, root)


def broken(root: Path, code: str) -> Revision:
    (root / "kernels").mkdir()
    (root / "kernels/__init__.py").write_text(code)
    return revision(root)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder with our kernels under another path, so that theirs can be told from the harness's."""
    (tmp_path / "kernels").symlink_to(KERNELS)
    return tmp_path


def test_a_side_checks_samples_and_releases_with_the_kernels_of_its_revision(copied: Path) -> None:
    with Side(revision(copied), "cpu", cpu=None) as side:
        environment = side.hello()
        assert (environment.git_commit, environment.git_dirty, environment.device_type) == ("a" * 40, False, "cpu")
        answer = side.ask("prepare", provider="ssa-eager", check=True, **PROBLEM)
        assert answer["common"]["correctness"]["passed"]
        assert answer["common"]["workload"]["tokens"] == 64
        kinds = [(job["stage"], job["direction"]) for job in answer["jobs"]]
        assert kinds[:2] == [("total", "fwd"), ("total", "bwd")]
        assert ("slc", "bwd") in kinds
        for job in (0, 1, kinds.index(("slc", "bwd"))):
            samples = side.ask("sample", job=job, count=4)["samples_ms"]
            assert len(samples) == 4
            assert min(samples) > 0
        assert side.ask("memory", job=1) == {"peak_memory_bytes": None}
        some = side.ask("prepare", provider="ssa-eager", check=False, **PROBLEM | {"stages": ["win"]})
        assert [(job["stage"], job["direction"]) for job in some["jobs"]] == [("win", "fwd"), ("win", "bwd")]
        assert "correctness" not in some["common"]
        assert side.ask("release") == {}
        # A failed operation is an answer; the process goes on.
        assert side.ask("sample", job=0, count=1)["status"] == "error"
        unavailable = side.ask("prepare", provider="dense-sdpa-cudnn", check=True, **PROBLEM)
        assert (unavailable["status"], unavailable["jobs"]) == ("unavailable", [])


def test_kernels_that_do_not_fit_the_harness_are_refused(tmp_path: Path) -> None:
    with Side(broken(tmp_path, "print('noise on standard output')\n"), "cpu", cpu=None) as side:
        refusal = r"the kernels of main \(a{10}\) do not fit this harness: ModuleNotFoundError: .*kernels"
        with pytest.raises(SideError, match=refusal):
            side.hello()


def test_a_side_that_dies_says_what_it_said_last(tmp_path: Path) -> None:
    dying = broken(tmp_path, "import os, sys\nsys.stderr.write('the last word\\n')\nsys.stderr.flush()\nos._exit(7)\n")
    last = r"main \(a{10}\) ended with exit code 7 when it started:\n  the last word"
    with Side(dying, "cpu", cpu=None) as side, pytest.raises(SideError, match=last):
        side.hello()


def test_a_killed_side_names_the_signal(copied: Path) -> None:
    with Side(revision(copied), "cpu", cpu=None) as side:
        os.kill(side.pid, signal.SIGKILL)
        with pytest.raises(SideError, match="died of SIGKILL when it started"):
            side.hello()


def test_a_side_that_hangs_is_given_up_and_ended(tmp_path: Path) -> None:
    hanging = broken(tmp_path, "import time\ntime.sleep(600)\n")
    start = time.monotonic()
    side = Side(hanging, "cpu", cpu=None, timeout_s=0.5)
    with side, pytest.raises(SideError, match=r"gave no answer for 0\.5 s when it started"):
        side.hello()
    assert time.monotonic() - start < 60
    with pytest.raises(ProcessLookupError):
        os.kill(side.pid, 0)


def test_sides_can_share_a_core(copied: Path) -> None:
    core = max(os.sched_getaffinity(0))
    with Side(revision(copied), "cpu", cpu=core) as side:
        side.hello()
        assert os.sched_getaffinity(side.pid) == {core}
