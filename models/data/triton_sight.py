"""Lines of sight in one Triton kernel: `models.data.compiled_sight` on a GPU, one side of one piece a program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCKERS = 32  # that a program tries at once


def first_seen(
    seen: Tensor,
    origin: Tensor,
    ray: Tensor,
    candidate: Tensor,
    order: Tensor,
    side: Tensor,
    first: Tensor,
    blocker: Tensor,
    corners: Tensor,
    start: float,
    edge: float,
) -> None:
    """As the compiled function of the same name; all tensors contiguous."""
    if not len(origin):
        return
    with torch.cuda.device_of(origin):
        _first_seen_kernel[(len(origin), 2)](
            seen,
            origin,
            ray,
            candidate,
            order,
            side,
            first,
            blocker,
            corners,
            len(origin),
            order.shape[1],
            START=start,
            EDGE=edge,
            BLOCK=_BLOCKERS,
            num_warps=1,
        )


@triton.jit(do_not_specialize=["num_pieces"])
def _first_seen_kernel(
    seen,
    origin,
    ray,
    candidate,
    order,
    side,
    first,
    blocker,
    corners,
    num_pieces,
    num_points,
    START: tl.constexpr,
    EDGE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    piece = tl.program_id(0).to(tl.int64)
    own = tl.program_id(1).to(tl.int64) * num_pieces + piece  # of this side of the piece
    found = tl.load(seen + own).to(tl.int32)
    x, y, z = tl.load(origin + 3 * piece), tl.load(origin + 3 * piece + 1), tl.load(origin + 3 * piece + 2)
    begin, end = tl.load(first + piece), tl.load(first + piece + 1)
    rank = 0
    while (found < 0) & (rank < num_points):
        point = tl.load(order + piece * num_points + rank)
        if tl.load(candidate + own * num_points + point).to(tl.int32) != 0:
            r = ray + 3 * (piece * num_points + point)
            dx, dy, dz = tl.load(r), tl.load(r + 1), tl.load(r + 2)
            met = 0
            at = begin
            while (met == 0) & (at < end):
                index = at + tl.arange(0, BLOCK)
                there = index < end
                t = corners + 9 * tl.load(blocker + index, there, 0)
                met = tl.max((_meets(x, y, z, dx, dy, dz, t, START, EDGE) & there).to(tl.int32), 0)
                at += BLOCK
            if met == 0:
                found = tl.load(side + piece * num_points + point).to(tl.int32)
        rank += 1
    tl.store(seen + own, found.to(tl.int8))


@triton.jit
def _meets(x, y, z, dx, dy, dz, t, START: tl.constexpr, EDGE: tl.constexpr):
    """Whether a line of sight meets the triangles that begin at `t`, by Moeller and Trumbore (1997)."""
    ox, oy, oz = tl.load(t), tl.load(t + 1), tl.load(t + 2)
    ux, uy, uz = tl.load(t + 3) - ox, tl.load(t + 4) - oy, tl.load(t + 5) - oz
    vx, vy, vz = tl.load(t + 6) - ox, tl.load(t + 7) - oy, tl.load(t + 8) - oz
    ox, oy, oz = x - ox, y - oy, z - oz
    px, py, pz = dy * vz - dz * vy, dz * vx - dx * vz, dx * vy - dy * vx
    volume = ux * px + uy * py + uz * pz
    flat = volume == 0
    volume = tl.where(flat, 1.0, volume)
    u = (ox * px + oy * py + oz * pz) / volume
    qx, qy, qz = oy * uz - oz * uy, oz * ux - ox * uz, ox * uy - oy * ux
    v = (dx * qx + dy * qy + dz * qz) / volume
    at = (vx * qx + vy * qy + vz * qz) / volume
    return ~flat & (u > -EDGE) & (v > -EDGE) & (u + v < 1 + EDGE) & (at > START) & (at < 1)
