"""Points on surfaces: uniform by area, and on sharp edges. The same seed gives the same points on every device."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eval.surface import Surface

# Of the angle between the normals of two triangles at an edge: Dora's threshold is not published; this is the usual
# limit between smooth and sharp in mesh tools.
SHARP_DEGREES = 30.0


@dataclass(frozen=True, eq=False)
class Samples:
    """Points on a surface."""

    points: Tensor  # fp64 [N, 3], in the unit of the surface
    face: Tensor  # int64 [N]: the triangle of each
    normals: Tensor  # fp64 [N, 3]: unit, of the triangles

    def select(self, kept: Tensor) -> Samples:
        """The samples of an index or mask."""
        return Samples(self.points[kept], self.face[kept], self.normals[kept])


def sample_surface(surface: Surface, count: int, seed: int) -> Samples:
    """Independent points, uniform by area; walls inside a mesh get their share.

    Args:
        seed: two samples of one surface need two seeds, else they are the same points.

    Raises:
        ValueError: fewer than one point, or a surface without an area.
    """
    return draw_samples(surface, count, torch.Generator().manual_seed(seed))


def draw_samples(surface: Surface, count: int, generator: torch.Generator) -> Samples:
    """`sample_surface` by a generator on the CPU.

    A triangle is drawn by its area, and a place in it by the square-root rule (Osada, Funkhouser, Chazelle, Dobkin,
    "Shape Distributions", 2002, section 4.1.1).
    """
    _require_positive("count", count)
    if not surface.area > 0:
        raise ValueError(f"{surface.name} must have a surface area, all its triangles are lines or points")
    drawn = _uniform(count, generator, surface)
    ends = surface.areas.cumsum(0)
    # Beyond the last step of the sum there are only triangles without an area.
    last = int(torch.searchsorted(ends, ends[-1:]))
    face = torch.searchsorted(ends, drawn[:, 0] * ends[-1], right=True).clamp_(max=last)
    root = drawn[:, 1].sqrt()
    weights = torch.stack([1 - root, root * (1 - drawn[:, 2]), root * drawn[:, 2]], 1)
    points = (weights[:, :, None] * surface.corners[face]).sum(1)
    return Samples(points, face, surface.normals[face])


def sample_sharp_edges(surface: Surface, count: int, seed: int, *, degrees: float = SHARP_DEGREES) -> Samples:
    """Independent points on the sharp edges, uniform by length, after Dora's "sharp edge sampling" (2412.17808).

    An edge is sharp where the unit normals of its two triangles are more than `degrees` apart. Edges are found by the
    positions of their ends, so that seams of texture coordinates are none; edges of other numbers of triangles than
    two are left out. Dora takes the ends of edges and, where they are too few, points between them; here all points
    lie between. A sample's triangle is either of the two, by turns of a coin.

    Returns:
        No samples where no edge is sharp.

    Raises:
        ValueError: fewer than one point, or an angle outside 0 to 180.
    """
    _require_positive("count", count)
    if not 0 < degrees < 180:
        raise ValueError(f"degrees must be between 0 and 180, got {degrees}")
    ends, faces = paired_edges(surface)
    a, b = surface.normals[faces[:, 0]], surface.normals[faces[:, 1]]
    angle = torch.atan2(torch.linalg.cross(a, b).norm(dim=1), (a * b).sum(1))
    flat = (surface.areas[faces] == 0).any(1)
    sharp = (angle > math.radians(degrees)) & ~flat
    ends, faces = ends[sharp], faces[sharp]
    lengths = (ends[:, 1] - ends[:, 0]).norm(dim=1)
    drawn = _uniform(count, torch.Generator().manual_seed(seed), surface)
    if not len(ends):
        none = faces.new_empty(0)
        return Samples(ends.new_empty(0, 3), none, ends.new_empty(0, 3))
    total = lengths.cumsum(0)
    edge = torch.searchsorted(total, drawn[:, 0] * total[-1], right=True).clamp_(max=len(total) - 1)
    points = ends[edge, 0] + drawn[:, 1:2] * (ends[edge, 1] - ends[edge, 0])
    face = faces[edge].gather(1, (drawn[:, 2:] < 0.5).long()).squeeze(1)
    return Samples(points, face, surface.normals[face])


def paired_edges(surface: Surface) -> tuple[Tensor, Tensor]:
    """Ends fp64 [E, 2, 3] and triangles int64 [E, 2] of the edges with exactly two; vertices at one place are one."""
    vertices, merged = surface.vertices.unique(dim=0, return_inverse=True)
    faces = merged[surface.faces]
    ends = torch.cat([faces[:, [i, j]] for i, j in ((0, 1), (1, 2), (2, 0))]).sort(1).values
    owner = torch.arange(len(faces), device=faces.device).repeat(3)
    edges, member, count = ends.unique(dim=0, return_inverse=True, return_counts=True)
    paired = (count == 2) & (edges[:, 0] != edges[:, 1])
    order = member.argsort(stable=True)
    first = count.cumsum(0) - count
    start = first[paired]
    return vertices[edges[paired]], torch.stack([owner[order[start]], owner[order[start + 1]]], 1)


def _uniform(count: int, generator: torch.Generator, surface: Surface) -> Tensor:
    """fp64 [count, 3] in [0, 1), drawn on the CPU so that every device gets the same."""
    return torch.rand(count, 3, generator=generator, dtype=torch.float64).to(surface.vertices.device)


def _require_positive(name: str, count: int) -> None:
    if count < 1:
        raise ValueError(f"{name} must be positive, got {count}")
