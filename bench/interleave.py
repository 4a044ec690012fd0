"""Two revisions in one job: base, head and a second process of base take turns on every measurement.

The harness is the running one, as in airspeed velocity; only `kernels` is of each revision. Every round starts fresh
processes (`bench.worker`), which hold the same problem and are asked for blocks of samples, one process busy at a time.
After every round each measurement is judged (`bench.cycles`); the next goes on with those still inconclusive.
"""

from __future__ import annotations

import dataclasses
import math
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch

from bench import timing
from bench.compare import MEMORY_MARGIN, Comparison, Progress, entry
from bench.cycles import BASE, CONTROL, HEAD, SIDES, Blocks, Samples, Series, judge_series
from bench.noise import NoiseFloor, require_margin
from bench.pairing import Measured, environment_differences
from bench.plan import Plan, validate_plan
from bench.records import Environment, Record, Stage
from bench.revisions import Revision
from bench.side import Side, SideError
from bench.verdict import MARGIN, Judgement

ROUNDS: Final = 4
FEWEST_CYCLES: Final = 16  # of a measurement in a round
_MOST_CYCLES = 64
_SECONDS = 4.0  # of sampling a measurement in a round, once it has the fewest cycles
# Short blocks, because noise is slow: its share that both sides of a cycle have in common grows as the cycle shrinks.
_BLOCK_MS = 10.0
_FEWEST, _MOST = 3, 10  # samples of a block

Sampler = Callable[[int], Samples]


@dataclass
class Outcome:
    """The comparison, and the records that it rests on."""

    comparison: Comparison
    base: list[Record]
    head: list[Record]


def take_turns(samplers: Sequence[Sampler], generator: np.random.Generator) -> list[tuple[Blocks, Blocks, Blocks]]:
    """A round of one measurement: the blocks of base, head and control in every cycle.

    Args:
        samplers: of base, head and control: count -> so many samples in ms.
    """
    warm = samplers[BASE](_FEWEST)
    for side in (HEAD, CONTROL):
        samplers[side](_FEWEST)
    count = int(np.clip(math.ceil(_BLOCK_MS / min(warm)), _FEWEST, _MOST))
    cycle_ms = 2 * len(samplers) * count * min(warm)
    cycles = []
    for _ in range(int(np.clip(1e3 * _SECONDS / cycle_ms, FEWEST_CYCLES, _MOST_CYCLES))):
        order = generator.permutation(SIDES).tolist()
        blocks: list[list[Samples]] = [[], [], []]
        for side in order + order[::-1]:
            blocks[side].append(samplers[side](count))
        base, head, control = ((first, second) for first, second in blocks)
        cycles.append((base, head, control))
    return cycles


@dataclass(frozen=True)
class _Case:
    """A provider on a problem."""

    workload: str
    tokens: int
    provider: str


_Kind = tuple[str, str]  # stage and pass


@dataclass
class _Measurement:
    """A job on both sides: what its records need, and its samples so far."""

    case: _Case
    kind: _Kind
    fields: tuple[dict[str, Any] | None, ...]  # of the records of base and head; None where a side has no such job
    series: Series = field(default_factory=Series)
    samples: tuple[Samples, Samples] = field(default_factory=lambda: ([], []))
    judgement: Judgement | None = None
    floor: float = 0.0

    @property
    def name(self) -> str:
        stage, direction = self.kind
        branch = "" if stage == "total" else f" {stage}"
        return f"{self.case.provider}{branch} {direction}, {self.case.tokens} tokens"

    @property
    def able(self) -> list[int]:
        """Those of base and head that have run it so far."""
        return [place for place, fields in enumerate(self.fields) if fields is not None and "status" not in fields]

    @property
    def is_timed(self) -> bool:
        return self.able == [BASE, HEAD]

    @property
    def is_open(self) -> bool:
        return self.is_timed and (self.judgement is None or self.judgement.verdict == "inconclusive")

    def learn(self, place: int, answer: dict[str, Any]) -> None:
        """Add what a side says to the fields of its record; a failure ends the measurement."""
        fields = self.fields[place]
        assert fields is not None
        fields.update(answer)
        if "status" in answer:
            self.judgement = None

    def record(self, place: int, run_id: str, environment: Environment) -> Record | None:
        fields, samples = self.fields[place], self.samples[place]
        if fields is None or ("status" not in fields and not samples):
            return None
        if "status" not in fields:
            fields = {**fields, "status": "ok", "samples_ms": samples, "summary": timing.summarise(samples)}
        return Record(run_id=run_id, environment=environment, **fields)


class _Failed(Exception):
    """A side could not take samples."""

    def __init__(self, place: int, answer: dict[str, Any]) -> None:
        super().__init__(answer["reason"])
        self.place = BASE if place == CONTROL else place
        self.answer = answer


@dataclass(frozen=True)
class _Holder:
    """A side that holds the problem of a case."""

    place: int
    side: Side
    answer: dict[str, Any]  # to the request to prepare

    @property
    def kinds(self) -> list[_Kind]:
        return [(job["stage"], job["direction"]) for job in self.answer.get("jobs", ())]

    def ask(self, operation: str, kind: _Kind, **request: Any) -> dict[str, Any]:
        """
        Raises:
            _Failed: it has no such job, as may be after a failure, or the job fails.
        """
        if kind not in self.kinds:
            raise _Failed(self.place, {"status": "error", "reason": "has gone", **self.answer})
        answer = self.side.ask(operation, job=self.kinds.index(kind), **request)
        if "status" in answer:
            raise _Failed(self.place, answer)
        return answer

    def sampler(self, kind: _Kind) -> Sampler:
        def sample(count: int) -> Samples:
            samples: Samples = self.ask("sample", kind, count=count)["samples_ms"]
            return samples

        return sample


def run_interleaved(
    plan: Plan,
    base: Revision,
    head: Revision,
    *,
    device: torch.device | str,
    rounds: int = ROUNDS,
    stages: Sequence[Stage] | None = None,
    margin: float = MARGIN,
    memory_margin: float = MEMORY_MARGIN,
    noise: NoiseFloor | None = None,
    progress: Progress | None = None,
    seed: int = 0,
) -> Outcome:
    """Measure everything in the plan on both revisions, and compare.

    Args:
        stages: those to measure; by default the whole operator and all branches that a provider exposes.
        rounds: most rounds; a measurement ends at its verdict.
        noise: a noise floor by `ssabench calibrate`, which the margin must not be below either.
        progress: called before every measurement of a round, and once at the end.
        seed: of the order of sides.

    Raises:
        ValueError: a plan or margin that cannot be, or a noise floor of another machine or above the margin.
        SideError: a side that cannot be measured.
    """
    for name, value in (("margin", margin), ("memory margin", memory_margin), ("rounds", rounds)):
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value:g}")
    validate_plan(plan)
    if plan.inputs:
        raise ValueError("captured inputs cannot be compared between revisions")
    job = _Job(plan, stages, (base, head, base), str(device), rounds, margin, np.random.default_rng(seed))
    for number in range(rounds):
        if number and not any(one.is_open for one in job.measurements):
            break
        job.round(number, noise, progress)
    if progress is not None:
        progress(f"done: {job.state}", len(job.measurements), len(job.measurements))
    return job.outcome(memory_margin, noise)


class _Job:
    def __init__(
        self,
        plan: Plan,
        stages: Sequence[Stage] | None,
        revisions: tuple[Revision, Revision, Revision],
        device: str,
        rounds: int,
        margin: float,
        generator: np.random.Generator,
    ) -> None:
        self._plan = plan
        self._stages = stages
        self._revisions = revisions
        self._device = device
        self._rounds = rounds
        self._margin = margin
        self._generator = generator
        self._run_id = uuid.uuid4().hex[:12]
        self._environments: list[Environment] = []
        self._cases = [
            _Case(workload, tokens, provider)
            for workload in plan.workloads
            for tokens in sorted(set(plan.tokens))
            for provider in plan.providers
        ]
        self.measurements: list[_Measurement] = []

    @property
    def state(self) -> str:
        """Verdicts so far."""
        verdicts = [one.judgement.verdict for one in self.measurements if one.judgement is not None]
        return ", ".join(f"{verdicts.count(name)} {name}" for name in dict.fromkeys(verdicts)) or "no verdict yet"

    def round(self, number: int, noise: NoiseFloor | None, progress: Progress | None) -> None:
        """Sample what is open in fresh processes, then judge."""
        with ExitStack() as stack:
            sides = [stack.enter_context(Side(one, self._device, cpu=self._core())) for one in self._revisions]
            environments = [side.hello() for side in sides]
            if number == 0:
                self._environments = environments
                if noise is not None:
                    require_margin(self._margin, noise, environments[HEAD].fingerprint)
            for case in self._cases:
                if number == 0 or any(one.is_open for one in self._of(case)):
                    self._measure(case, sides, number, progress)
        timed = [one for one in self.measurements if one.is_timed]
        series = [one.series for one in timed]
        judgements, floors = judge_series(series, [one.judgement for one in timed], self._margin, self._rounds)
        for one, judgement, floor in zip(timed, judgements, floors, strict=True):
            one.judgement, one.floor = judgement, floor

    def _core(self) -> int | None:
        """The core that all sides share where one is enough, or each would keep the luck of its own core."""
        if torch.device(self._device).type == "cpu" and torch.get_num_threads() == 1:
            return max(os.sched_getaffinity(0))
        return None

    def _of(self, case: _Case) -> list[_Measurement]:
        return [one for one in self.measurements if one.case == case]

    def _measure(self, case: _Case, sides: Sequence[Side], number: int, progress: Progress | None) -> None:
        """A round of the measurements of a case that are open."""

        def report(message: str) -> None:
            if progress is not None:
                closed = sum(not one.is_open for one in self.measurements)
                progress(f"round {number + 1} of at most {self._rounds}: {message}", closed, len(self.measurements))

        report(f"{case.provider}, {case.tokens} tokens: set-up{'' if number else ' and check'}; {self.state}")
        request = {
            **dataclasses.asdict(case),
            "shape": self._plan.shape.model_dump(),
            "seed": self._plan.seed,
            "directions": list(self._plan.directions),
            "stages": None if self._stages is None else list(self._stages),
        }
        holders = []
        for place, side in enumerate(sides):
            answer = side.ask("prepare", check=number == 0 and place != CONTROL, **request)
            holders.append(_Holder(place, side, answer))
        if number == 0:
            self.measurements += self._found(case, holders)
        for one in self._of(case):
            if one.is_open:
                report(f"{one.name}; {self.state}")
                self._sample(one, holders, with_memory=number == 0)
            for place in one.able:
                # What one side cannot run is timed on the other all the same: it is a loss, or something new.
                if not one.samples[place]:
                    self._sample_alone(one, holders[place])
        for side in sides:
            side.ask("release")

    def _found(self, case: _Case, holders: Sequence[_Holder]) -> Iterator[_Measurement]:
        """The measurements of a case, by what base and head say they can do."""
        known = [holder.answer["common"] for holder in holders if "common" in holder.answer]
        if not known:
            reasons = dict.fromkeys(holder.answer["reason"] for holder in holders)
            raise SideError(f"{case.provider} cannot be prepared on {case.tokens} tokens: {'; '.join(reasons)}")
        sides = holders[:CONTROL]
        # Of a provider that fails there is no list of jobs; the whole operator stands for them.
        first = "total" if self._stages is None else self._stages[0]
        kinds = [(first, direction) for direction in self._plan.directions if not all(one.kinds for one in sides)]
        for kind in dict.fromkeys(kinds + [kind for holder in sides for kind in holder.kinds]):
            fields: list[dict[str, Any] | None] = []
            for holder in sides:
                answer = holder.answer
                blank = {**answer.get("common", known[0]), "stage": kind[0], "direction": kind[1]}
                if kind in holder.kinds:
                    fields.append(blank | answer["jobs"][holder.kinds.index(kind)])
                elif "status" in answer:
                    fields.append(blank | {name: answer[name] for name in ("status", "reason")})
                else:
                    fields.append(None)
            yield _Measurement(case, kind, tuple(fields))

    def _sample(self, one: _Measurement, holders: Sequence[_Holder], *, with_memory: bool) -> None:
        try:
            cycles = take_turns([holder.sampler(one.kind) for holder in holders], self._generator)
            if with_memory:
                for place in (BASE, HEAD):
                    one.learn(place, holders[place].ask("memory", one.kind))
        except _Failed as failure:
            one.learn(failure.place, failure.answer)
            return
        one.series.add(cycles)
        for place in (BASE, HEAD):
            one.samples[place].extend(sample for cycle in cycles for block in cycle[place] for sample in block)

    def _sample_alone(self, one: _Measurement, holder: _Holder) -> None:
        try:
            one.samples[holder.place].extend(holder.sampler(one.kind)(_FEWEST))
        except _Failed as failure:
            one.learn(failure.place, failure.answer)

    def outcome(self, memory_margin: float, noise: NoiseFloor | None) -> Outcome:
        here, there = self._environments[BASE], self._environments[HEAD]
        entries = []
        bases, heads = [], []
        for one in self.measurements:
            old, new = one.record(BASE, self._run_id, here), one.record(HEAD, self._run_id, there)
            bases += [old] if old is not None else []
            heads += [new] if new is not None else []
            present = [record for record in (old, new) if record is not None]
            # What can run on neither side has nothing to compare.
            if any(record.status in ("ok", "failed_check") for record in present):
                interval = None if one.judgement is None else one.series.interval
                measured = Measured.of(present[0])
                entries.append(entry(measured, old, new, one.judgement, interval, memory_margin, gate_time=True))
        if not entries:
            reasons = dict.fromkeys(record.reason or "" for record in bases + heads)
            raise ValueError(f"nothing can be measured on either side: {'; '.join(reasons)}")
        differences = environment_differences(here, there)
        own_floor = max((one.floor for one in self.measurements if one.is_timed), default=None)
        comparison = Comparison(here, there, self._margin, noise, differences, tuple(entries), own_floor)
        return Outcome(comparison, bases, heads)
