"""The speed sweep: workloads x token counts x providers, and captured inputs x providers; each checked, then timed.

What is timed: `fwd` under `torch.no_grad`; `bwd` as `torch.autograd.grad` of a saved forward for one fixed random
upstream gradient; `fwd_bwd` as both in one call. Scoring, top-k and gates are part of sparse attention; the learned
compression of keys and values is not.

How: a provider is checked, then each of its jobs is sampled in blocks with other values of the inputs
(`bench.renewal`), under watch of the clocks (`bench.conditions`), and what the last call returned is judged
(`bench.judging`). Whoever fails gets no time.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._functorch import config as functorch_config

from bench import timing
from bench.captured import Captured, load_matching
from bench.ceilings import probe
from bench.check import check_provider
from bench.environment import capture
from bench.failures import failed, worst_error
from bench.jobs import Job, branch_jobs, dense_flops, operator_job, upstream_gradient
from bench.measurement import Deceived, take
from bench.plan import Plan, validate_plan
from bench.providers import Problem, Provider, get_provider, make_problem
from bench.records import Ceilings, Correctness, Environment, Pass, Record, read_records, write_records
from bench.renewal import Renewal
from bench.workloads import make_tokens

Progress = Callable[[str, int, int], None]  # what starts now, steps done, steps in all


def run_speed(
    plan: Plan,
    *,
    device: torch.device | str,
    out: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> list[Record]:
    """Measure everything in the plan.

    A provider that cannot run, fails its check, exceeds the limit or runs out of memory gets records that say so.

    Args:
        out: record file, rewritten after each provider, so that an interrupted run leaves a valid file.
        resume: keep the records in `out` and measure only what is missing: a provider is skipped on a workload and size
            where all its passes were timed on this machine by this commit without local changes. A new record replaces
            an old one of the same thing on the same machine.
        progress: called before each provider, and once at the end.

    Returns:
        What is in `out` at the end: the new records, after the kept ones if `resume`.

    Raises:
        ValueError: a name, count, shape or file in the plan that cannot be.
        RecordFileError: `resume` and `out` is not a record file.
    """
    device = torch.device(device)
    validate_plan(plan)
    captured = [load_matching(path, plan.shape) for path in plan.inputs]
    providers = [get_provider(name) for name in plan.providers]
    ceilings = probe(device, getattr(torch, plan.shape.dtype))
    run = _Run(plan, device, capture(device), ceilings, uuid.uuid4().hex[:12])
    records = read_records(out) if resume and out is not None and out.exists() else []
    problems = len(plan.workloads) * len(set(plan.tokens)) + len(captured)
    done, total = 0, problems * len(providers)
    for problem, growth in _problems(plan, captured, device):
        for provider in providers:
            if progress is not None:
                workload = problem.workload
                progress(f"{workload.label}, {workload.tokens} tokens, {provider.name}", done, total)
            measured = run.still_good(records, provider, problem)
            if not measured:
                measured = run.measure(provider, problem, growth)
                replaced = {_identity(record) for record in measured}
                records = [record for record in records if _identity(record) not in replaced] + measured
                if out is not None:
                    write_records(out, records)
            growth.learn(measured)
            done += 1
    if progress is not None:
        progress("done", done, total)
    return records


def _problems(plan: Plan, captured: Sequence[Captured], device: torch.device) -> Iterator[tuple[Problem, Growth]]:
    """Every problem of the plan, the smaller of a workload first, with what is known of the workload's growth."""
    for spec in plan.workloads:
        growth = Growth(plan.limit_s)
        for size in sorted(set(plan.tokens)):
            yield make_problem(make_tokens(spec, size, None), plan.shape, device=device, seed=plan.seed), growth
    growths: dict[str, Growth] = {}
    for source in sorted(captured, key=lambda source: len(source.tokens.coords)):
        growth = growths.setdefault(source.tokens.name, Growth(plan.limit_s))
        yield make_problem(source, plan.shape, device=device, seed=plan.seed), growth


class Growth:
    """Predicts the time of a call from the last smaller size, growing with the square of the tokens.

    The square is exact for dense attention and an upper bound for sparse attention. It starts from the fastest sample,
    so that a moment of load on the machine does not rule out every larger size.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._last: dict[tuple[str, Pass], tuple[int, float]] = {}

    def learn(self, records: Sequence[Record]) -> None:
        for record in records:
            if record.samples_ms and record.stage == "total":
                self._last[record.provider, record.direction] = (record.workload.tokens, min(record.samples_ms) / 1e3)

    def too_slow(self, provider: str, direction: Pass, tokens: int) -> str | None:
        """Why the call should not be tried at this size, or None."""
        if (provider, direction) not in self._last:
            return None
        smaller, seconds = self._last[provider, direction]
        predicted = seconds * (tokens / smaller) ** 2
        if predicted <= self._limit_s:
            return None
        return f"predicted {predicted:.1f} s a call exceeds the limit of {self._limit_s:g} s (--limit)"


@dataclass(frozen=True)
class _Run:
    plan: Plan
    device: torch.device
    environment: Environment
    ceilings: Ceilings
    run_id: str

    def still_good(self, records: Sequence[Record], provider: Provider, problem: Problem) -> list[Record]:
        """The provider's records on the problem, if `measure` need not make them again; else none."""
        here = self.environment
        if here.git_commit is None or here.git_dirty:
            return []
        found = [
            record
            for record in records
            if (record.provider, record.workload, record.shape) == (provider.name, problem.workload, problem.shape)
            and record.environment.fingerprint == here.fingerprint
            and record.environment.git_commit == here.git_commit
            and not record.environment.git_dirty
        ]
        timed = {record.direction for record in found if record.stage == "total" and record.status == "ok"}
        return found if timed.issuperset(self.plan.directions) else []

    # A compiled forward must not give its buffers away, because backward is timed with the graph retained.
    @functorch_config.patch(donated_buffer=False)
    def measure(self, provider: Provider, problem: Problem, growth: Growth) -> list[Record]:
        """Check the provider on the problem, then time the whole operator and its branches."""
        blank: dict[str, Any] = {
            "run_id": self.run_id,
            "provider": provider.name,
            "implementation": provider.implementation(problem),
            "workload": problem.workload,
            "shape": problem.shape,
            "environment": self.environment,
        }
        reason = provider.unavailable(problem)
        records: list[Record] = []
        directions: list[Pass] = []
        for direction in self.plan.directions:
            why = reason or growth.too_slow(provider.name, direction, problem.workload.tokens)
            if why is None:
                directions.append(direction)
            else:
                records.append(Record(**blank, direction=direction, status="unavailable", reason=why))
        if not directions:
            return records

        try:
            local = provider.adapt(problem)
            compile_s = self._first_calls(provider, local)
            correctness = check_provider(provider, local)
            jobs = self._jobs(provider, local, directions)
            renewal = Renewal(local, upstream_gradient(local))
        except Exception as error:  # a provider may fail in any way; the others must still be measured
            failure = failed(error, self.device)
            return records + [Record(**blank, direction=direction, **failure) for direction in directions]
        blank["correctness"] = correctness
        if not correctness.passed:
            failure = {"status": "failed_check", "reason": worst_error(correctness)}
            return records + [Record(**blank, direction=direction, **failure) for direction in directions]
        return records + [self._time(provider, job, renewal, correctness, blank, compile_s) for job in jobs]

    def _jobs(self, provider: Provider, problem: Problem, directions: Sequence[Pass]) -> list[Job]:
        jobs = [operator_job(provider, problem, direction) for direction in directions]
        return jobs + branch_jobs(provider, problem, directions)

    def _first_calls(self, provider: Provider, problem: Problem) -> dict[Pass, float]:
        """Seconds of the first call of each pass, before anything else has compiled it."""
        seconds: dict[Pass, float] = {}
        for direction in ("fwd", "bwd"):
            if direction in self.plan.directions:
                job = operator_job(provider, problem, direction)
                call = job.call(job.prepare(problem), problem.inputs, upstream_gradient(problem))
                seconds[direction] = timing.first_call_seconds(call, self.device)
        return seconds

    def _time(
        self,
        provider: Provider,
        job: Job,
        renewal: Renewal,
        correctness: Correctness,
        blank: dict[str, Any],
        compile_s: dict[Pass, float],
    ) -> Record:
        problem = renewal.problem
        identity: dict[str, Any] = {
            "stage": job.stage,
            "direction": job.direction,
            "flops": job.cost.flops,
            "dense_flops": dense_flops(problem, job.direction),
            "bytes": job.cost.bytes,
            "exponentials": job.cost.exponentials,
            "ceilings": self.ceilings,
        }
        plan = self.plan
        try:
            timed = take(
                provider, job, renewal, correctness, min_samples=plan.min_samples, max_seconds=plan.max_seconds
            )
        except Deceived as found:
            identity["timed_correctness"] = found.timed_correctness
            return Record(**blank, **identity, status="failed_check", reason=str(found))
        except Exception as error:  # as in `measure`: running out of memory here must not end the sweep
            return Record(**blank, **identity, **failed(error, self.device))
        compiled = compile_s.get(job.direction) if job.stage == "total" else None
        return Record(**blank, **identity, **timed, status="ok", compile_s=compiled)


def _identity(record: Record) -> tuple[str, ...]:
    """What makes two records measurements of the same thing on the same machine."""
    workload, shape = record.workload.model_dump_json(), record.shape.model_dump_json()
    return (record.provider, record.stage, record.direction, workload, shape, record.environment.fingerprint)
