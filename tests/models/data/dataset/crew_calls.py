"""What workers are asked to do in tests; importable by spawned processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from mesh_folder import SETTINGS

from models.data.dataset.prepare import prepare


def obey(order: str) -> str:
    """Answer, fail, die or hang."""
    match order:
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "leave":
            os._exit(3)
        case "hang":
            time.sleep(600)
        case "raise":
            raise KeyError("lost")
    return f"{order} done"


def prepare_for_ever(source: str, out: Path) -> None:
    """Run in a process that a test kills; from the third asset on it only pretends to work."""

    def progress(message: str, done: int, total: int) -> None:
        if message.startswith("ok") and done >= 3:
            (out.parent / "reached").touch()
            time.sleep(600)

    prepare(source, out, SETTINGS, workers=0, progress=progress)
