"""A crew of Ray actors: workers on many machines, each of which needs ssabench and the same file system."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import Any, Generic

from models.data.dataset.crew import Item, Lost, Result, attempt, settle

_HEARING_S = 0.1


class RayActors(Generic[Item, Result]):
    """Actors on the cluster that RAY_ADDRESS names, else on the one of this machine, else on a local one of its own.

    Args:
        function: must be importable on all machines.
        size: number of actors; None has one for each CPU (or GPU) of the cluster.
        gpu: whether each actor needs a GPU; else it has a CPU.

    Raises:
        ValueError: Ray is not installed, or the cluster has no place for so many actors.
    """

    def __init__(self, function: Callable[[Item], Result], size: int | None, *, gpu: bool) -> None:
        try:
            import ray
        except ImportError as error:
            raise ValueError("--ray needs Ray: pip install 'ssabench[ray]'") from error
        self._ray = ray
        self._started = not ray.is_initialized()
        if self._started:
            ray.init(log_to_driver=False, logging_level=logging.WARNING)
        kind = "GPU" if gpu else "CPU"
        there = int(ray.cluster_resources().get(kind, 0))
        self.size = there if size is None else size
        if not 1 <= self.size <= there:  # an actor without a place would be waited for in vain
            raise ValueError(f"workers must be from 1 to the {there} {kind}s of the Ray cluster, got {self.size}")
        self._function = function
        self._kind = ray.remote(num_cpus=0 if gpu else 1, num_gpus=1 if gpu else 0, max_restarts=0)(Actor)
        self._actors = [self._kind.remote() for _ in range(self.size)]
        self._ready = [False] * self.size
        self._results: dict[int, Any] = {}

    def start(self, worker: int, item: Item) -> None:
        actor = self._actors[worker]
        if not self._ready[worker]:
            self._ray.get(actor.settle.remote())
            self._ready[worker] = True
        self._results[worker] = actor.attempt.remote(self._function, item)

    def wait(self, busy: Collection[int], timeout: float | None) -> list[tuple[int, Result | Lost]]:
        worker_of = {self._results[worker]: worker for worker in busy}
        if timeout is not None:  # without any patience, Ray may not have heard yet of what is done
            timeout = max(timeout, _HEARING_S)
        self._ray.wait(list(worker_of), num_returns=1, timeout=timeout)
        finished, _ = self._ray.wait(list(worker_of), num_returns=len(worker_of), timeout=_HEARING_S)
        found: list[tuple[int, Result | Lost]] = []
        for reference in finished:
            try:
                found.append((worker_of[reference], self._ray.get(reference)))
            except self._ray.exceptions.OutOfMemoryError:
                found.append((worker_of[reference], Lost("the worker was killed for lack of memory")))
            except self._ray.exceptions.RayError as error:
                found.append((worker_of[reference], Lost(f"the worker was lost: {type(error).__name__}")))
        return found

    def replace(self, worker: int) -> None:
        self._ray.kill(self._actors[worker])
        self._actors[worker] = self._kind.remote()
        self._ready[worker] = False

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        if self._started:
            self._ray.shutdown()


class Actor:
    """What runs on the other machine. Ray shows it one GPU at most, so they need not be shared out."""

    def settle(self) -> None:
        settle(0)

    def attempt(self, function: Callable[[Any], Any], item: Any) -> Any:
        return attempt(function, item)
