"""A run at one step in one safetensors file: weights, their average, the optimiser's moments, the configuration."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from models.files import write_whole

_NAME = re.compile(r"step-(\d+)\.safetensors")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Tensors on the CPU by group (`model`, `ema`, `optimizer`) and name."""

    step: int
    config: dict[str, Any]
    groups: dict[str, dict[str, Tensor]]
    initial: str | None = None  # digest of the weights that the run began with; None of random ones


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says why."""


def checkpoint_path(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:08d}.safetensors"


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Written whole: a run that dies meanwhile leaves the one before."""
    tensors = {
        f"{group}.{name}": tensor.contiguous()
        for group, named in checkpoint.groups.items()
        for name, tensor in named.items()
    }
    about = json.dumps({"step": checkpoint.step, "config": checkpoint.config, "initial": checkpoint.initial})
    write_whole(path, [save(tensors, {"training": about})])


def read_checkpoint(path: Path) -> Checkpoint:
    """
    Raises:
        CheckpointError: no file of a run.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["training"])
            for full in file.keys():  # noqa: SIM118 - no mapping
                group, name = full.split(".", 1)
                groups.setdefault(group, {})[name] = file.get_tensor(full)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is no checkpoint of a training run: {error}") from error
    return Checkpoint(about["step"], about["config"], groups, about.get("initial"))


def latest_checkpoint(folder: Path) -> Path | None:
    """The one of the last step in a run's folder."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def remove_old(folder: Path, keep: int) -> None:
    for path in _checkpoints(folder)[:-keep]:
        path.unlink()


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "checkpoints").glob("step-*.safetensors") if _NAME.fullmatch(path.name))
