"""Distance from points to triangles, many pairs at once: one compiled loop on the CPU, one Triton kernel on a GPU.

The nearest feature (face, edge or corner) is found from signed areas of the point's projection, as in Ericson,
"Real-Time Collision Detection" (2005), section 5.1.5. Triangles may be degenerate: a segment or a point.
"""

from __future__ import annotations

import torch
from torch import Tensor


def triangle_distance(points: Tensor, corners: Tensor, point: Tensor, triangle: Tensor) -> Tensor:
    """Euclidean distance between the points and the triangles of pairs.

    Args:
        points: [3, Q], coordinates first, contiguous.
        corners: [F, 3, 3]: triangle, corner, coordinate; contiguous, in the dtype of the points (fp32 or fp64).
        point, triangle: int64 [P], the pairs.

    Returns:
        [P] in the dtype of the points.
    """
    distance = torch.empty(len(point), dtype=points.dtype, device=points.device)
    pairs = (points, corners, point, triangle, distance)
    if points.device.type == "cuda":
        from models.data.triton_distance import fill_distances  # Triton is not needed on a CPU

        fill_distances(*pairs)
    else:
        from models.data.compiled_distance import fill  # numba is not needed on a GPU, and slow to import

        fill(*(tensor.numpy() for tensor in pairs))
    return distance
