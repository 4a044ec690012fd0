"""Benchmarks of the operator and its branches by pytest-benchmark.

pytest bench --benchmark-only --benchmark-json head.json

Wall times of whole calls, the wait for the device included, with a warm cache. `ssabench speed` measures what the
device takes, from a cold cache, and is what to judge kernels by.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch._functorch import config as functorch_config

from bench.check import check_provider
from bench.environment import capture, fingerprint
from bench.jobs import Job, branch_jobs, dense_flops, operator_job, upstream_gradient
from bench.plan import PASSES, paper_plan
from bench.providers import Problem, Provider, default_providers, get_provider, make_problem, match_providers
from bench.pytest_json import to_extra_info
from bench.records import Correctness, Environment, Pass, Stage
from bench.workloads import make_tokens

_PARTS: list[tuple[Stage, Pass]] = [
    *(("total", direction) for direction in PASSES),
    *(("cmp", direction) for direction in PASSES[:2]),
    ("select", "fwd"),
    *((stage, direction) for stage in ("slc", "win") for direction in PASSES[:2]),
]


@dataclass(frozen=True)
class Prepared:
    """A provider on a problem, ready to be timed."""

    provider: Provider
    problem: Problem
    correctness: Correctness
    jobs: dict[tuple[Stage, Pass], Job]
    blank: dict[str, Any]  # fields of every record


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    options = metafunc.config.option
    device = _device(options.device)
    counts = options.tokens or ([512, 1024] if device.type == "cpu" else [8192, 32768])
    names = match_providers(options.provider) if options.provider else default_providers(device)[:1]
    problems = [(name, options.workload, count) for count in counts for name in names]
    cases = [(*problem, *part) for problem in problems for part in _parts(problem[0])]
    metafunc.parametrize(
        ("prepared", "stage", "direction"),
        [((name, workload, count, device), stage, direction) for name, workload, count, stage, direction in cases],
        ids=["-".join(map(str, case)) for case in cases],
        indirect=["prepared"],
        scope="module",
    )


def _parts(name: str) -> list[tuple[Stage, Pass]]:
    """What there is to time of a provider: its branches too, where it has them."""
    return [part for part in _PARTS if part[0] == "total" or get_provider(name).branches is not None]


@pytest.fixture(scope="session")
def run_id() -> str:
    return uuid.uuid4().hex[:12]


@pytest.fixture(scope="module")
def prepared(request: pytest.FixtureRequest, run_id: str) -> Prepared:
    """Inputs, set-up and check, outside of every time."""
    name, workload, tokens, device = request.param
    provider = get_provider(name)
    shape = paper_plan(device).shape
    problem = make_problem(make_tokens(workload, tokens), shape, device=device, seed=0)
    reason = provider.unavailable(problem)
    if reason is not None:
        pytest.skip(reason)
    problem = provider.adapt(problem)
    correctness = check_provider(provider, problem)
    jobs = [operator_job(provider, problem, direction) for direction in PASSES]
    jobs += branch_jobs(provider, problem, PASSES)
    blank = {
        "run_id": run_id,
        "provider": provider.name,
        "implementation": provider.implementation(problem),
        "workload": problem.workload,
        "shape": shape,
        "environment": _on_the_wall_clock(capture(device)),
    }
    return Prepared(provider, problem, correctness, {(job.stage, job.direction): job for job in jobs}, blank)


def test_operator(benchmark: Any, prepared: Prepared, stage: Stage, direction: Pass) -> None:
    job = prepared.jobs[stage, direction]
    # No time without a passed check.
    failed = [tensor for tensor in prepared.correctness.tensors if not tensor.passed]
    assert prepared.correctness.passed, f"fails its check: {failed or 'wrong selection'}"
    problem = prepared.problem
    benchmark.extra_info.update(
        to_extra_info(
            **prepared.blank,
            stage=stage,
            direction=direction,
            correctness=prepared.correctness,
            flops=job.cost.flops,
            dense_flops=dense_flops(problem, direction),
            bytes=job.cost.bytes,
            exponentials=job.cost.exponentials,
        )
    )
    # A compiled forward must not give its buffers away, because backward is called with the graph retained.
    with functorch_config.patch(donated_buffer=False):
        call = _waiting(job.call(job.prepare(problem), problem.inputs, upstream_gradient(problem)), problem.device)
        call()  # compiles
        benchmark(call)


def _waiting(call: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """The call and the wait until the device has done its work, without which only the launch would be timed."""

    def run() -> None:
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def _device(name: str | None) -> torch.device:
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def _on_the_wall_clock(environment: Environment) -> Environment:
    """Times by another clock compare with each other alone, so they count as those of another machine."""
    return environment.model_copy(
        update={
            "device": f"{environment.device} (wall clock)",
            "fingerprint": fingerprint(machine=environment.fingerprint, clock="pytest-benchmark"),
        }
    )
