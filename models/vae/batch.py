"""Fields of a dataset as inputs and targets of an SS-VAE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.data.masks import extra_voxels
from models.data.sdf import SparseSDF
from models.sparse.tensor import SparseTensor
from models.vae.closing import closed
from models.vae.config import FACTOR


@dataclass(frozen=True, eq=False)
class Fields:
    """Fields of one resolution on one device, and which of their points are near a sharp edge, bool [V]."""

    fields: Sequence[SparseSDF]
    sharp: Sequence[Tensor]

    def to(self, device: torch.device) -> Fields:
        """To a GPU, out of pinned memory, while the CPU goes on."""
        return self._map(lambda x: x.to(device, non_blocking=device.type == "cuda"))

    def pin_memory(self) -> Fields:
        """For a loader that reads ahead: in memory that a GPU copies from by itself."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> Fields:
        moved = [replace(f, coords=change(f.coords), values=change(f.values)) for f in self.fields]
        return Fields(moved, [change(sharp) for sharp in self.sharp])


@dataclass(frozen=True, eq=False)
class Targets:
    """What a decoder should answer, on all grid points of the latents' blocks."""

    values: SparseTensor  # fp32 [512 L, 1]: distances over tau; 1 and -1 off the band
    band: Tensor  # bool [512 L]: nearer than tau
    sharp: Tensor  # bool [512 L]: near a sharp edge


def inputs_of(fields: Sequence[SparseSDF]) -> SparseTensor:
    """Distances over tau, fp32 [N, 1], of a batch of fields."""
    coords = torch.cat([field.coords for field in fields])
    values = torch.cat([field.values / field.tau for field in fields])
    return SparseTensor.from_coords(coords, values[:, None], _samples(fields), batch_size=len(fields))


def targets_of(batch: Fields) -> Targets:
    """
    Raises:
        ValueError: fields of different resolutions, or of one that is not a multiple of 8.
    """
    first = batch.fields[0]
    for field in batch.fields:
        if (field.resolution, field.tau) != (first.resolution, first.tau):
            raise ValueError(f"fields must be of one resolution, got {first.resolution} and {field.resolution}")
    # The fields in a row along x: a few calls for all of them instead of a few for each.
    coords = torch.cat([field.coords for field in batch.fields])
    values = torch.cat([field.values for field in batch.fields])
    coords[:, 0] += _samples(batch.fields).int() * first.resolution
    row = SparseSDF(coords, values, first.resolution, first.tau)
    extra, beyond = extra_voxels(row, FACTOR)
    sharp = torch.cat(list(batch.sharp)).to(values.dtype)
    kind = torch.stack([values / first.tau, torch.ones_like(values), sharp], 1)
    off = torch.stack([beyond / first.tau, torch.zeros_like(beyond), torch.zeros_like(beyond)], 1)
    everything = torch.cat([coords, extra])
    sample = everything[:, 0] // first.resolution
    everything[:, 0] -= sample * first.resolution
    whole = SparseTensor.from_coords(everything, torch.cat([kind, off]), sample.long(), batch_size=len(batch.fields))
    value, band, near_edge = whole.feats.unbind(1)
    return Targets(whole.replace(value[:, None]), band > 0, near_edge > 0)


def _samples(fields: Sequence[SparseSDF]) -> Tensor:
    """int64 [N]: the sample of each point of a batch."""
    counts = [len(field.coords) for field in fields]
    samples = torch.arange(len(fields), device=fields[0].coords.device)
    return samples.repeat_interleave(torch.tensor(counts, device=samples.device), output_size=sum(counts))


def fields_of(decoded: SparseTensor, resolution: int, tau: float) -> list[SparseSDF]:
    """The decoded fields of a batch, with all points of the latents' blocks, and made to close (`models.vae.closing`):
    around a crossing none is missing.

    Args:
        decoded: values over tau, fp32 [N, 1].
    """
    found = []
    for sample in closed(decoded).split():
        coords, values = sample.coords[:, 1:], sample.feats[:, 0]
        order = ((coords[:, 0].long() * resolution + coords[:, 1]) * resolution + coords[:, 2]).argsort()
        found.append(SparseSDF(coords[order].contiguous(), values[order] * tau, resolution, tau))
    return found
