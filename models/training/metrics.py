"""Numbers of a run as they come: a line of JSON each time, and TensorBoard where it is installed."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any

from models.files import write_whole

FILE = "metrics.jsonl"


class MetricsLog:
    """Appends to `metrics.jsonl` of a run's folder; rows from `step` on are of a run that was cut off, and go."""

    def __init__(self, folder: Path, step: int) -> None:
        path = folder / FILE
        if path.exists():
            rows = [row for row in read_metrics(folder) if row["step"] <= step]
            write_whole(path, (json.dumps(row) + "\n" for row in rows))
        folder.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        self._board: Any = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Numbers by name; those that are not finite are written as null, which is JSON."""
        row = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **row}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
            self._board.flush()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Rows of a run's `metrics.jsonl`; a last line that was cut off is left out."""
    rows = []
    for line in (folder / FILE).read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
