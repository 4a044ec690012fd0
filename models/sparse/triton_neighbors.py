"""Maps of neighbours in two Triton kernels: `Structure.neighbors` and `Structure.neighbor_masks` on a GPU.

Voxels of a cube of 2^3 are a run of at most eight, so neighbours are looked up by cube: the first voxel of every cube
goes into a hash table with linear probing, whose size follows from the number of voxels, so that the host never waits
to learn how many cubes there are. A voxel and its 26 neighbours lie in eight cubes, and the voxels of a program, which
are near each other, in few more, so that most of what is looked up is in the cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from models.sparse.structure import NEIGHBOR_GROUP

_BLOCK = 256  # voxels of a program that fills the table
_ROWS = 4  # elements of the kernel that a program looks up at once


def neighbor_maps(keys: Tensor) -> tuple[Tensor, Tensor]:
    """`Structure.neighbors`, int32 [27, N], and `Structure.neighbor_masks`, int32 [ceil(N / 128)].

    Besides these it allocates 8 to 16 bytes a voxel.

    Args:
        keys: int64 [N], those of a structure: sorted, contiguous.
    """
    voxels = len(keys)
    neighbors = torch.empty(27, voxels, dtype=torch.int32, device=keys.device)
    masks = torch.empty(triton.cdiv(voxels, NEIGHBOR_GROUP), dtype=torch.int32, device=keys.device)
    if not voxels:
        return neighbors, masks
    bits = (2 * voxels - 1).bit_length()
    table = torch.full((2**bits,), -1, dtype=torch.int32, device=keys.device)
    with torch.cuda.device_of(keys):
        _insert_kernel[(triton.cdiv(voxels, _BLOCK),)](keys, table, voxels, bits, BLOCK=_BLOCK, num_warps=4)
        _lookup_kernel[(len(masks),)](
            *(keys, table, neighbors, masks, voxels, bits), GROUP=NEIGHBOR_GROUP, ROWS=_ROWS, num_warps=4
        )
    return neighbors, masks


@triton.jit(do_not_specialize=["num_voxels", "bits"])
def _insert_kernel(
    keys,  # int64 [N]
    table,  # int32 [2^bits]: first voxel of a cube, -1 where there is none
    num_voxels,
    bits,
    BLOCK: tl.constexpr,
):
    voxel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = voxel < num_voxels
    cube = tl.load(keys + voxel, there, 0) >> 3
    before = tl.load(keys + voxel - 1, there & (voxel > 0), -1) >> 3
    slot = _home(cube, bits)
    last = (tl.full([1], 1, tl.int64) << bits) - 1
    held = voxel.to(tl.int32)
    # What was in the slot goes on to the next in its place: all slots that it passes stay full, so that it is found.
    holding = there & (cube != before)
    while tl.max(holding.to(tl.int32), 0) > 0:
        was = tl.atomic_xchg(table + slot, held, holding, sem="relaxed")
        # Triton writes a zero to the register of the result first. Were what goes into the table not needed any more,
        # its register could be the same, and the zero would go in instead.
        held = tl.where(holding, was, held)
        holding = holding & (was >= 0)
        slot = (slot + 1) & last


@triton.jit(do_not_specialize=["num_voxels", "bits"])
def _lookup_kernel(
    keys,  # int64 [N]
    table,  # int32 [2^bits]
    neighbors,  # int32 [27, N]
    masks,  # int32 [programs]
    num_voxels,
    bits,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
):
    voxel = tl.program_id(0).to(tl.int64) * GROUP + tl.arange(0, GROUP)[None, :]
    inside = voxel < num_voxels
    here = tl.load(keys + voxel, inside, 0)
    last = (tl.full([1, 1], 1, tl.int64) << bits) - 1
    mask = tl.zeros([ROWS, 1], tl.int32)
    for first_row in range(0, 27, ROWS):
        row = first_row + tl.arange(0, ROWS)[:, None]
        there = inside & (row < 27)
        x, in_x = _moved(here, row % 3 - 1, 0x924924924924)
        y, in_y = _moved(here, row // 3 % 3 - 1, 0x492492492492)
        z, in_z = _moved(here, row // 9 - 1, 0x249249249249)
        target = (here >> 48 << 48) | x | y | z
        cube = target >> 3

        slot = _home(cube, bits)
        found = tl.full([ROWS, GROUP], -1, tl.int32)
        key = tl.full([ROWS, GROUP], -1, tl.int64)
        searching = there & in_x & in_y & in_z
        while tl.max(searching.to(tl.int32), None) > 0:
            first = tl.load(table + slot, searching, -1)
            searching = searching & (first >= 0)
            first_key = tl.load(keys + first, searching, -1)
            met = searching & (first_key >> 3 == cube)
            found = tl.where(met, first, found)
            key = tl.where(met, first_key, key)
            searching = searching & ~met
            slot = (slot + 1) & last

        # The last of the cube's voxels whose key is not above the one looked for; later cubes' keys are.
        for i in tl.static_range(3):
            step = 4 >> i
            ahead = (found >= 0) & (num_voxels - found > step)
            next_key = tl.load(keys + found + step, ahead, 0)
            ahead = ahead & (next_key <= target)
            found = tl.where(ahead, found + step, found)
            key = tl.where(ahead, next_key, key)
        found = tl.where(key == target, found, -1)
        tl.store(neighbors + row * num_voxels.to(tl.int64) + voxel, found, there)
        mask |= tl.max((found >= 0).to(tl.int32), 1, keep_dims=True) << row
    tl.store(masks + tl.program_id(0), tl.sum(mask, None))


@triton.jit
def _home(cube, bits):
    """The slot of the table to look in first: the upper bits of a product with 2^64 by the golden ratio squared."""
    return (cube * 0x61C8864680B583EB >> (64 - bits)) & ((tl.full([1], 1, tl.int64) << bits) - 1)


@triton.jit
def _moved(keys, step, AXIS: tl.constexpr):
    """The bits AXIS of keys after a step of -1, 0 or 1 along that axis, and whether it stays within 16 bits."""
    here = keys & AXIS
    # With the other bits set, a carry runs through them; -1 is all ones.
    moved = ((here | ~AXIS) + tl.where(step > 0, 1, 0) + tl.where(step < 0, AXIS, 0)) & AXIS
    return moved, (step == 0) | ((moved > here) == (step > 0))
