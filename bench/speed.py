"""The speed sweep: workloads x token counts x providers, and captured inputs x providers; each checked, then timed.

What is timed: `fwd` under `torch.no_grad`; `bwd` as `torch.autograd.grad` of a saved forward for one fixed random
upstream gradient; `fwd_bwd` as both in one call. Scoring, top-k and gates are part of sparse attention; the learned
compression of keys and values is not.
"""

from __future__ import annotations

import dataclasses
import gc
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._functorch import config as functorch_config

from bench import timing
from bench.accounting import Cost, full_attention_costs, ssa_costs
from bench.captured import Captured, load_captured
from bench.ceilings import probe
from bench.check import check_provider
from bench.environment import capture
from bench.providers import Problem, Provider, block_indices, default_providers, get_provider, make_problem
from bench.records import Ceilings, Correctness, Environment, Pass, Record, Shape, Stage, read_records, write_records
from bench.workloads import make_tokens
from kernels.api import HEAD_DIMS, MAX_GROUP
from kernels.testing import Inputs

Progress = Callable[[str, int, int], None]  # what starts now, steps done, steps in all
PASSES: tuple[Pass, ...] = ("fwd", "bwd", "fwd_bwd")


@dataclass(frozen=True)
class Plan:
    """What a sweep measures.

    Attributes:
        workloads: specifications that `bench.workloads.make_tokens` reads, each measured at every one of `tokens`.
        inputs: files of captured inputs (bench.captured), measured after the workloads at the tokens they have.
        limit_s: seconds that one call may take; a provider predicted to need more at a size is not run there.
        min_samples, max_seconds: fewest samples, and seconds of sampling, of a measurement.
    """

    workloads: Sequence[str]
    tokens: Sequence[int]
    providers: Sequence[str]
    shape: Shape
    inputs: Sequence[Path] = ()
    directions: Sequence[Pass] = PASSES
    limit_s: float = 30.0
    min_samples: int = 5
    max_seconds: float = 2.0
    seed: int = 0


def paper_plan(device: torch.device | str) -> Plan:
    """The sweep behind the paper's run-time figure (arXiv 2505.17412v2, figure 7).

    8K to 128K tokens with the model's attention: 32 heads of width 32 in 2 key-value groups, blocks of 4 and 8, windows
    of 8 (section 4.1); the paper does not state the top-k, 8 is the default of its repository. On a CPU the same shape
    runs in float32 on the mesh alone, at sizes that end within minutes.
    """
    on_cpu = torch.device(device).type == "cpu"
    return Plan(
        workloads=("mesh:deer",) if on_cpu else ("gyroid", "mesh:deer"),
        tokens=(512, 1024, 2048, 4096) if on_cpu else (8192, 16384, 32768, 65536, 131072),
        providers=default_providers(device),
        shape=Shape(
            heads=32,
            kv_heads=2,
            head_dim=32,
            dtype="float32" if on_cpu else "bfloat16",
            compression_block=4,
            selection_block=8,
            window=8,
            window_shift=0,
            topk=8,
        ),
        limit_s=4.0 if on_cpu else 30.0,
        min_samples=3 if on_cpu else 5,
        max_seconds=0.3 if on_cpu else 2.0,
    )


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
    _validate(plan)
    captured = [_load(path, plan.shape) for path in plan.inputs]
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
class _Job:
    """One thing to time."""

    stage: Stage
    direction: Pass
    forward: Callable[[Inputs], Tensor]
    grads: tuple[str, ...]
    cost: Cost
    compile_s: float | None = None


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
            jobs = self._jobs(provider, local, directions, compile_s)
        except Exception as error:  # a provider may fail in any way; the others must still be measured
            failure = _failure(error, self.device)
            return records + [Record(**blank, direction=direction, **failure) for direction in directions]
        blank["correctness"] = correctness
        if not correctness.passed:
            failure = {"status": "failed_check", "reason": _worst(correctness)}
            return records + [Record(**blank, direction=direction, **failure) for direction in directions]
        return records + [self._time(job, local, blank) for job in jobs]

    def _first_calls(self, provider: Provider, problem: Problem) -> dict[Pass, float]:
        """Seconds of the first call of each pass, before anything else has compiled it."""
        seconds: dict[Pass, float] = {}
        for direction in ("fwd", "bwd"):
            if direction in self.plan.directions:
                call = _call(lambda x: provider.forward(problem, x), provider.grads, problem, direction)
                seconds[direction] = timing.first_call_seconds(call, self.device)
        return seconds

    def _jobs(
        self, provider: Provider, problem: Problem, directions: Sequence[Pass], compile_s: dict[Pass, float]
    ) -> list[_Job]:
        costs = provider.costs(problem)
        jobs = [
            _Job(
                "total",
                direction,
                lambda x: provider.forward(problem, x),
                provider.grads,
                costs[direction],
                compile_s.get(direction),
            )
            for direction in directions
        ]
        if provider.branches is None:
            return jobs
        chosen = block_indices(problem, provider.selection_impl or "auto")
        branch_costs = ssa_costs(problem.layout, chosen, problem.shape)
        for stage, branch in provider.branches(problem).items():
            for direction in directions:
                if direction == "fwd" or (direction == "bwd" and branch.grads):
                    jobs.append(_Job(stage, direction, branch.forward, branch.grads, branch_costs[stage][direction]))
        return jobs

    def _time(self, job: _Job, problem: Problem, blank: dict[str, Any]) -> Record:
        identity: dict[str, Any] = {
            "stage": job.stage,
            "direction": job.direction,
            "flops": job.cost.flops,
            "dense_flops": _dense_flops(problem, job.direction),
            "bytes": job.cost.bytes,
            "exponentials": job.cost.exponentials,
            "ceilings": self.ceilings,
        }
        try:
            _upstream(problem)  # an input, not part of the peak
            baseline = timing.allocated_bytes(self.device)
            call = _call(job.forward, job.grads, problem, job.direction)
            samples = timing.measure(
                call, self.device, min_samples=self.plan.min_samples, max_seconds=self.plan.max_seconds
            )
            peak = timing.peak_memory(call, self.device, baseline=baseline)
        except Exception as error:  # as in `measure`: running out of memory here must not end the sweep
            return Record(**blank, **identity, **_failure(error, self.device))
        return Record(
            **blank,
            **identity,
            status="ok",
            samples_ms=samples,
            summary=timing.summarise(samples),
            compile_s=job.compile_s,
            peak_memory_bytes=peak,
        )


def _validate(plan: Plan) -> None:
    needed = ["providers", "directions"]
    if plan.workloads or not plan.inputs:
        needed = ["workloads", "tokens", *needed]
    for name in needed:
        if not getattr(plan, name):
            raise ValueError(f"{name} must not be empty")
    if min(plan.tokens, default=1) < 1:
        raise ValueError(f"tokens must be positive, got {min(plan.tokens)}")
    validate_shape(plan.shape)


def _load(path: Path, shape: Shape) -> Captured:
    """A file of captured inputs, which must have the shape that is measured.

    Raises:
        ValueError: what `load_captured` raises, or another shape; the message says which options fit.
    """
    captured = load_captured(path)
    fixed = ("heads", "kv_heads", "head_dim", "compression_block")
    if any(getattr(captured, name) != getattr(shape, name) for name in fixed):
        options = " ".join(f"--{name.replace('_', '-')} {getattr(captured, name)}" for name in fixed)
        raise ValueError(f"{path} holds inputs of another shape; measure it with {options}")
    return captured


def validate_shape(shape: Shape) -> None:
    """Whether the operator takes such a shape.

    Raises:
        ValueError: heads, head dim or top-k outside its range.
    """
    for name in ("heads", "kv_heads", "topk"):
        if getattr(shape, name) < 1:
            raise ValueError(f"{name} must be positive, got {getattr(shape, name)}")
    if shape.heads % shape.kv_heads or shape.heads // shape.kv_heads > MAX_GROUP:
        raise ValueError(
            f"heads must be a multiple of kv_heads={shape.kv_heads}, at most {MAX_GROUP} times it, got {shape.heads}"
        )
    if not HEAD_DIMS[0] <= shape.head_dim <= HEAD_DIMS[1]:
        raise ValueError(f"head_dim must be from {HEAD_DIMS[0]} to {HEAD_DIMS[1]}, got {shape.head_dim}")


def _identity(record: Record) -> tuple[str, ...]:
    """What makes two records measurements of the same thing on the same machine."""
    workload, shape = record.workload.model_dump_json(), record.shape.model_dump_json()
    return (record.provider, record.stage, record.direction, workload, shape, record.environment.fingerprint)


def _dense_flops(problem: Problem, direction: Pass) -> float:
    samples = problem.layout.cu_seqlens.diff().tolist()
    return full_attention_costs(problem.layout.num_tokens, samples, problem.shape)[direction].flops


def _call(
    forward: Callable[[Inputs], Tensor], grads: tuple[str, ...], problem: Problem, direction: Pass
) -> Callable[[], object]:
    """The callable whose time is the time of the pass."""
    if direction == "fwd":

        def run_forward() -> Tensor:
            with torch.no_grad():
                return forward(problem.inputs)

        return run_forward

    leaves = {name: getattr(problem.inputs, name).detach().requires_grad_() for name in grads}
    inputs = dataclasses.replace(problem.inputs, **leaves)
    upstream = _upstream(problem)

    def gradients(o: Tensor, *, retain: bool) -> tuple[Tensor, ...]:
        return torch.autograd.grad(o, tuple(leaves.values()), upstream, retain_graph=retain)

    if direction == "fwd_bwd":
        return lambda: gradients(forward(inputs), retain=False)
    o = forward(inputs)
    return lambda: gradients(o, retain=True)


def _upstream(problem: Problem) -> Tensor:
    """The problem's random gradient of the output, drawn on the CPU so that it is the same on every machine."""

    def draw() -> Tensor:
        generator = torch.Generator().manual_seed(problem.workload.seed + 1)
        q = problem.inputs.q
        return torch.randn(q.shape, generator=generator).to(q)

    return problem.once("upstream", draw)


def _failure(error: Exception, device: torch.device) -> dict[str, Any]:
    """Status and reason of a record for a failed call; its memory is freed."""
    error.__traceback__ = None  # its frames hold tensors
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # raises where the error has made the device unusable
        torch.cuda.empty_cache()
    message = (str(error).strip() or type(error).__name__).splitlines()[0]
    out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in message
    return {
        "status": "out_of_memory" if out_of_memory else "error",
        "reason": message if out_of_memory else f"{type(error).__name__}: {message}",
    }


def _worst(correctness: Correctness) -> str:
    """Why the check failed, in one sentence."""
    failed = [tensor for tensor in correctness.tensors if not tensor.passed]
    if failed:
        worst = max(failed, key=lambda tensor: tensor.error / tensor.budget if tensor.budget else float("inf"))
        return f"error of {worst.name} {worst.error:.2e} exceeds its budget {worst.budget:.2e}"
    return f"{correctness.selection_errors} rows break the selection rule"
