"""What points tell about the triangles next to them in one Triton kernel: `models.data.compiled_surface` on a GPU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 256  # pairs of a program


def tell(
    found: Tensor,
    triangle: Tensor,
    point: Tensor,
    distance: Tensor,
    points: Tensor,
    about: Tensor,
    corners: Tensor,
    normal: Tensor,
    reach: float,
    clear: float,
) -> None:
    """As the compiled function of the same name; all tensors contiguous."""
    if not len(triangle):
        return
    with torch.cuda.device_of(found):
        # Sums are rounded as on a CPU: heights of points in line with a triangle's corners are often just `clear`.
        _tell_kernel[(triton.cdiv(len(triangle), _BLOCK),)](
            *(found, triangle, point, distance, points, about, corners, normal, len(triangle), points.shape[1]),
            REACH=reach,
            CLEAR=clear,
            BLOCK=_BLOCK,
            enable_fp_fusion=False,
        )


@triton.jit(do_not_specialize=["num_pairs", "num_points"])
def _tell_kernel(
    found,
    triangle,
    point,
    distance,
    points,
    about,
    corners,
    normal,
    num_pairs,
    num_points,
    REACH: tl.constexpr,
    CLEAR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    pair = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    near = tl.load(distance + pair, pair < num_pairs, float("inf")) <= REACH
    t, p = tl.load(triangle + pair, near, 0), tl.load(point + pair, near, 0)
    stride = tl.zeros([1], tl.int64) + num_points
    x = tl.load(points + p).to(tl.float64) - tl.load(corners + 9 * t)
    y = tl.load(points + stride + p).to(tl.float64) - tl.load(corners + 9 * t + 1)
    z = tl.load(points + 2 * stride + p).to(tl.float64) - tl.load(corners + 9 * t + 2)
    height = tl.load(normal + 3 * t) * x + tl.load(normal + 3 * t + 1) * y + tl.load(normal + 3 * t + 2) * z
    given = tl.load(about + p)
    flags = given & 15
    flags |= tl.where(height > CLEAR, given & 48, tl.where(height < -CLEAR, (given & 48) << 2, 0))
    # Most pairs tell nothing new; an atomic operation for each would queue up at large triangles.
    new = flags & ~tl.load(found + t)
    tl.atomic_or(found + t, new, near & (new != 0), sem="relaxed")
