"""A job of two revisions: what its comparison says when the sides differ in speed, memory, checks and what they can do.

The sides are told what to answer; tests/cli/test_compare_revisions.py runs real ones.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from noise_models import lognormal
from records_factory import CPU
from small_shape import small_shape

from bench.interleave import ROUNDS, Outcome, run_interleaved
from bench.noise import NoiseFloor
from bench.plan import Plan
from bench.records import Environment
from bench.revisions import Revision

SHAPE = small_shape(kv_heads=1, head_dim=32, topk=4)
PLAN = Plan(workloads=["gyroid"], tokens=[64], providers=["ssa-eager"], shape=SHAPE, directions=("fwd",))
PASSED = {"passed": True, "oracle": "fp64", "tensors": [{"name": "o", "error": 1e-7, "budget": 1e-6}]}
WRONG = {"jobs": [], "status": "failed_check", "reason": "error of o 1e-1 exceeds its budget 1e-6"}
COMMON = {
    "provider": "ssa-eager",
    "implementation": "eager",
    "workload": {"name": "gyroid", "tokens": 64, "resolution": 8, "seed": 0, "selection_blocks": 1}
    | {"compression_blocks": 8},
    "shape": SHAPE.model_dump(),
}


@dataclasses.dataclass
class Kernel:
    """What a revision does."""

    ms: dict[str, float] = dataclasses.field(default_factory=lambda: {"total": 10.0, "slc": 5.0})
    peak: int | None = None
    prepared: dict[str, Any] = dataclasses.field(default_factory=dict)  # beside what a good one answers
    fails_after: int | None = None  # blocks


class FakeSide:
    kernels: dict[str, Kernel]
    log: list[tuple[str, str]]  # revision and operation
    generator: np.random.Generator
    busy: int

    def __init__(self, revision: Revision, device: str, *, cpu: int | None) -> None:
        self.revision = revision
        self.kernel = self.kernels[revision.name]
        self.blocks = 0

    def __enter__(self) -> FakeSide:
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append((self.revision.name, "closed"))

    def hello(self) -> Environment:
        return CPU.model_copy(update={"git_commit": self.revision.commit, "git_dirty": False})

    def ask(self, operation: str, **request: Any) -> dict[str, Any]:
        self.log.append((self.revision.name, operation))
        stages = list(self.kernel.ms)
        if operation == "prepare":
            checked = {"correctness": PASSED} if request["check"] else {}
            jobs = [{"stage": stage, "direction": "fwd", "flops": 1.0} for stage in stages]
            answer = {"common": COMMON | checked, "jobs": jobs} | self.kernel.prepared
            return {name: value for name, value in answer.items() if value is not None}
        if operation == "sample":
            self.blocks += 1
            if self.kernel.fails_after is not None and self.blocks > self.kernel.fails_after:
                return {"status": "out_of_memory", "reason": "no memory is left"}
            noise = lognormal(self.generator, (request["count"],))
            return {"samples_ms": list(self.kernel.ms[stages[request["job"]]] * noise)}
        if operation == "memory":
            return {"peak_memory_bytes": self.kernel.peak}
        return {}


def run(monkeypatch: pytest.MonkeyPatch, base: Kernel, head: Kernel, **options: Any) -> Outcome:
    FakeSide.kernels = {"base": base, "head": head}
    FakeSide.log = []
    FakeSide.generator = np.random.default_rng(0)
    monkeypatch.setattr("bench.interleave.Side", FakeSide)
    revisions = [Revision(name, name[0] * 40, False, Path(name)) for name in ("base", "head")]
    return run_interleaved(PLAN, *revisions, device="cpu", **options)


def regressions(outcome: Outcome) -> dict[str, tuple[str, ...]]:
    return {entry.measured.stage: entry.regressions for entry in outcome.comparison.entries}


def test_equal_sides_end_as_soon_as_they_are_known_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = run(monkeypatch, Kernel(), Kernel())
    assert not outcome.comparison.failed
    assert outcome.comparison.count("equivalent") == 2
    started = FakeSide.log.count(("head", "closed"))
    assert started < ROUNDS
    assert FakeSide.log.count(("base", "closed")) == 2 * started


def test_a_slowdown_is_a_regression_of_the_measurement_it_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = run(monkeypatch, Kernel(), Kernel(ms={"total": 10.0, "slc": 5.5}))
    assert outcome.comparison.failed
    found = regressions(outcome)
    assert found["total"] == ()
    assert found["slc"][0].startswith("takes 1.1")
    assert outcome.comparison.own_floor is not None
    assert 0 < outcome.comparison.own_floor < 0.1


def test_records_hold_all_samples_and_the_commit_of_their_side(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = run(monkeypatch, Kernel(peak=100), Kernel(peak=100))
    for side, name in ((outcome.base, "b"), (outcome.head, "h")):
        assert [record.stage for record in side] == ["total", "slc"]
        assert {record.environment.git_commit for record in side} == {name * 40}
        assert {record.peak_memory_bytes for record in side} == {100}
        assert all(record.correctness is not None and record.correctness.passed for record in side)
        assert all(len(record.samples_ms) >= 2 * 3 * 16 for record in side)
    assert len({record.run_id for record in outcome.base + outcome.head}) == 1


def test_more_memory_and_a_failing_check_are_regressions(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = run(monkeypatch, Kernel(peak=100 * 2**20), Kernel(peak=110 * 2**20))
    assert regressions(outcome)["slc"] == ("peak memory grows from 100.0 to 110.0 MiB",)
    outcome = run(monkeypatch, Kernel(), Kernel(prepared=WRONG))
    assert set(regressions(outcome).values()) == {(f"fails its check: {WRONG['reason']}",)}
    outcome = run(monkeypatch, Kernel(prepared=WRONG), Kernel(prepared=WRONG))
    assert not outcome.comparison.failed


def test_what_head_cannot_run_is_lost_and_what_base_cannot_run_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    crash = {"jobs": [], "status": "error", "reason": "RuntimeError: no"}
    outcome = run(monkeypatch, Kernel(), Kernel(prepared=crash))
    assert regressions(outcome)["total"] == ("error: RuntimeError: no",)
    outcome = run(monkeypatch, Kernel(prepared=crash), Kernel())
    assert not outcome.comparison.failed
    assert [entry.outcome for entry in outcome.comparison.entries] == ["new", "new"]
    outcome = run(monkeypatch, Kernel(), Kernel(ms={"total": 10.0}))
    assert regressions(outcome) == {"total": (), "slc": ("was not measured in HEAD",)}


@pytest.mark.parametrize("blocks", [0, 1, 50])
def test_a_side_that_fails_while_it_is_sampled_is_a_regression(monkeypatch: pytest.MonkeyPatch, blocks: int) -> None:
    outcome = run(monkeypatch, Kernel(), Kernel(fails_after=blocks))
    assert ("out of memory: no memory is left",) in regressions(outcome).values()
    assert [record.status for record in outcome.base] == ["ok", "ok"]


def test_nothing_to_measure_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Kernel(prepared={"jobs": [], "status": "unavailable", "reason": "needs a GPU"})
    with pytest.raises(ValueError, match="nothing can be measured on either side: needs a GPU"):
        run(monkeypatch, absent, absent)
    broken = Kernel(prepared={"common": None, "jobs": [], "status": "error", "reason": "KeyError: 'x'"})
    with pytest.raises(ValueError, match="ssa-eager cannot be prepared on 64 tokens: KeyError: 'x'"):
        run(monkeypatch, broken, broken)


def test_a_calibrated_noise_floor_above_the_margin_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = NoiseFloor(margin=0.05, fingerprint=CPU.fingerprint, pairs=20, left_out=0, between_runs=True)
    with pytest.raises(ValueError, match="is below the noise floor of this machine"):
        run(monkeypatch, Kernel(), Kernel(), noise=noise)
    assert run(monkeypatch, Kernel(), Kernel(), noise=noise, margin=0.06).comparison.noise == noise


@pytest.mark.parametrize("option", ["margin", "memory_margin", "rounds"])
def test_options_that_cannot_be_are_refused(monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    with pytest.raises(ValueError, match=f"{option.replace('_', ' ')} must be positive, got 0"):
        run(monkeypatch, Kernel(), Kernel(), **{option: 0})


def test_progress_names_the_round_the_measurement_and_the_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    run(monkeypatch, Kernel(), Kernel(ms={"total": 20.0}), progress=lambda text, done, total: lines.append(text))
    assert lines[0] == "round 1 of at most 4: ssa-eager, 64 tokens: set-up and check; no verdict yet"
    assert lines[1] == "round 1 of at most 4: ssa-eager fwd, 64 tokens; no verdict yet"
    assert lines[-1] == "done: 1 slower"
