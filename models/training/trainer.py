"""The loop: batches by number, mixed precision, an average of the weights, checkpoints to the step.

A run is a folder. It holds the last checkpoints, `metrics.jsonl`, TensorBoard's files where that is installed, and what
validation draws. Started again in the same folder it goes on after its last checkpoint with the same numbers as if it
had never stopped: everything drawn at random is drawn from the seed and the number of the batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.utils.data import DataLoader, Dataset

from models.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    checkpoint_path,
    latest_checkpoint,
    read_checkpoint,
    remove_old,
    write_checkpoint,
)
from models.training.config import TrainingConfig
from models.training.ema import EMA
from models.training.metrics import MetricsLog
from models.training.processes import Processes, processes, spread

# What may differ when a run goes on: nothing here changes a number of a step, if the rate does not follow the steps.
_FREE = ("steps", "loader_workers", "log_every", "validate_every", "save_every", "keep", "parallel")
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_MICROBATCH_SEEDS = 2**32


class Batch(Protocol):
    """What goes to the device in one piece."""

    def to(self, device: torch.device) -> Any: ...


B = TypeVar("B", bound=Batch)


class Task(Protocol[B]):
    """A model and what it learns."""

    @property
    def config(self) -> Any:
        """A `Settings` with a part `training`."""
        ...

    @property
    def model(self) -> nn.Module: ...

    @property
    def initial(self) -> str | None:
        """A digest of the weights that the model was given to begin with; None of random ones."""
        ...

    @property
    def units(self) -> list[nn.Module]:
        """Parts of the model that FSDP2 gathers one after the other."""
        ...

    def batch(self, number: int) -> B:
        """A batch on the CPU, a function of its number alone."""
        ...

    def losses(self, model: nn.Module, batch: B) -> dict[str, Tensor]:
        """Scalars by name; `loss` is what is minimised. `model` is the one to call: it may be wrapped."""
        ...

    def validate(self, model: nn.Module, device: torch.device, folder: Path | None) -> dict[str, float]:
        """Numbers by name, for averaged weights; pictures and tables go into the folder, which is there, if one is."""
        ...


Progress = Callable[[int, int, dict[str, float]], None]


def train(
    task: Task[Any],
    folder: Path,
    device: torch.device,
    *,
    minutes: float = math.inf,
    progress: Progress | None = None,
) -> int:
    """Trains until the last step of the configuration, or until time is up.

    Args:
        folder: of the run; one that is there goes on.
        minutes: after which the run stops, with a checkpoint.
        progress: called with steps done, steps in all, and the last numbers.

    Returns:
        The step that was reached.

    Raises:
        CheckpointError: the folder holds a run of another configuration, or of other weights to begin with than the
            task was given.
        FloatingPointError: the loss is not finite.
    """
    end = time.monotonic() + 60 * minutes
    with processes(device) as team:
        run = _Run(task, folder, team)
        return run.loop(end, progress)


class _Run(Generic[B]):
    def __init__(self, task: Task[B], folder: Path, team: Processes) -> None:
        self.task, self.folder, self.team = task, folder, team
        self.config: TrainingConfig = task.config.training
        self.plain = task.model.to(team.device)
        self.model = spread(self.plain, self.config.parallel, team, task.units)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=self.config.learning_rate,
            betas=self.config.betas,
            weight_decay=self.config.weight_decay,
            fused=team.device.type == "cuda",
        )
        self.ema = EMA(self.model, self.config.ema_decay)
        self.step = 0
        self.waited = 0.0  # seconds for batches, since they were last logged
        self.initial = task.initial
        if (latest := latest_checkpoint(folder)) is not None:
            self._restore(latest)

    def loop(self, end: float, progress: Progress | None) -> int:
        config, team = self.config, self.team
        saved = self.step
        batches = self._batches()
        with MetricsLog(self.folder, self.step) if team.main else nullcontext() as log:
            logged, since = self.step, time.perf_counter()
            while self.step < config.steps and not self._is_late(end):
                numbers = self._update(batches)
                if self.step % config.log_every == 0 or self.step == config.steps:
                    means = team.mean(numbers)
                    elapsed = time.perf_counter() - since  # saving and validating since then included
                    means |= {"seconds_a_step": elapsed / (self.step - logged), "waiting_share": self.waited / elapsed}
                    logged, since, self.waited = self.step, since + elapsed, 0.0
                    if not math.isfinite(means["loss"]):
                        raise FloatingPointError(f"the loss is {means['loss']} at step {self.step}")
                    if log is not None:
                        log.write(self.step, means)
                    if progress is not None:
                        progress(self.step, config.steps, means)
                if self.step % config.validate_every == 0 or self.step == config.steps:
                    found = self._validate()
                    if log is not None:
                        log.write(self.step, found)
                if self.step % config.save_every == 0:
                    self._save()
                    saved = self.step
            if saved < self.step:
                self._save()
        return self.step

    def _batches(self) -> Iterator[B]:
        """From the next step on; batch numbers of all processes interleave."""
        config, team = self.config, self.team
        first, last = (step * config.accumulate for step in (self.step, config.steps))
        loader: DataLoader[B] = DataLoader(
            _Batches(self.task),
            batch_size=None,
            sampler=[number * team.world + team.rank for number in range(first, last)],
            num_workers=config.loader_workers,
            pin_memory=team.device.type == "cuda",  # of batches that have a method of this name
        )
        return iter(loader)

    def _update(self, batches: Iterator[B]) -> dict[str, Tensor]:
        """One step; the means of what the losses named, on the device."""
        config, team = self.config, self.team
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config, self.step)
        sums: dict[str, Tensor] = {}
        for micro in range(config.accumulate):
            start = time.perf_counter()
            batch = next(batches)
            self.waited += time.perf_counter() - start
            batch = batch.to(team.device)
            number = (self.step * config.accumulate + micro) * team.world + team.rank
            torch.manual_seed((config.seed * _MICROBATCH_SEEDS + number) % 2**63)
            with torch.autocast(team.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                losses = self.task.losses(self.model, batch)
            (losses["loss"] / config.accumulate).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, torch.zeros_like(value.detach())) + value.detach() / config.accumulate
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        sums["gradient_norm"] = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.ema.update(self.step)
        return sums

    def _is_late(self, end: float) -> bool:
        """Whether any process is: all must stop at the same step. Asked now and then: the answer is waited for."""
        if math.isinf(end) or self.step % self.config.log_every:
            return False
        late = torch.tensor(float(time.monotonic() > end), device=self.team.device)
        return self.team.mean({"late": late})["late"] > 0

    def _validate(self) -> dict[str, float]:
        folder = self.folder / "validation" / f"step-{self.step:08d}" if self.team.main else None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self.ema.swap()
        try:
            self.model.eval()
            with torch.no_grad():
                return self.task.validate(self.model, self.team.device, folder)
        finally:
            self.model.train()
            self.ema.swap()

    def _save(self) -> None:
        self.ema.swap()
        # On a CPU the dictionary shares the weights' memory.
        averaged: Any = get_model_state_dict(self.model, options=_WHOLE)
        averaged = {name: tensor.clone() for name, tensor in averaged.items()}
        self.ema.swap()
        model = get_model_state_dict(self.model, options=_WHOLE)
        optimizer: Any = get_optimizer_state_dict(self.model, self.optimizer, options=_WHOLE)
        if self.team.main:  # the others have nothing of the whole
            moments = {
                f"{name}|{moment}": torch.as_tensor(value)
                for name, values in optimizer["state"].items()
                for moment, value in values.items()
            }
            groups: Any = {"model": model, "ema": averaged, "optimizer": moments}
            config = self.task.config.model_dump(mode="json")
            checkpoint = Checkpoint(self.step, config, groups, self.initial)
            write_checkpoint(checkpoint_path(self.folder, self.step), checkpoint)
            remove_old(self.folder, self.config.keep)
        self.team.wait()

    def _restore(self, path: Path) -> None:
        checkpoint = read_checkpoint(path)
        require_same(self.task.config, checkpoint.config, self.folder)
        if self.initial not in (None, checkpoint.initial):
            began = "random weights" if checkpoint.initial is None else f"weights {checkpoint.initial}"
            raise CheckpointError(f"{self.folder} holds a run that began with {began}, not with {self.initial}")
        self.initial = checkpoint.initial
        groups: Any = checkpoint.groups
        set_model_state_dict(self.model, groups["ema"], options=_WHOLE)
        self.ema.take()
        set_model_state_dict(self.model, groups["model"], options=_WHOLE)
        moments: dict[str, Any] = {}
        for full, tensor in groups["optimizer"].items():
            name, moment = full.split("|")
            moments.setdefault(name, {})[moment] = tensor
        whole = get_optimizer_state_dict(self.model, self.optimizer) | {"state": moments}
        set_optimizer_state_dict(self.model, self.optimizer, whole, options=_WHOLE)
        self.step = checkpoint.step


class _Batches(Dataset[B]):
    """Batches by number, for a loader's workers."""

    def __init__(self, task: Task[B]) -> None:
        self._batch = task.batch

    def __getitem__(self, number: int) -> B:
        return self._batch(number)


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Of the update after `step` updates."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.decay == "constant":
        return config.learning_rate * warm
    left = max(1, config.steps - config.warmup_steps)
    done = min(1.0, max(0.0, (step - config.warmup_steps) / left))
    return config.learning_rate * warm * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)


def require_same(config: Any, held: dict[str, Any], folder: Path) -> None:
    """
    Raises:
        CheckpointError: the configurations differ in what changes the numbers of a run.
    """
    wanted = config.model_dump(mode="json")
    free = {*_FREE} - ({"steps"} if config.training.decay == "cosine" else set())
    wanted, held = (
        {**whole, "training": {name: value for name, value in whole["training"].items() if name not in free}}
        for whole in (wanted, held)
    )
    for part in sorted({*wanted, *held}):
        if wanted.get(part) != held.get(part):
            raise CheckpointError(f"{folder} holds a run of another configuration: {_difference(part, wanted, held)}")


def _difference(part: str, wanted: dict[str, Any], held: dict[str, Any]) -> str:
    ours, theirs = wanted.get(part), held.get(part)
    if isinstance(ours, dict) and isinstance(theirs, dict):
        name = next(name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name))
        return f"{part}.{name} is {theirs.get(name)!r} there, {ours.get(name)!r} now"
    return f"{part} is {theirs!r} there, {ours!r} now"
