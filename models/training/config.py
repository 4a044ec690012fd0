"""What decides how a model is trained, read from TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError


class Settings(BaseModel):
    """A part of a configuration: typed, frozen, and without unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TrainingConfig(Settings):
    """Of the loop. Steps are updates of the weights."""

    steps: int = Field(default=10_000, ge=1)
    batch_size: int = Field(default=4, ge=1)  # samples a process and forward pass
    accumulate: int = Field(default=1, ge=1)  # forward passes a step
    learning_rate: float = Field(default=1e-4, gt=0)
    warmup_steps: int = Field(default=100, ge=0)
    decay: Literal["constant", "cosine"] = "constant"  # after the warm-up; cosine ends at a hundredth
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float = Field(default=1.0, gt=0)
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    precision: Literal["bf16", "fp32"] = "bf16"
    parallel: Literal["ddp", "fsdp2"] = "ddp"  # used where torchrun starts several processes
    loader_workers: int = Field(default=4, ge=0)  # processes that read ahead; a batch of 4 at 256 takes one 50 to 80 ms
    seed: int = 0
    log_every: int = Field(default=10, ge=1)
    validate_every: int = Field(default=1000, ge=1)
    save_every: int = Field(default=500, ge=1)
    keep: int = Field(default=2, ge=1)  # checkpoints


Config = TypeVar("Config", bound=Settings)


def read_config(path: Path, kind: type[Config]) -> Config:
    """A configuration from a TOML file.

    Raises:
        ValueError: no such file, no TOML, or a value that does not fit; the message names the file and the value.
    """
    try:
        found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"configuration {path} does not exist") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"configuration {path} is no TOML: {error}") from error
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "it"
        raise ValueError(f"configuration {path}: {place}: {first['msg']}") from error
