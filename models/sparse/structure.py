"""Which voxels of a batch are there, in an order that makes parents, children and samples contiguous.

Voxels are sorted by sample and then along the Morton (Z-order) curve: the bits of x, y and z interleaved, x first. The
eight children of a voxel, the voxels of a cube of 2^k and those of a sample are then runs, so that halving the
resolution needs no sort and doubling it no search, and neighbours in space are close in memory.

A structure computes its index maps when they are asked for and keeps them. Tensors on the same voxels share one
structure, so that maps are made once a batch. How many parents there are is known on the host only after waiting, so
ask for maps before a region that torch.compile takes as one graph.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from kernels.layout import BlockLayout

# A key is the sample above 48 bits of Morton code: 15 + 3 * 16 bits, not negative.
_AXIS_BITS = 16
_SAMPLE_SHIFT = 3 * _AXIS_BITS
_MAX_SAMPLES = 2**15
_MORTON = 2**_SAMPLE_SHIFT - 1
# On a CPU neighbours are looked up in blocks of 4^3 voxels: large enough that a surface needs few, small enough that a
# voxel on its own costs 256 bytes.
_BLOCK_BITS = 2
_BLOCK = 2**_BLOCK_BITS
_BLOCK_VOXELS = _BLOCK**3
# Voxels that share a mask of the neighbours they have, a tile of the convolution.
NEIGHBOR_GROUP = 128

OFFSETS: tuple[tuple[int, int, int], ...] = tuple(
    (x, y, z) for z, y, x in itertools.product((-1, 0, 1), (-1, 0, 1), (-1, 0, 1))
)
"""(x, y, z) of the 27 elements of a 3^3 kernel, x fastest; that of element 26 - i is the negative of element i's.

The order of torchsparse for odd kernel sizes, in which the public checkpoints are: torchsparse/nn/utils/kernel.py,
`get_kernel_offsets`, at mit-han-lab/torchsparse 74099d1, and in version 2.1, where the GPU counts for itself,
`lookup_coords_kernel` of hashmap_cuda.cuh, whose odd case takes the first axis from the remainder. Even sizes have z
fastest there.
"""


_T = TypeVar("_T")


class _kept(Generic[_T]):
    """A property that is computed once. Like functools.cached_property, whose lock torch.compile cannot trace."""

    def __init__(self, compute: Callable[[Any], _T]) -> None:
        self.compute, self.name, self.__doc__ = compute, compute.__name__, compute.__doc__

    def __get__(self, structure: Structure, owner: type[Structure] | None = None) -> _T:
        kept = structure._maps
        if self.name not in kept:
            kept[self.name] = self.compute(structure)
        value: _T = kept[self.name]
        return value


@dataclass(frozen=True, eq=False)
class Parents:
    """The voxels at half the resolution, and how these voxels hang on them."""

    structure: Structure
    index: Tensor  # int64 [N]: the parent of each voxel; never decreases
    offsets: Tensor  # int64 [P + 1]: first child of each parent


@dataclass(frozen=True, eq=False)
class Structure:
    """The active voxels of a batch. Build it with `from_coords`.

    Two structures are the same only if they are one object.
    """

    coords: Tensor  # int32 [N, 4]: sample, x, y, z
    keys: Tensor  # int64 [N], sorted
    batch_offsets: Tensor  # int64 [B + 1]: first voxel of each sample
    depth: int  # coordinates are below 2^depth
    _maps: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def from_coords(
        cls, coords: Tensor, batch: Tensor | None = None, *, batch_size: int | None = None
    ) -> tuple[Structure, Tensor]:
        """Sort voxels.

        Args:
            coords: integers [N, 4]: sample, x, y, z; or [N, 3], x, y, z. Any order; x, y, z in [0, 65536), samples in
                [0, 32768), no voxel twice.
            batch: integers [N], the sample of each voxel, with coords [N, 3]; one sample if None.
            batch_size: number of samples; needed only where the last samples are empty.

        Returns:
            The structure, and the original index of each of its voxels, int64 [N].

        Raises:
            ValueError: names the argument and what was expected.
        """
        coords = _with_samples(coords, batch)
        if coords.shape[0]:
            smallest, largest = torch.stack([coords.amin(0), coords.amax(0)]).tolist()  # the host waits once
        else:
            largest, smallest = [-1, 0, 0, 0], [0] * 4
        if min(smallest[1:]) < 0 or max(largest[1:]) >= 2**_AXIS_BITS:
            raise ValueError(
                f"coords must lie in [0, {2**_AXIS_BITS}), got values in [{min(smallest[1:])}, {max(largest[1:])}]"
            )
        batch_size = largest[0] + 1 if batch_size is None else batch_size
        if not 0 <= batch_size <= _MAX_SAMPLES:
            raise ValueError(f"batch_size must be in [0, {_MAX_SAMPLES}], got {batch_size}")
        if smallest[0] < 0 or largest[0] >= batch_size:
            raise ValueError(f"batch must lie in [0, {batch_size}), got values in [{smallest[0]}, {largest[0]}]")
        keys, order = _keys(coords[:, 0], coords[:, 1:]).sort()
        if bool((keys[1:] == keys[:-1]).any()):
            raise ValueError("coords must not repeat a voxel within a sample")
        depth = max(largest[1:]).bit_length()
        samples = torch.arange(batch_size + 1, device=keys.device)
        # The last key before each sample: that before a sample 2^15, which has no key, is still an int64.
        offsets = torch.searchsorted(keys, (samples << _SAMPLE_SHIFT) - 1, right=True)
        return cls(coords[order].int(), keys, offsets, depth), order

    @classmethod
    def cat(cls, structures: list[Structure]) -> Structure:
        """The samples of several structures, one after the other.

        Raises:
            ValueError: no structure, or too many samples.
        """
        if not structures:
            raise ValueError("structures must not be empty")
        before = [0, *itertools.accumulate(s.batch_size for s in structures)]
        if before[-1] > _MAX_SAMPLES:
            raise ValueError(f"structures must have at most {_MAX_SAMPLES} samples together, got {before[-1]}")
        first = [0, *itertools.accumulate(s.num_voxels for s in structures)]
        coords, keys = torch.cat([s.coords for s in structures]), torch.cat([s.keys for s in structures])
        for samples, voxels in zip(before[1:-1], itertools.pairwise(first[1:]), strict=True):
            coords[slice(*voxels), 0].add_(samples)
            keys[slice(*voxels)].add_(samples << _SAMPLE_SHIFT)
        offsets = [s.batch_offsets[1:] + voxels for s, voxels in zip(structures, first[:-1], strict=True)]
        depth = max(s.depth for s in structures)
        return cls(coords, keys, torch.cat([structures[0].batch_offsets[:1], *offsets]), depth)

    def split(self) -> list[Structure]:
        """One structure a sample."""
        bounds = self.batch_offsets.tolist()
        parts = []
        for sample, (first, last) in enumerate(itertools.pairwise(bounds)):
            coords = self.coords[first:last].clone()
            coords[:, 0].zero_()
            keys = self.keys[first:last] & _MORTON
            parts.append(Structure(coords, keys, self.batch_offsets[sample : sample + 2] - first, self.depth))
        return parts

    def select(self, keep: Tensor) -> Structure:
        """The voxels where `keep`, bool [N], holds; samples that lose all their voxels stay, empty.

        Raises:
            ValueError: `keep` is not bool [N].
        """
        if keep.shape != (self.num_voxels,) or keep.dtype != torch.bool:
            raise ValueError(f"keep must be bool [{self.num_voxels}], got {keep.dtype} {list(keep.shape)}")
        kept = keep.nonzero()[:, 0]
        offsets = torch.searchsorted(kept, self.batch_offsets)
        return Structure(self.coords[kept], self.keys[kept], offsets, self.depth)

    @property
    def num_voxels(self) -> int:
        return self.coords.shape[0]

    @property
    def batch_size(self) -> int:
        return self.batch_offsets.shape[0] - 1

    @property
    def device(self) -> torch.device:
        return self.coords.device

    @_kept
    def batch(self) -> Tensor:
        """int64 [N]: the sample of each voxel."""
        return self.coords[:, 0].long()

    @_kept
    def parents(self) -> Parents:
        """The voxels at half the resolution that hold at least one of these."""
        # What children of a parent have in common: its sample above 45 bits, which its key has above 48.
        common = self.keys >> 3
        bounds = torch.ones(self.num_voxels + 1, dtype=torch.bool, device=self.device)
        torch.ne(common[1:], common[:-1], out=bounds[1:-1])
        offsets = bounds.nonzero()[:, 0]
        index = bounds[:-1].cumsum(0).sub_(1)
        coords, keys = self.coords[offsets[:-1]], common[offsets[:-1]]
        coords[:, 1:].bitwise_right_shift_(1)
        keys.add_(keys >> _SAMPLE_SHIFT - 3, alpha=7 << _SAMPLE_SHIFT - 3)
        batch_offsets = torch.searchsorted(offsets, self.batch_offsets)
        return Parents(Structure(coords, keys, batch_offsets, max(self.depth - 1, 0)), index, offsets)

    @_kept
    def children(self) -> Structure:
        """Every voxel cut into its eight: the children of voxel i are 8 i to 8 i + 7.

        Raises:
            ValueError: coordinates would exceed their 16 bits.
        """
        if self.depth == _AXIS_BITS:
            raise ValueError(f"coordinates must be below {2 ** (_AXIS_BITS - 1)} to be doubled, got {self.depth} bits")
        child = torch.arange(8, dtype=torch.int32, device=self.device)
        # Columns: 0 for the sample, then the bits of x, y and z.
        step = child[:, None] >> torch.arange(3, -1, -1, dtype=torch.int32, device=self.device) & 1
        doubled = self.coords.clone()
        doubled[:, 1:].bitwise_left_shift_(1)
        keys = self.keys.add(self.keys & _MORTON, alpha=7)[:, None] + child
        return Structure(
            (doubled[:, None] + step).reshape(-1, 4), keys.reshape(-1), 8 * self.batch_offsets, self.depth + 1
        )

    @property
    def neighbors(self) -> Tensor:
        """int32 [27, N]: the voxel at each of `OFFSETS` from every voxel, -1 where there is none.

        Row 13 is the identity, and row 26 - i is the inverse of row i. 108 bytes a voxel.
        """
        return self._neighbor_maps[0]

    @property
    def neighbor_masks(self) -> Tensor:
        """int32 [ceil(N / 128)]: bit i is set where one of 128 voxels that follow one another has a neighbour at
        element i."""
        return self._neighbor_maps[1]

    @_kept
    def _neighbor_maps(self) -> tuple[Tensor, Tensor]:
        if self.keys.is_cuda:
            from models.sparse.triton_neighbors import neighbor_maps  # triton is not needed on a CPU

            return neighbor_maps(self.keys)
        found = self._find_neighbors()
        groups = -(-self.num_voxels // NEIGHBOR_GROUP)
        there = nn.functional.pad(found >= 0, (0, groups * NEIGHBOR_GROUP - self.num_voxels))
        elements = torch.arange(27, dtype=torch.int32, device=self.device)
        has = there.view(27, groups, NEIGHBOR_GROUP).any(2)
        return found, (has << elements[:, None]).sum(0, dtype=torch.int32)

    def _find_neighbors(self) -> Tensor:
        """`neighbors`, by a table of blocks."""
        voxels = torch.arange(self.num_voxels, dtype=torch.int32, device=self.device)
        found = voxels.repeat(27, 1)
        if not self.num_voxels:
            return found
        blocks, block = torch.unique_consecutive(self.keys >> 3 * _BLOCK_BITS, return_inverse=True)
        # Blocks with their neighbours; one more, without voxels, stands for all that are not there.
        table = found.new_full((len(blocks) + 1, _BLOCK_VOXELS), -1)
        table.view(-1)[block * _BLOCK_VOXELS + (self.keys & _BLOCK_VOXELS - 1)] = voxels
        around = self._block_neighbors(blocks).view(-1)
        table, block = table.view(-1), block * 27 + 13
        axes = [self._steps(axis) for axis in range(3)]
        for row, (dx, dy, dz) in enumerate(OFFSETS):
            if row != 13:
                (x, in_x), (y, in_y), (z, in_z) = (axis[d + 1] for axis, d in zip(axes, (dx, dy, dz), strict=True))
                torch.index_select(table, 0, around[block + (x + y + z)] + (in_x + in_y + in_z), out=found[row])
        return found

    def _block_neighbors(self, blocks: Tensor) -> Tensor:
        """int64 [M, 27]: the first entry in the table of the blocks around each block, in the order of `OFFSETS`."""
        first = torch.searchsorted(self.keys, blocks << 3 * _BLOCK_BITS)
        coords = self.coords[first]
        sample, position = coords[:, :1], coords[:, 1:] >> _BLOCK_BITS
        around = position[:, None] + torch.tensor(OFFSETS, dtype=torch.int32, device=self.device)  # [M, 27, 3]
        inside = ((around >= 0) & (around < 2 ** (_AXIS_BITS - _BLOCK_BITS))).all(2)
        # The key of a block is that of its first voxel without the bits inside the block.
        keys = _keys(sample.expand(-1, 27), around << _BLOCK_BITS) >> 3 * _BLOCK_BITS
        index = torch.searchsorted(blocks, keys).clamp_(max=len(blocks) - 1)
        there = inside & (blocks[index] == keys)
        return torch.where(there, index, len(blocks)) * _BLOCK_VOXELS

    def _steps(self, axis: int) -> list[tuple[Tensor, Tensor]]:
        """For the steps -1, 0, 1 along an axis: which block of `OFFSETS` one comes to, as a difference from the centre
        block, and what the axis adds to the number of the voxel there. int64 [N] each."""
        stride = 3**axis
        place = self.coords[:, 1 + axis].long()
        inside = place & _BLOCK - 1
        steps = []
        for step in (-1, 0, 1):
            moved = inside + step
            # Bits of x, y, z interleaved, x first.
            low, high = moved & 1, moved >> 1 & 1
            steps.append(((moved >> _BLOCK_BITS) * stride, (low << 2 - axis) + (high << 5 - axis)))
        return steps

    def windows(self, window: int, shift: int) -> BlockLayout:
        """The partition into windows of side `window` shifted by `shift` voxels; its `sort` and `unsort` go between
        the order of the structure and that of its tokens.

        Raises:
            ValueError: names the argument and what was expected.
        """
        if (window, shift) not in self._maps:
            self._maps[window, shift] = BlockLayout.from_coords(
                self.coords[:, 1:].contiguous(),
                self.coords[:, 0].contiguous(),
                resolution=2**self.depth,
                window=window,
                window_shift=shift,
                batch_size=self.batch_size,
            )
        layout: BlockLayout = self._maps[window, shift]
        return layout

    def to(self, device: torch.device | str) -> Structure:
        """The same voxels on another device; the structure itself if it is there. Index maps are made anew."""
        if torch.empty(0, device=device).device == self.device:
            return self
        coords, keys, offsets = (x.to(device) for x in (self.coords, self.keys, self.batch_offsets))
        return Structure(coords, keys, offsets, self.depth)


def _with_samples(coords: Tensor, batch: Tensor | None) -> Tensor:
    """Integers [N, 4]."""
    if coords.is_floating_point() or coords.is_complex() or coords.dtype == torch.bool:
        raise ValueError(f"coords must be integers, got {coords.dtype}")
    if coords.ndim != 2 or coords.shape[1] not in (3, 4):
        raise ValueError(f"coords must be [N, 4] or, with batch, [N, 3], got {list(coords.shape)}")
    if coords.shape[1] == 4:
        if batch is not None:
            raise ValueError("batch must be None where coords are [N, 4] and hold the sample themselves")
        return coords
    if batch is None:
        batch = coords.new_zeros(coords.shape[0])
    if batch.shape != coords.shape[:1] or batch.is_floating_point() or batch.device != coords.device:
        raise ValueError(
            f"batch must be integers [{coords.shape[0]}] on {coords.device} like coords, "
            f"got {batch.dtype} {list(batch.shape)} on {batch.device}"
        )
    return torch.cat([batch[:, None].long(), coords.long()], 1)


def _keys(sample: Tensor, position: Tensor) -> Tensor:
    """int64 [...] from samples [...] and x, y, z [..., 3]."""
    x, y, z = _spread(position.long()).unbind(-1)
    return (sample.long() << _SAMPLE_SHIFT) | x << 2 | y << 1 | z


def _spread(x: Tensor) -> Tensor:
    """The 16 low bits with two zeros between each."""
    x = x & 0xFFFF
    x = (x | x << 16) & 0x0000FF0000FF
    x = (x | x << 8) & 0x00F00F00F00F
    x = (x | x << 4) & 0x0C30C30C30C3
    return (x | x << 2) & 0x249249249249
