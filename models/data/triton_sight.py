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
    base: Tensor,
    candidate: Tensor,
    order: Tensor,
    side: Tensor,
    row: Tensor,
    start: Tensor,
    end: Tensor,
    triangle: Tensor,
    corners: Tensor,
    begin: float,
    edge: float,
    step: float,
) -> None:
    """As the compiled function of the same name; all tensors contiguous."""
    pieces, points = order.shape
    if not pieces:
        return
    with torch.cuda.device_of(origin):
        _first_seen_kernel[(pieces, 2)](
            seen,
            origin,
            base,
            candidate,
            order,
            side,
            row,
            start,
            end,
            triangle,
            corners,
            pieces,
            WIDTH=round(points ** (1 / 3)),
            BEGIN=begin,
            EDGE=edge,
            STEP=step,
            BLOCK=_BLOCKERS,
            num_warps=1,
        )


@triton.jit(do_not_specialize=["num_pieces"])
def _first_seen_kernel(
    seen,
    origin,
    base,
    candidate,
    order,
    side,
    row,
    start,
    end,
    triangle,
    corners,
    num_pieces,
    WIDTH: tl.constexpr,
    BEGIN: tl.constexpr,
    EDGE: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    POINTS: tl.constexpr = WIDTH * WIDTH * WIDTH
    piece = tl.program_id(0).to(tl.int64)
    own = tl.program_id(1).to(tl.int64) * num_pieces + piece  # of this side of the piece
    found = tl.load(seen + own).to(tl.int32)
    ox, oy, oz = tl.load(origin + 3 * piece), tl.load(origin + 3 * piece + 1), tl.load(origin + 3 * piece + 2)
    lx = tl.load(base + 3 * piece) - WIDTH // 2
    ly = tl.load(base + 3 * piece + 1) - WIDTH // 2
    lz = tl.load(base + 3 * piece + 2) - WIDTH // 2
    rank = 0
    while (found < 0) & (rank < POINTS):
        s = tl.load(order + piece * POINTS + rank)
        if tl.load(candidate + own * POINTS + s).to(tl.int32) != 0:
            dx = (lx + s // (WIDTH * WIDTH)).to(tl.float64) - ox
            dy = (ly + s // WIDTH % WIDTH).to(tl.float64) - oy
            dz = (lz + s % WIDTH).to(tl.float64) - oz
            places = tl.ceil(tl.sqrt(dx * dx + dy * dy + dz * dz) / STEP)
            met = 0
            k = 0.0
            last = s * 0 - 1
            while (met == 0) & (k <= places):
                t = k / places
                x = tl.floor(ox + t * dx + 0.5).to(tl.int64) - lx
                y = tl.floor(oy + t * dy + 0.5).to(tl.int64) - ly
                z = tl.floor(oz + t * dz + 0.5).to(tl.int64) - lz
                point = (x * WIDTH + y) * WIDTH + z
                if point != last:
                    known = tl.load(row + piece * POINTS + point)
                    at = tl.load(start + known, known >= 0, 0)
                    stop = tl.load(end + known, known >= 0, 0)
                    while (met == 0) & (at < stop):
                        index = at + tl.arange(0, BLOCK)
                        there = index < stop
                        corner = corners + 9 * tl.load(triangle + index, there, 0)
                        hits = _meets(ox, oy, oz, dx, dy, dz, corner, BEGIN, EDGE) & there
                        met = tl.max(hits.to(tl.int32), 0)
                        at += BLOCK
                last = point
                k += 1.0
            if met == 0:
                found = tl.load(side + piece * POINTS + s).to(tl.int32)
        rank += 1
    tl.store(seen + own, found.to(tl.int8))


@triton.jit
def _meets(x, y, z, dx, dy, dz, t, BEGIN: tl.constexpr, EDGE: tl.constexpr):
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
    return ~flat & (u > -EDGE) & (v > -EDGE) & (u + v < 1 + EDGE) & (at > BEGIN) & (at < 1)
