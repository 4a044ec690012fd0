"""BlockLayout: one sort of the active voxels, and every partition of space that the branches need.

Tokens are sorted so that compression blocks are contiguous inside selection blocks and selection blocks inside samples.
Windows may be shifted against the blocks, so they are an index into the sorted tokens. A layout is built once per
sample and shared by all layers and steps: building it reads sizes back to the host, using it never does.

Legend: N tokens, B samples, M_cmp / M_slc / M_win occupied compression blocks / selection blocks / windows.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

# Linear voxel keys are int64; the largest key must stay below this.
_MAX_KEY = 2**62


@dataclass(frozen=True, eq=False)
class BlockLayout:
    """The block structure of a packed batch of sparse voxel grids. Build it with `from_coords` or `from_sequence`.

    All index tensors are in layout order. A block's id is its rank in the sorted list of occupied blocks.
    """

    coords: Tensor  # int32 [N, 4]: sample, x, y, z of each token
    order: Tensor  # int64 [N]: original index of each token
    inverse: Tensor  # int64 [N]: layout index of each original token
    cu_seqlens: Tensor  # int32 [B + 1]: first token of each sample
    compression_coords: Tensor  # int32 [M_cmp, 4]: sample and block coordinates
    compression_offsets: Tensor  # int32 [M_cmp + 1]: first token of each compression block
    cu_compression: Tensor  # int32 [B + 1]: first compression block of each sample
    selection_coords: Tensor  # int32 [M_slc, 4]
    selection_offsets: Tensor  # int32 [M_slc + 1]: first token of each selection block
    selection_compression: Tensor  # int32 [M_slc + 1]: first compression block of each selection block
    cu_selection: Tensor  # int32 [B + 1]: first selection block of each sample
    window_ids: Tensor  # int32 [N]: window of each token
    window_order: Tensor  # int32 [N]: tokens sorted by window
    window_offsets: Tensor  # int32 [M_win + 1]: first position of each window in window_order
    compression_block: int  # side, in voxels (or tokens of a sequence)
    selection_block: int
    window: int
    window_shift: int
    compression_per_selection: int  # most compression blocks that fit in one selection block

    @classmethod
    def from_coords(
        cls,
        coords: Tensor,
        batch: Tensor | None = None,
        *,
        resolution: int,
        compression_block: int = 4,
        selection_block: int = 8,
        window: int = 8,
        window_shift: int = 0,
        batch_size: int | None = None,
    ) -> BlockLayout:
        """Sort the active voxels of a batch and partition them.

        Args:
            coords: int32 [N, 3], each in [0, resolution), no voxel twice in a sample. Any order.
            batch: int32 [N], sample of each voxel, or None for one sample.
            resolution: side of the latent grid in voxels.
            compression_block, selection_block: block sides in voxels; the second is a multiple of the first. A token's
                block is ``coords // side`` (arXiv 2505.17412, section 3.3).
            window: window side in voxels; a token's window is ``(coords + window_shift) // window``.
            window_shift: in [0, window).
            batch_size: number of samples; needed only where the last samples are empty.

        Raises:
            ValueError: names the argument and what was expected.
        """
        _require_positive(
            resolution=resolution, compression_block=compression_block, selection_block=selection_block, window=window
        )
        if coords.ndim != 2 or coords.shape[1] != 3 or coords.dtype != torch.int32:
            raise ValueError(f"coords must be int32 [N, 3], got {coords.dtype} {list(coords.shape)}")
        num_tokens = coords.shape[0]
        if batch is None:
            batch = torch.zeros(num_tokens, dtype=torch.int32, device=coords.device)
            batch_size = 1 if batch_size is None else batch_size
        if batch.shape != (num_tokens,) or batch.dtype != torch.int32 or batch.device != coords.device:
            raise ValueError(
                f"batch must be int32 [{num_tokens}] on {coords.device} like coords, "
                f"got {batch.dtype} {list(batch.shape)} on {batch.device}"
            )
        if num_tokens:
            low, high = int(coords.min()), int(coords.max())
            if low < 0 or high >= resolution:
                raise ValueError(f"coords must lie in [0, resolution={resolution}), got values in [{low}, {high}]")
            first, last = int(batch.min()), int(batch.max())
        else:
            first, last = 0, -1
        if batch_size is None:
            batch_size = last + 1
        if first < 0 or last >= batch_size:
            raise ValueError(f"batch must lie in [0, {batch_size}), got values in [{first}, {last}]")
        return cls._build(
            torch.cat([batch[:, None], coords], dim=1),
            batch_size,
            extent=(resolution,) * 3,
            compression_block=compression_block,
            selection_block=selection_block,
            window=window,
            window_shift=window_shift,
        )

    @classmethod
    def from_sequence(
        cls,
        cu_seqlens: Tensor,
        *,
        compression_block: int = 32,
        selection_block: int = 64,
        window: int = 64,
        window_shift: int = 0,
    ) -> BlockLayout:
        """Partition serialised sequences into 1-D blocks of fixed length, as Native Sparse Attention does.

        The same kernels then compute NSA's three branches (arXiv 2502.11089) with non-overlapping compression blocks
        and a block-local window, non-causal. Tokens keep their order; `coords` holds (sample, position, 0, 0).

        Args:
            cu_seqlens: int32 [B + 1], first token of each sequence, starting with 0, never decreasing.
            compression_block, selection_block, window, window_shift: lengths in tokens.

        Raises:
            ValueError: names the argument and what was expected.
        """
        _require_positive(compression_block=compression_block, selection_block=selection_block, window=window)
        if cu_seqlens.ndim != 1 or cu_seqlens.numel() < 1 or cu_seqlens.dtype != torch.int32:
            raise ValueError(f"cu_seqlens must be int32 [B + 1], got {cu_seqlens.dtype} {list(cu_seqlens.shape)}")
        lengths = cu_seqlens.diff()
        if int(cu_seqlens[0]) != 0 or bool((lengths < 0).any()):
            raise ValueError("cu_seqlens must start with 0 and never decrease")
        batch_size = lengths.numel()
        sample = torch.repeat_interleave(torch.arange(batch_size, device=cu_seqlens.device), lengths)
        position = torch.arange(sample.numel(), device=cu_seqlens.device) - cu_seqlens[sample]
        zero = torch.zeros_like(position)
        return cls._build(
            torch.stack([sample, position, zero, zero], dim=1).int(),
            batch_size,
            extent=(int(lengths.max()) if batch_size else 0, 1, 1),
            compression_block=compression_block,
            selection_block=selection_block,
            window=window,
            window_shift=window_shift,
        )

    @classmethod
    def _build(
        cls,
        coords: Tensor,  # int32 [N, 4]
        batch_size: int,
        extent: tuple[int, int, int],
        compression_block: int,
        selection_block: int,
        window: int,
        window_shift: int,
    ) -> BlockLayout:
        if selection_block % compression_block:
            raise ValueError(
                f"selection_block must be a multiple of compression_block={compression_block}, got {selection_block}"
            )
        if not isinstance(window_shift, int) or not 0 <= window_shift < window:
            raise ValueError(f"window_shift must be an integer in [0, window={window}), got {window_shift!r}")

        sample, voxel = coords[:, :1].long(), coords[:, 1:].long()
        # One digit per level: sample, selection block, compression block inside it, voxel inside that.
        ratio = selection_block // compression_block
        digits = [
            (voxel // selection_block, [-(-side // selection_block) for side in extent]),
            (voxel // compression_block % ratio, [min(ratio, side) for side in extent]),
            (voxel % compression_block, [min(compression_block, side) for side in extent]),
        ]
        key = sample[:, 0]
        largest = batch_size
        for digit, radix in digits:
            for axis in range(3):
                key = key * radix[axis] + digit[:, axis]
                largest *= radix[axis]
        if largest > _MAX_KEY:
            raise ValueError(f"resolution {extent} times {batch_size} samples is too large for 64-bit voxel keys")
        key, order = torch.sort(key, stable=True)
        if bool((key[1:] == key[:-1]).any()):
            raise ValueError("coords must not repeat a voxel within a sample")
        coords, sample, voxel = coords[order], sample[order], voxel[order]
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(order.numel(), device=order.device)

        compression = torch.cat([sample, voxel // compression_block], dim=1)
        selection = torch.cat([sample, voxel // selection_block], dim=1)
        compression_first = _run_starts(compression)
        selection_first = _run_starts(selection)
        compression_coords = compression[compression_first].int()
        selection_coords = selection[selection_first].int()

        shifted = (voxel + window_shift) // window
        window_key = sample[:, 0]
        for axis, side in enumerate(extent):
            window_key = window_key * ((side + window_shift) // window + 1) + shifted[:, axis]
        sorted_windows, window_order = torch.sort(window_key, stable=True)
        window_first = _run_starts(sorted_windows[:, None])
        window_ids = torch.empty_like(window_order)
        window_ids[window_order] = _run_ids(window_first, order.numel())

        num_tokens = order.numel()
        return cls(
            coords=coords,
            order=order,
            inverse=inverse,
            cu_seqlens=_first_of_sample(coords, batch_size),
            compression_coords=compression_coords,
            compression_offsets=_with_end(compression_first, num_tokens),
            cu_compression=_first_of_sample(compression_coords, batch_size),
            selection_coords=selection_coords,
            selection_offsets=_with_end(selection_first, num_tokens),
            selection_compression=_with_end(
                torch.searchsorted(compression_first, selection_first), compression_first.numel()
            ),
            cu_selection=_first_of_sample(selection_coords, batch_size),
            window_ids=window_ids.int(),
            window_order=window_order.int(),
            window_offsets=_with_end(window_first, num_tokens),
            compression_block=compression_block,
            selection_block=selection_block,
            window=window,
            window_shift=window_shift,
            compression_per_selection=min(ratio, extent[0]) * min(ratio, extent[1]) * min(ratio, extent[2]),
        )

    @property
    def num_tokens(self) -> int:
        return self.coords.shape[0]

    @property
    def batch_size(self) -> int:
        return self.cu_seqlens.shape[0] - 1

    @property
    def device(self) -> torch.device:
        return self.coords.device

    def sort(self, x: Tensor) -> Tensor:
        """Original token order [N, ...] to layout order."""
        return x[self.order]

    def unsort(self, x: Tensor) -> Tensor:
        """Layout order [N, ...] to original token order."""
        return x[self.inverse]

    def to(self, device: torch.device | str) -> BlockLayout:
        """The same layout with every tensor on `device`."""
        moved = {
            field.name: getattr(self, field.name).to(device)
            for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)


def _require_positive(**arguments: int) -> None:
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}")


def _run_starts(rows: Tensor) -> Tensor:
    """int64 [M]: index of the first row of each run of equal rows in `rows` [N, C]."""
    if rows.shape[0] == 0:
        return torch.zeros(0, dtype=torch.int64, device=rows.device)
    changed = (rows[1:] != rows[:-1]).any(dim=1)
    return torch.cat([changed.new_ones(1), changed]).nonzero()[:, 0]


def _run_ids(starts: Tensor, length: int) -> Tensor:
    """int64 [length]: which run each row belongs to, for runs that begin at `starts`."""
    positions = torch.arange(length, device=starts.device)
    return torch.searchsorted(starts, positions, right=True) - 1


def _with_end(starts: Tensor, end: int) -> Tensor:
    return torch.cat([starts, starts.new_tensor([end])]).int()


def _first_of_sample(coords: Tensor, batch_size: int) -> Tensor:
    """int32 [B + 1]: first row of each sample in rows sorted by sample; empty samples included."""
    samples = torch.arange(batch_size + 1, device=coords.device, dtype=torch.int32)
    return torch.searchsorted(coords[:, 0].contiguous(), samples).int()
