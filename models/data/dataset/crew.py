"""Many calls of a function at once, by workers that may die or hang without taking the others with them."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_Taken = TypeVar("_Taken", contravariant=True)


@dataclass(frozen=True)
class Lost:
    """Stands for the result of a call that has none."""

    reason: str


class Crew(Protocol[_Taken, Result]):
    """Workers, by number. Each has one call at a time."""

    size: int

    def start(self, worker: int, item: _Taken) -> None:
        """Begin a call; returns when the worker, freshly started perhaps, has taken it."""

    def wait(self, busy: Collection[int], timeout: float | None) -> list[tuple[int, Result | Lost]]:
        """Results of those busy workers that have one now, at the latest after `timeout` seconds; Lost of dead ones."""

    def replace(self, worker: int) -> None:
        """Stop a worker, whatever it does, and have a fresh one of its number."""

    def close(self) -> None:
        """Stop all workers."""


def run(
    crew: Crew[Item, Result], items: Iterable[Item], time_limit: float | None
) -> Iterator[tuple[Item, Result | Lost]]:
    """Results in the order in which they come; a call that takes longer than `time_limit` seconds is stopped."""
    waiting = iter(items)
    idle = list(range(crew.size))
    busy: dict[int, tuple[Item, float]] = {}
    while True:
        while idle and (item := next(waiting, None)) is not None:
            worker = idle.pop()
            crew.start(worker, item)
            busy[worker] = item, time.monotonic()
        if not busy:
            return
        first = min(since for _, since in busy.values())
        patience = None if time_limit is None else max(0.0, first + time_limit - time.monotonic())
        finished = crew.wait(busy.keys(), patience)
        for worker, result in finished:
            if isinstance(result, Lost):
                crew.replace(worker)
        if time_limit is not None:
            done = {worker for worker, _ in finished}
            for worker in [w for w, (_, since) in busy.items() if time.monotonic() - since >= time_limit]:
                if worker not in done:
                    crew.replace(worker)
                    finished.append((worker, Lost(f"took longer than the limit of {time_limit:g} s")))
        for worker, result in finished:
            item, _ = busy.pop(worker)
            idle.append(worker)
            yield item, result


class Here(Generic[Item, Result]):
    """No workers: calls run in this process when they are waited for, and nothing can stop them."""

    size = 1

    def __init__(self, function: Callable[[Item], Result]) -> None:
        self._function = function
        self._items: list[Item] = []

    def start(self, worker: int, item: Item) -> None:
        self._items.append(item)

    def wait(self, busy: Collection[int], timeout: float | None) -> list[tuple[int, Result | Lost]]:
        return [(0, self._function(self._items.pop()))]

    def replace(self, worker: int) -> None:
        raise RuntimeError("a call in this process cannot be stopped")

    def close(self) -> None:
        pass


class Processes(Generic[Item, Result]):
    """Worker processes on this machine, spawned, of one thread each; on several GPUs each has one of them.

    Args:
        function: must be importable by the workers.
        size: number of workers.
    """

    def __init__(self, function: Callable[[Item], Result], size: int) -> None:
        self.size = size
        self._function = function
        self._context = multiprocessing.get_context("spawn")
        self._workers = [self._hire(number) for number in range(size)]

    def start(self, worker: int, item: Item) -> None:
        process, connection, ready = self._workers[worker]
        if not ready:
            try:
                connection.recv()
            except EOFError:
                raise RuntimeError(f"a worker cannot start: exit code {_exit_code(process)}") from None
            self._workers[worker] = process, connection, True
        with suppress(ConnectionError):  # its death is seen by whoever waits for it
            connection.send(item)

    def wait(self, busy: Collection[int], timeout: float | None) -> list[tuple[int, Result | Lost]]:
        ready = wait([self._workers[worker][1] for worker in busy], timeout)
        found: list[tuple[int, Result | Lost]] = []
        for worker in [worker for worker in busy if self._workers[worker][1] in ready]:
            try:
                found.append((worker, self._workers[worker][1].recv()))
            except (EOFError, ConnectionError):
                found.append((worker, Lost(_obituary(_exit_code(self._workers[worker][0])))))
        return found

    def replace(self, worker: int) -> None:
        self._dismiss(worker)
        self._workers[worker] = self._hire(worker)

    def close(self) -> None:
        for worker in range(self.size):
            self._dismiss(worker)

    def _hire(self, number: int) -> tuple[SpawnProcess, Connection, bool]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self._function, number), daemon=True)
        process.start()
        theirs.close()  # so that its end is seen
        return process, ours, False

    def _dismiss(self, worker: int) -> None:
        process, connection, _ = self._workers[worker]
        process.kill()
        process.join()
        connection.close()


def _exit_code(process: SpawnProcess) -> int | None:
    process.join()
    return process.exitcode


def _obituary(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"the worker was killed by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")
    return f"the worker ended with exit code {exit_code}"


def _work(connection: Connection, function: Callable[[Any], Any], number: int) -> None:
    """A worker's life: it ends when the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other side tells when to stop
    settle(number)
    connection.send(None)
    while True:
        try:
            item = connection.recv()
        except EOFError:
            return
        connection.send(attempt(function, item))


def settle(number: int) -> None:
    """One thread a worker, and the GPUs in turn."""
    import torch

    torch.set_num_threads(1)
    if torch.cuda.device_count() > 1:
        torch.cuda.set_device(number % torch.cuda.device_count())


def attempt(function: Callable[[Item], Result], item: Item) -> Result | Lost:
    """What it returns, or what it raised."""
    try:
        return function(item)
    except Exception as error:
        return Lost(f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}")
