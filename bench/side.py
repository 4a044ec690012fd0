"""The parent's end of a `bench.worker`: start it, ask it, notice when it dies or hangs, end it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.records import Environment
from bench.revisions import Revision

_HARNESS = Path(__file__).resolve().parent.parent
_TIMEOUT_S = 900.0  # compilation and the check of a large problem included
_GRACE_S = 5.0
_MOST_LINES = 15  # of standard error, in a message


class SideError(ValueError):
    """A side that cannot be measured: its kernels do not fit the harness, or its process died or hangs."""


class Side:
    """A process that measures one revision, started anew for every round."""

    def __init__(self, revision: Revision, device: str, *, cpu: int | None, timeout_s: float = _TIMEOUT_S) -> None:
        """Start the process; it gets ready while others are started.

        Args:
            cpu: the core to stay on, or None for any.
            timeout_s: longest time that an answer may take.
        """
        self.revision = revision
        self._timeout_s = timeout_s
        self._unread = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the process
        path = os.pathsep.join(filter(None, [str(_HARNESS), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bench.worker", str(revision.root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            # Equal hashing: another order of a set is another program. Bytecode of a throwaway tree is of no use.
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
            start_new_session=True,  # Ctrl-C is for the parent, which ends its sides in order
        )
        self._send({"device": device, "cpu": cpu})

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(kill=kind is not None)

    @property
    def pid(self) -> int:
        return self._process.pid

    def hello(self) -> Environment:
        """Where the side runs, with the commit of its kernels.

        Raises:
            SideError: its kernels cannot be imported by this harness.
        """
        answer = self._receive("it started")
        if "refused" in answer:
            raise SideError(f"the kernels of {self.revision.label} do not fit this harness: {answer['refused']}")
        environment = Environment.model_validate(answer["environment"])
        return environment.model_copy(update={"git_commit": self.revision.commit, "git_dirty": self.revision.dirty})

    def ask(self, operation: str, **request: Any) -> dict[str, Any]:
        """
        Returns:
            The answer of `bench.worker.Worker`; with `status` and `reason` where the operation failed.

        Raises:
            SideError: the process died or gives no answer.
        """
        self._send({"operation": operation, **request})
        return self._receive(f"asked to {operation}")

    def _send(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died: there will be no answer, but a reason
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()

    def _receive(self, doing: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        end = time.monotonic() + self._timeout_s
        while b"\n" not in self._unread:
            if not select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
                raise SideError(f"{self.revision.label} gave no answer for {self._timeout_s:g} s when {doing}")
            piece = os.read(descriptor, 2**16)
            if not piece:
                raise self._died(doing)
            self._unread += piece
        line, _, self._unread = self._unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _died(self, doing: str) -> SideError:
        try:
            code = self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            how = "closed its output"
        else:
            how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()[-_MOST_LINES:]
        said = ":\n" + "\n".join(f"  {line}" for line in lines) if lines else ", without a word"
        return SideError(f"the process of {self.revision.label} {how} when {doing}{said}")

    def close(self, *, kill: bool = False) -> None:
        """End the process, at once or when it has read that there are no more requests, and wait for it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if kill:
            self._process.kill()
        try:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.wait(_GRACE_S)
        except BaseException:  # it hangs, or a second Ctrl-C came
            self._process.kill()
            self._process.wait()
        finally:
            self._process.stdout.close()
            self._errors.close()
