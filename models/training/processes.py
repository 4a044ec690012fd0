"""One process or many: what torchrun started, and how a model is spread over it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn


@dataclass(frozen=True)
class Processes:
    """This process among those of a run."""

    rank: int
    world: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this one writes files and talks."""
        return self.rank == 0

    def mean(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Scalars by name, averaged over all processes."""
        stacked = torch.stack([value.detach().double() for value in values.values()])
        if self.world > 1:
            dist.all_reduce(stacked)
            stacked /= self.world
        return dict(zip(values, stacked.tolist(), strict=True))

    def wait(self) -> None:
        if self.world > 1:
            dist.barrier()


def is_main() -> bool:
    """Whether this process talks, of those that torchrun started."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def processes(device: torch.device) -> Iterator[Processes]:
    """Joins the processes that torchrun started; alone without it."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes(0, 1, device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), world, device)
    finally:
        dist.destroy_process_group()


def spread(model: nn.Module, how: Literal["ddp", "fsdp2"], team: Processes, units: list[nn.Module]) -> nn.Module:
    """The model for all processes, with equal weights in each.

    Args:
        units: parts of the model that FSDP2 gathers one after the other.
    """
    if team.world == 1:
        return model
    if how == "ddp":
        return nn.parallel.DistributedDataParallel(model, device_ids=[team.device] if team.device.index else None)
    from torch.distributed.fsdp import fully_shard

    for unit in units:
        fully_shard(unit)
    fully_shard(model)
    return model
