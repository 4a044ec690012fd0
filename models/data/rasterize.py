"""Which triangle a camera sees at each pixel, in tensor operations for CPU and GPU alike.

Every pixel's centre has a ray. Vertices are sheared along it onto a plane, where the ray is the origin; the triangle is
hit if the origin is in its image, which the signs of three determinants tell (Woop, Benthin, Wald, "Watertight
Ray/Triangle Intersection", 2013). Rounding can make such a sign zero but never turn it, and zero counts as a hit, so no
ray slips between triangles that share an edge or a corner. The determinants are also the barycentric coordinates in
space, so nothing is divided by depth, and triangles that cross the camera's plane need no cutting.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from models.data.cameras import Camera
from models.data.octree import expand_ranges

# Nothing nearer is seen, in units of the world.
NEAR = 1e-3
# Rows of triangles that are taken at once. A row has a few pixels in most meshes, and at most the image's width.
_ROWS = {"cuda": 2**20, "cpu": 2**15}
# Pairs of triangle and pixel that are tested at once: bounds memory, about 250 bytes a pair.
_PAIRS = {"cuda": 2**22, "cpu": 2**16}
# Widens the candidates of a row, relative to the largest terms of an edge's equation. The hit test is exact by itself.
_SLACK = 1e-9
_NOTHING = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Fragments:
    """What is seen at the centre of each pixel."""

    triangle: Tensor  # int64 [H, W], -1 where there is none
    barycentric: Tensor  # fp64 [H, W, 3], of the point that is seen, in space (perspective-correct); 0 where none
    depth: Tensor  # fp64 [H, W], distance from the camera's plane in units of the world, inf where none

    @property
    def hit(self) -> Tensor:
        """bool [H, W]."""
        return self.triangle >= 0


def rasterize(vertices: Tensor, faces: Tensor, camera: Camera) -> Fragments:
    """The nearest triangle at each pixel, from either side; of equally near ones (in fp32) that of the lowest number.

    Memory is bounded by the mesh and the image: pairs of a triangle and a pixel are made a bounded number at a time. A
    million triangles at 2048 x 2048 take about half a gigabyte on a CPU.

    Args:
        vertices: floating [V, 3], in the world.
        faces: int64 [F, 3], on the same device.

    Raises:
        ValueError: no faces, faces of missing vertices, coordinates that are not finite, or tensors of other shapes.
    """
    if vertices.ndim != 2 or vertices.shape[1] != 3:
        raise ValueError(f"vertices must be [V, 3], got {list(vertices.shape)}")
    if faces.ndim != 2 or faces.shape[1] != 3:
        raise ValueError(f"faces must be [F, 3], got {list(faces.shape)}")
    if not len(faces):
        raise ValueError("faces must have at least one triangle, got none")
    if not bool(vertices.isfinite().all()):
        raise ValueError("vertices must be finite")
    if not 0 <= int(faces.min()) <= int(faces.max()) < len(vertices):
        raise ValueError(f"faces must be of the {len(vertices)} vertices, got numbers {faces.min()} to {faces.max()}")
    points = _rays_frame(vertices, camera)
    seen = torch.full((camera.height * camera.width,), _NOTHING, device=faces.device)
    for triangle, pixel in _candidates(points, faces, camera):
        barycentric, depth = _intersect(points, faces, triangle, pixel, camera.width)
        met = (barycentric >= 0).all(0) & (depth > NEAR)
        bits = depth[met].float().view(torch.int32).long()  # of positive floats: in their order
        seen.scatter_reduce_(0, pixel[met], bits << 32 | triangle[met], "amin")
    return _fragments(points, faces, seen, camera)


def _rays_frame(vertices: Tensor, camera: Camera) -> Tensor:
    """fp64 [3, V] of (p, q, depth): the ray of a pixel at column x, row y is at p = x depth, q = y depth."""
    matrix = camera.world_to_camera().to(vertices.device)
    # Element by element, because a matrix product may add in another order on another device.
    x, y, z = (
        sum(matrix[row, axis] * vertices[:, axis].double() for axis in range(3)) + matrix[row, 3] for row in range(3)
    )
    depth = -z
    return torch.stack(
        [camera.focal * x + camera.width / 2 * depth, camera.height / 2 * depth - camera.focal * y, depth]
    )


def _candidates(points: Tensor, faces: Tensor, camera: Camera) -> Iterator[tuple[Tensor, Tensor]]:
    """Triangles and pixels whose centres they may cover: int64 [P] each, a bounded number at a time."""
    device = faces.device.type
    low, high = _rows(points, faces, camera.height)
    visible = (high >= low).nonzero().squeeze(1)
    low, high = low[visible], high[visible]
    for group in _groups((high - low + 1).long(), _ROWS[device]):
        member, row = expand_ranges(low[group], high[group])
        triangle = visible[group][member]
        first, last = _columns(points, faces, triangle, row, camera.width)
        reached = last >= first
        triangle, row, first, last = triangle[reached], row[reached], first[reached], last[reached]
        for part in _groups((last - first + 1).long(), _PAIRS[device]):
            line, column = expand_ranges(first[part], last[part])
            yield triangle[part][line], row[part][line] * camera.width + column


def _groups(count: Tensor, size: int) -> Iterator[slice]:
    """Slices of the positive counts that each sum to about `size`, at least one count each."""
    ends = count.cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    marks = torch.tensor(range(size, total, size), dtype=torch.int64, device=count.device)
    bounds = [0, *torch.searchsorted(ends, marks, right=True).tolist(), len(count)]
    for start, stop in pairwise(bounds):
        if stop > start:
            yield slice(start, stop)


def _rows(points: Tensor, faces: Tensor, height: int) -> tuple[Tensor, Tensor]:
    """First and last row whose centres a triangle may cover, fp64 [F], of the part in front of the near plane."""
    _, q, depth = points[:, faces]  # [F, 3] each
    low = torch.full_like(depth[:, 0], torch.inf)
    high = -low
    for i in range(3):
        for j in range(3):
            if i == j:
                continue
            # The end i of the edge, or where the edge leaves the near plane on its way to j.
            behind = depth[:, i] <= NEAR
            t = torch.where(behind, (NEAR - depth[:, i]) / (depth[:, j] - depth[:, i]), 0)
            at = (q[:, i] + t * (q[:, j] - q[:, i])) / torch.where(behind, NEAR, depth[:, i])
            there = ~behind | (depth[:, j] > NEAR)
            low = torch.where(there, torch.minimum(low, at), low)
            high = torch.where(there, torch.maximum(high, at), high)
    return ((low - 0.5 - 1e-6).ceil().clamp(0, height), (high - 0.5 + 1e-6).floor().clamp(-1, height - 1))


def _columns(points: Tensor, faces: Tensor, triangle: Tensor, row: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """First and last column whose centres a triangle may cover in a row, fp64 [R]: no edge's equation is negative."""
    corners = points[:, faces[triangle]].unbind(2)  # three of [3, R]
    orientation = torch.sign((torch.linalg.cross(corners[0], corners[1], dim=0) * corners[2]).sum(0))
    y = row + 0.5
    first = torch.zeros_like(y)
    last = torch.full_like(y, width - 1)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        a, b, c = orientation * torch.linalg.cross(corners[i], corners[j], dim=0)
        rest = b * y + c
        rest += _SLACK * (a.abs() * width + (b * y).abs() + c.abs())
        at = -rest / a - 0.5  # a column: a (column + 0.5) + rest = 0
        first = torch.where(a > 0, torch.maximum(first, at.ceil()), first)
        last = torch.where(a < 0, torch.minimum(last, at.floor()), last)
        last = torch.where((a == 0) & (rest < 0), -1, last)
    # Seen edge on, a triangle covers nothing.
    return first, torch.where(orientation == 0, -1, last)


def _intersect(points: Tensor, faces: Tensor, triangle: Tensor, pixel: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Barycentric coordinates [3, P] and depth [P], fp64, of the rays' points on the planes; NaN if none."""
    x, y = pixel % width + 0.5, pixel // width + 0.5
    corners = faces[triangle].unbind(1)
    p, q, depth = ([coordinate[corner] for corner in corners] for coordinate in points)
    p = [pi - x * d for pi, d in zip(p, depth, strict=True)]
    q = [qi - y * d for qi, d in zip(q, depth, strict=True)]
    weights = torch.stack([p[j] * q[k] - p[k] * q[j] for j, k in ((1, 2), (2, 0), (0, 1))])
    barycentric = weights / (weights[0] + weights[1] + weights[2])
    return barycentric, barycentric[0] * depth[0] + barycentric[1] * depth[1] + barycentric[2] * depth[2]


def _fragments(points: Tensor, faces: Tensor, seen: Tensor, camera: Camera) -> Fragments:
    shape = camera.height, camera.width
    triangle = torch.where(seen == _NOTHING, -1, seen & 0xFFFFFFFF)
    pixel = (triangle >= 0).nonzero().squeeze(1)
    barycentric = points.new_zeros(len(seen), 3)
    depth = points.new_full((len(seen),), torch.inf)
    at, z = _intersect(points, faces, triangle[pixel], pixel, camera.width)
    barycentric[pixel], depth[pixel] = at.T, z
    return Fragments(triangle.view(shape), barycentric.view(*shape, 3), depth.view(shape))
