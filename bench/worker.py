"""One side of a comparison of revisions: a process with the `kernels` of a revision under the harness that started it.

Run as `python -P -m bench.worker ROOT`, ROOT holding the package `kernels`. Requests and answers are JSON, one a line,
on standard input and output; what anything else prints goes to standard error. The first request says where to run; its
answer is the environment, or why the kernels cannot be used.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from bench.jobs import Job


class Worker:
    """Answers requests; holds one problem with one provider, and the call of the job that was sampled last."""

    def __init__(self, device: str) -> None:
        import torch

        self._device = torch.device(device)
        self._jobs: list[Job] = []
        self._problem: Any = None
        self._call: Any = None
        self._called: int | None = None
        self._held: int | None = None  # bytes on the device before the call was made

    def prepare(
        self,
        workload: str,
        tokens: int,
        shape: dict[str, Any],
        seed: int,
        provider: str,
        directions: list[Any],
        stages: list[str] | None,
        check: bool,
    ) -> dict[str, Any]:
        """Make a problem, check the provider on it if asked to, and list its jobs, or those of some stages.

        Returns:
            Fields of a `Record`: of all jobs, and of each; with a status where there is nothing to time.
        """
        from bench.check import check_provider
        from bench.failures import worst_error
        from bench.jobs import branch_jobs, dense_flops, operator_job
        from bench.providers import get_provider, make_problem
        from bench.records import Shape
        from bench.workloads import make_tokens

        self.release()
        chosen = get_provider(provider)
        problem = make_problem(make_tokens(workload, tokens), Shape(**shape), device=self._device, seed=seed)
        common = {
            "provider": provider,
            "implementation": chosen.implementation(problem),
            "workload": problem.workload.model_dump(),
            "shape": shape,
        }
        if reason := chosen.unavailable(problem):
            return {"common": common, "jobs": [], "status": "unavailable", "reason": reason}
        self._problem = chosen.adapt(problem)
        if check:
            correctness = check_provider(chosen, self._problem)
            common["correctness"] = correctness.model_dump()
            if not correctness.passed:
                self.release()
                return {"common": common, "jobs": [], "status": "failed_check", "reason": worst_error(correctness)}
        jobs = [operator_job(chosen, self._problem, direction) for direction in directions]
        jobs += branch_jobs(chosen, self._problem, directions)
        self._jobs = [job for job in jobs if stages is None or job.stage in stages]
        described = [
            {
                "stage": job.stage,
                "direction": job.direction,
                "flops": job.cost.flops,
                "dense_flops": dense_flops(self._problem, job.direction),
                "bytes": job.cost.bytes,
                "exponentials": job.cost.exponentials,
            }
            for job in self._jobs
        ]
        return {"common": common, "jobs": described}

    def sample(self, job: int, count: int) -> dict[str, Any]:
        """Milliseconds of `count` calls of a job, after an untimed one."""
        from bench import timing

        if self._called != job:
            self._start(job)
        series = timing.measure(self._call, self._device, min_samples=count, max_seconds=0.0)
        return {"samples_ms": series.samples_ms}

    def memory(self, job: int) -> dict[str, Any]:
        """Peak bytes of a job as in a speed record; None on the CPU."""
        from bench import timing

        if self._called != job:
            self._start(job)
        return {"peak_memory_bytes": timing.peak_memory(self._call, self._device, baseline=self._held)}

    def release(self) -> dict[str, Any]:
        self._call, self._called = None, None
        self._jobs, self._problem = [], None
        return {}

    def _start(self, job: int) -> None:
        from bench import timing
        from bench.jobs import upstream_gradient

        self._call, self._called = None, None  # a backward pass holds its forward: never two at a time
        upstream = upstream_gradient(self._problem)
        self._held = timing.allocated_bytes(self._device)
        chosen = self._jobs[job]
        self._call = chosen.call(chosen.prepare(self._problem), self._problem.inputs, upstream)
        self._called = job

    def failed(self, error: Exception) -> dict[str, Any]:
        from bench.failures import failed

        self._call, self._called = None, None
        return failed(error, self._device)


def import_kernels(root: Path) -> None:
    """Make `kernels` the package in `root`, whatever the import path says.

    Raises:
        ImportError: there is none.
    """
    init = root / "kernels" / "__init__.py"
    spec = importlib.util.spec_from_file_location("kernels", init, submodule_search_locations=[str(init.parent)])
    if spec is None or spec.loader is None:
        raise ImportError(f"no package kernels in {root}")
    module = importlib.util.module_from_spec(spec)
    sys.modules["kernels"] = module
    spec.loader.exec_module(module)


def _hello(root: Path, device: str, cpu: int | None) -> tuple[Worker | None, dict[str, Any]]:
    try:
        import_kernels(root)
        from bench import check, jobs  # noqa: F401  # what the harness needs of the kernels
        from bench.environment import capture

        if cpu is not None:
            os.sched_setaffinity(0, {cpu})
        return Worker(device), {"environment": capture(device).model_dump()}
    except Exception as error:  # code of another revision may fail in any way
        return None, {"refused": f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"}


def _answer(worker: Worker, request: dict[str, Any]) -> dict[str, Any]:
    operation = request.pop("operation")
    try:
        answer: dict[str, Any] = getattr(worker, operation)(**request)
    except Exception as error:  # a kernel may fail in any way; the other side must still be told
        return worker.failed(error)
    return answer


def serve(root: Path, requests: TextIO, answers: TextIO) -> None:
    """Answer until the requests end. The first request says where to run."""

    def send(answer: dict[str, Any]) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    worker, hello = _hello(root, **json.loads(requests.readline()))
    send(hello)
    if worker is None:
        return
    from torch._functorch import config as functorch_config

    # A compiled forward must not give its buffers away, because backward is timed with the graph retained.
    with functorch_config.patch(donated_buffer=False):
        for line in requests:
            send(_answer(worker, json.loads(line)))


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    serve(Path(sys.argv[1]), sys.stdin, answers)


if __name__ == "__main__":
    main()
