"""Fields of a dataset as inputs and targets of an SS-VAE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from models.data.masks import extra_voxels
from models.data.sdf import SparseSDF
from models.sparse.tensor import SparseTensor, cat
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


def cropped(field: SparseSDF, sharp: Tensor, side: int, generator: np.random.Generator) -> tuple[SparseSDF, Tensor]:
    """The points of a field in a random box around one of them, and which of these are near a sharp edge.

    Args:
        sharp: bool [V].
        side: of the box in grid points, a multiple of the 8 of a latent, so that none is cut.
    """
    if not len(field.coords):
        return field, sharp
    seen = field.coords[int(generator.integers(len(field.coords)))] // FACTOR
    start = seen - torch.from_numpy(generator.integers(side // FACTOR, size=3)).to(seen)
    start = start.clamp(min=0).clamp(max=(field.resolution - side) // FACTOR) * FACTOR
    inside = ((field.coords >= start) & (field.coords < start + side)).all(1)
    return replace(field, coords=field.coords[inside], values=field.values[inside]), sharp[inside]


def inputs_of(fields: Sequence[SparseSDF]) -> SparseTensor:
    """Distances over tau, fp32 [N, 1], of a batch of fields."""
    return cat([SparseTensor.from_coords(f.coords, (f.values / f.tau)[:, None]) for f in fields])


def targets_of(batch: Fields) -> Targets:
    """
    Raises:
        ValueError: a resolution that is not a multiple of 8.
    """
    parts = []
    for field, sharp in zip(batch.fields, batch.sharp, strict=True):
        coords, values = extra_voxels(field, FACTOR)
        kind = torch.stack([field.values / field.tau, torch.ones_like(field.values), sharp.to(field.values)], 1)
        off = torch.stack([values / field.tau, torch.zeros_like(values), torch.zeros_like(values)], 1)
        parts.append(SparseTensor.from_coords(torch.cat([field.coords, coords]), torch.cat([kind, off])))
    whole = cat(parts)
    value, band, sharp = whole.feats.unbind(1)
    return Targets(whole.replace(value[:, None]), band > 0, sharp > 0)


def fields_of(decoded: SparseTensor, resolution: int, tau: float) -> list[SparseSDF]:
    """The decoded fields of a batch, with all points of the latents' blocks: around a crossing none is missing.

    Args:
        decoded: values over tau, fp32 [N, 1].
    """
    found = []
    for sample in decoded.split():
        coords, values = sample.coords[:, 1:], sample.feats[:, 0]
        order = ((coords[:, 0].long() * resolution + coords[:, 1]) * resolution + coords[:, 2]).argsort()
        found.append(SparseSDF(coords[order].contiguous(), values[order] * tau, resolution, tau))
    return found
