"""A small task that learns in milliseconds: `python toy.py FOLDER STEPS [SECONDS]` trains it, with a pause a batch."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from models.training.config import Settings, TrainingConfig
from models.training.order import batch_generator, batch_indices
from models.training.trainer import train


class ToyConfig(Settings):
    width: int = 8
    training: TrainingConfig = TrainingConfig()


@dataclass
class ToyBatch:
    x: Tensor
    y: Tensor

    def to(self, device: torch.device) -> ToyBatch:
        return ToyBatch(self.x.to(device), self.y.to(device))


@dataclass
class Toy:
    """Learns sums of four numbers, with dropout, so that random numbers matter."""

    config: ToyConfig
    pause: float = 0.0
    initial: str | None = None
    model: nn.Module = field(init=False)
    units: list[nn.Module] = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(self.config.training.seed)
        width = self.config.width
        self.model = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Dropout(0.1), nn.Linear(width, 1))
        self.units = [self.model[0]]

    def batch(self, number: int) -> ToyBatch:
        time.sleep(self.pause)
        training = self.config.training
        rows = torch.tensor(batch_indices(number, training.batch_size, 10, training.seed))
        noise = torch.from_numpy(batch_generator(number, training.seed).normal(size=(training.batch_size, 4)))
        x = torch.sin(rows[:, None] * torch.arange(1, 5)) + 0.1 * noise
        return ToyBatch(x.float(), x.sum(1, keepdim=True).float())

    def losses(self, model: nn.Module, batch: ToyBatch) -> dict[str, Tensor]:
        error = model(batch.x) - batch.y
        return {"loss": error.square().mean(), "absolute": error.abs().mean()}

    def validate(self, model: nn.Module, device: torch.device, folder: Path | None) -> dict[str, float]:
        assert folder is None or folder.is_dir()
        batch = self.batch(1_000_000).to(device)
        return {"validation": float((model(batch.x) - batch.y).square().mean())}


def toy(pause: float = 0.0, **training: object) -> Toy:
    settings = {"steps": 20, "save_every": 5, "log_every": 1, "validate_every": 10, "warmup_steps": 2}
    settings |= {"learning_rate": 0.01, "precision": "fp32", "loader_workers": 0}
    return Toy(ToyConfig(training=TrainingConfig(**(settings | training))), pause)


if __name__ == "__main__":
    folder, steps, *pause = sys.argv[1:]
    how = {"parallel": pause.pop()} if len(pause) > 1 else {}
    train(toy(float(pause[0]) if pause else 0.0, steps=int(steps), **how), Path(folder), torch.device("cpu"))
