"""Workers: each call has a result or a reason, whatever becomes of its process, and the others go on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from crew_calls import obey

from models.data.dataset.crew import Crew, Here, Lost, Processes, run
from models.data.dataset.ray_crew import RayActors

ORDERS = ["a", "die", "b", "raise", "c", "hang", "d"]


def outcomes(crew: Crew[str, str], orders: list[str], time_limit: float | None) -> dict[str, str | Lost]:
    try:
        return dict(run(crew, orders, time_limit))
    finally:
        crew.close()


@pytest.mark.slow
def test_processes_survive_death_errors_and_calls_without_end() -> None:
    results = outcomes(Processes(obey, 2), [*ORDERS, "leave"], time_limit=3)
    assert {order: results[order] for order in "abcd"} == {order: f"{order} done" for order in "abcd"}
    assert results["die"] == Lost("the worker was killed by SIGKILL, perhaps for lack of memory")
    assert results["leave"] == Lost("the worker ended with exit code 3")
    assert results["raise"] == Lost("KeyError: 'lost'")
    assert results["hang"] == Lost("took longer than the limit of 3 s")


@pytest.mark.slow
def test_ray_actors_survive_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # the actors of a local cluster import from there
    results = outcomes(RayActors(obey, 2, gpu=False), ORDERS, time_limit=6)
    assert {order: results[order] for order in "abcd"} == {order: f"{order} done" for order in "abcd"}
    assert results["die"] == Lost("the worker was lost: ActorDiedError")
    assert results["raise"] == Lost("KeyError: 'lost'")
    assert results["hang"] == Lost("took longer than the limit of 6 s")


def test_without_workers_calls_run_here() -> None:
    assert outcomes(Here(obey), ["a", "b"], None) == {"a": "a done", "b": "b done"}


def test_nothing_is_taken_from_the_list_before_a_worker_is_free() -> None:
    taken = []

    def orders() -> Iterator[str]:
        for order in "abc":
            taken.append(order)
            yield order

    results = run(Here(obey), orders(), None)
    next(results)
    assert taken == ["a"]
