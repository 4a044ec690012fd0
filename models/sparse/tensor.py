"""Features on the voxels of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree

from models.sparse.structure import Structure


@dataclass(frozen=True, eq=False)
class SparseTensor:
    """Features [N, C] of any floating dtype, one row a voxel, in the order of the structure.

    Layers return tensors on the same structure, so that index maps are shared. For hooks of modules (FSDP, checkpoints)
    it is a container of one tensor, its features.

    Raises:
        ValueError: feats are not [N, C] on the device of the structure.
    """

    feats: Tensor
    structure: Structure

    def __post_init__(self) -> None:
        # Hooks and compilers pass other things through containers.
        if not isinstance(self.feats, Tensor):
            return
        if self.feats.ndim != 2 or self.feats.shape[0] != self.structure.num_voxels:
            raise ValueError(f"feats must be [N={self.structure.num_voxels}, C], got {list(self.feats.shape)}")
        if self.feats.device != self.structure.device:
            raise ValueError(f"feats must be on {self.structure.device} like the coords, got {self.feats.device}")

    @classmethod
    def from_coords(
        cls, coords: Tensor, feats: Tensor, batch: Tensor | None = None, *, batch_size: int | None = None
    ) -> SparseTensor:
        """Sort voxels and their features; gradients flow back to `feats`.

        Args:
            coords: integers [N, 4]: sample, x, y, z; or [N, 3] with `batch`, integers [N] (None: one sample). Any
                order, no voxel twice; x, y, z in [0, 65536).
            feats: [N, C], in the order of coords.
            batch_size: number of samples; needed only where the last samples are empty.

        Raises:
            ValueError: names the argument and what was expected.
        """
        if feats.ndim != 2 or feats.shape[0] != coords.shape[0]:
            raise ValueError(f"feats must be [N={coords.shape[0]}, C], got {list(feats.shape)}")
        structure, order = Structure.from_coords(coords, batch, batch_size=batch_size)
        return cls(feats[order], structure)

    @property
    def coords(self) -> Tensor:
        """int32 [N, 4]: sample, x, y, z."""
        return self.structure.coords

    @property
    def batch_offsets(self) -> Tensor:
        """int64 [B + 1]: first voxel of each sample."""
        return self.structure.batch_offsets

    @property
    def num_voxels(self) -> int:
        return self.structure.num_voxels

    @property
    def batch_size(self) -> int:
        return self.structure.batch_size

    @property
    def device(self) -> torch.device:
        return self.feats.device

    @property
    def dtype(self) -> torch.dtype:
        return self.feats.dtype

    def replace(self, feats: Tensor) -> SparseTensor:
        """Other features [N, C'] on the same voxels."""
        return SparseTensor(feats, self.structure)

    def select(self, keep: Tensor) -> SparseTensor:
        """The voxels where `keep`, bool [N], holds, with their features."""
        structure = self.structure.select(keep)
        return SparseTensor(self.feats[keep], structure)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> SparseTensor:
        """On another device, with features of another dtype, or both."""
        structure = self.structure if device is None else self.structure.to(device)
        return SparseTensor(self.feats.to(structure.device, dtype or self.dtype), structure)

    def split(self) -> list[SparseTensor]:
        """One tensor a sample."""
        parts = self.structure.split()
        return [
            SparseTensor(feats, part)
            for feats, part in zip(self.feats.split([part.num_voxels for part in parts]), parts, strict=True)
        ]


def cat(tensors: Sequence[SparseTensor]) -> SparseTensor:
    """The samples of several tensors in one batch, one after the other.

    Raises:
        ValueError: no tensor, or too many samples.
    """
    structure = Structure.cat([x.structure for x in tensors])
    return SparseTensor(torch.cat([x.feats for x in tensors]), structure)


# Modules that wrap others (FSDP) look for tensors in their inputs and outputs this way.
_pytree.register_pytree_node(
    SparseTensor,
    lambda x: ([x.feats], x.structure),
    lambda feats, structure: SparseTensor(next(iter(feats)), structure),
    serialized_type_name="models.sparse.tensor.SparseTensor",
)
