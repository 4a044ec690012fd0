"""Isosurface of a sparse field: marching cubes over the cells whose eight corners are known.

After Lorensen and Cline (1987). The triangles of the 256 cases are derived here, not listed: crossings are joined along
the faces of the cell, always so that inside corners on a diagonal stay apart. The rule depends on the face alone, so
both cells at a face agree, and the surface closes wherever the field does.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from models.data.octree import find
from models.data.sdf import SparseSDF
from models.data.stencil import gradient, stencil_keys

# How near a crossing comes to the ends of its edge, in a cube of side 2: eight times what single precision tells apart.
_LEAST = 2.0**-21

# Corner i of a cell lies at (i >> 2, i >> 1 & 1, i & 1). An edge joins the corners that differ in one of these.
_EDGES = [(i, i | bit) for bit in (4, 2, 1) for i in range(8) if not i & bit]


@dataclass(frozen=True, eq=False)
class Surface:
    """A triangle mesh; normals point to where the field is positive."""

    vertices: Tensor  # fp32 [V, 3] in [-1, 1]
    faces: Tensor  # int64 [F, 3], anticlockwise seen from outside
    normals: Tensor  # fp32 [V, 3], unit; of an isosurface the field's gradient


def isosurface(field: SparseSDF) -> Surface:
    """Where the field is zero, by linear interpolation along the edges of the grid.

    Memory follows the number of grid points in the field. Where a corner of a cell is missing the surface has a border;
    with tau of two grid steps or more it has none.
    """
    keys, strides = stencil_keys(field)
    x, y, z = strides.tolist()
    whole = torch.ones_like(keys, dtype=torch.bool)
    corners = []
    for i, j, k in map(_offset, range(8)):
        index, found = find(keys, keys + (i * x + j * y + k * z))
        whole &= found
        corners.append(index)
    cell = whole.nonzero().squeeze(1)
    corner = torch.stack([index[cell] for index in corners], 1)  # [C, 8]
    inside = field.values[corner] < 0
    case = (inside.long() << torch.arange(8, device=keys.device)).sum(1)
    mixed = ((case != 0) & (case != 255)).nonzero().squeeze(1)
    corner, case = corner[mixed], case[mixed]

    # A vertex belongs to an edge of the grid: its lower end and its axis.
    triangles, count = _case_table(str(keys.device))
    member = torch.repeat_interleave(torch.arange(len(case), device=keys.device), count[case])
    rank = torch.arange(len(member), device=keys.device) - _starts(count[case])[member]
    edge = triangles[case[member], rank]  # [T, 3]
    ends = torch.tensor(_EDGES, device=keys.device)[edge]  # [T, 3, 2]
    low, high = (corner[member[:, None], ends[:, :, end]] for end in (0, 1))
    axis = edge // 4
    name, faces = (low * 3 + axis).reshape(-1).unique(return_inverse=True)
    faces = faces.view(-1, 3)
    start, end = name // 3, torch.empty_like(name)
    end[faces.reshape(-1)] = high.reshape(-1)
    value = field.values[torch.stack([start, end])]
    # Not at a grid point, where the crossings of several edges would be one point and the surface pinched there.
    least = _LEAST * field.resolution / 2
    t = (value[0] / (value[0] - value[1])).clamp(least, 1 - least)
    normals = torch.lerp(gradient(field, keys, start, strides), gradient(field, keys, end, strides), t[:, None])
    points = torch.lerp(field.coords[start].float(), field.coords[end].float(), t[:, None])
    return Surface(points * (2 / field.resolution) - 1, faces, torch.nn.functional.normalize(normals, dim=1))


def _offset(corner: int) -> tuple[int, int, int]:
    return corner >> 2, corner >> 1 & 1, corner & 1


def _starts(count: Tensor) -> Tensor:
    return count.cumsum(0) - count


@functools.cache
def _case_table(device: str) -> tuple[Tensor, Tensor]:
    """Triangles of each case, int64 [256, most, 3] of edge numbers, and their number, int64 [256]."""
    cases = [_triangulate(case) for case in range(256)]
    most = max(map(len, cases))
    padded = [triangles + [(0, 0, 0)] * (most - len(triangles)) for triangles in cases]
    return torch.tensor(padded, device=device), torch.tensor([len(triangles) for triangles in cases], device=device)


def _triangulate(case: int) -> list[tuple[int, int, int]]:
    """Triangles over the loops of crossings of one case."""
    following = dict(itertools.chain.from_iterable(_face_segments(case, face) for face in _faces()))
    triangles = []
    while following:
        first, current = following.popitem()
        loop = [first]
        while current != first:
            loop.append(current)
            current = following.pop(current)
        triangles += _fill(tuple(loop))
    return triangles


def _fill(loop: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Triangles over a loop, none with a diagonal in a face of the cell: the cell beyond might have the same.

    Raises:
        ValueError: there are none.
    """
    if len(loop) == 3:
        a, b, c = loop
        return [(a, b, c)]
    first, last = loop[0], loop[-1]
    for middle in range(1, len(loop) - 1):  # the third corner of the triangle at the side from last to first
        parts = [loop[: middle + 1], loop[middle:]]
        diagonals = [(part[0], part[-1]) for part in parts if len(part) > 2]
        if any(_share_a_face(*diagonal) for diagonal in diagonals):
            continue
        try:
            rest = [_fill(part) for part in parts if len(part) > 2]
        except ValueError:
            continue
        return [(first, loop[middle], last), *itertools.chain.from_iterable(rest)]
    raise ValueError(f"no triangles over {loop}")


def _share_a_face(a: int, b: int) -> bool:
    """Whether two edges of the cell lie in one of its faces."""
    corners = [*_EDGES[a], *_EDGES[b]]
    return any(len({corner & bit for corner in corners}) == 1 for bit in (4, 2, 1))


def _faces() -> list[tuple[int, ...]]:
    """Corners around each of the six faces, anticlockwise seen from outside the cell."""
    faces = []
    for bit, (next_bit, last_bit) in ((4, (2, 1)), (2, (1, 4)), (1, (4, 2))):
        around = (0, next_bit, next_bit | last_bit, last_bit)
        faces.append(tuple(corner | bit for corner in around))
        faces.append(tuple(reversed(around)))
    return faces


def _face_segments(case: int, face: tuple[int, ...]) -> list[tuple[int, int]]:
    """Directed segments on a face, from crossing to crossing, with the inside on the same hand in every face.

    Going around, each way into the inside is joined to the next way out, so that every run of inside corners is cut off
    by a segment of its own.
    """
    inside = [bool(case >> corner & 1) for corner in face]
    segments = []
    for i in range(4):
        if inside[i] and not inside[(i + 1) % 4]:
            entry = i
            while inside[(entry - 1) % 4]:
                entry -= 1
            leave = _edge_number(face[i], face[(i + 1) % 4])
            enter = _edge_number(face[(entry - 1) % 4], face[entry % 4])
            segments.append((enter, leave))
    return segments


def _edge_number(a: int, b: int) -> int:
    return _EDGES.index((min(a, b), max(a, b)))
