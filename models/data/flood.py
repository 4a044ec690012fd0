"""What is outside: the grid points that can be reached from far away without crossing a triangle.

A step goes from a grid point to one of its six neighbours, and is barred where the segment between them meets a
triangle. So no orientation of the triangles is needed, nor that they close, nor that they do not intersect; what they
do not enclose is outside. An opening lets the outside in if a path of grid points fits through it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import torch
from torch import Tensor

from models.data.nodes import BLOCK_LEVEL, Nodes
from models.data.octree import Grid, Near, expand_ranges
from models.data.sides import AROUND, INSIDE, ON_SURFACE, OUTSIDE, THIN, Sides

# Of grid coordinates, all in double precision: neighbouring triangles round their common edge differently.
_EDGE_SLACK = 1e-9
# A grid point so near to the surface is on it; every step from it along that axis is barred.
_ON_SURFACE = 1e-7


def flood(corners: Tensor, grid: Grid, parts: Iterable[Near]) -> Sides:
    """Fill from the margin of the grid.

    Args:
        corners: fp32 or fp64 [F, 3, 3] of triangles, in grid units.
        parts: of a descent with a reach of at least 1.
    """
    keys: list[list[Tensor]] = [[] for _ in range(grid.root_level + 1)]
    for part in parts:
        keys[0].append(part.key.unique_consecutive())
        for cells in part.empty:
            keys[cells.level].append(cells.keys)
    none = torch.empty(0, dtype=torch.int64, device=corners.device)
    nodes = Nodes.of_cells(grid, [torch.cat([none, *chunks]) for chunks in keys])
    barred, touching = barred_steps(corners, nodes)
    component = components(nodes, barred)
    far = component[nodes.first[grid.root_level]]  # the first coarsest cell is a corner of the margin
    side = torch.where(component == far, OUTSIDE, INSIDE).to(torch.int8)
    side.masked_fill_(touching, ON_SURFACE)
    sides = Sides.of_nodes(nodes, side)
    points = nodes.first[1]
    _mark_thin(sides, nodes.keys[0][side[:points] == INSIDE])
    return sides


def _mark_thin(sides: Sides, within: Tensor) -> None:
    """Marks the inside points that are far from every cell of eight points without an outside one.

    A plate that holds such a cell is met by the grid everywhere, as a discrete plane without holes; a thinner one only
    here and there. The points in a corner or at an edge of a thick solid have such a cell beside them.

    Args:
        within: keys int64 [P] of the inside points near the surface.
    """
    thin = sides.grid.coords(within, 0)
    outside = sides.around(thin, OUTSIDE)
    far = torch.ones_like(outside, dtype=torch.bool)
    for octant in itertools.product((-1, 1), repeat=3):
        corners = {
            tuple(a * b for a, b in zip(octant, corner, strict=True)) for corner in itertools.product((0, 1), repeat=3)
        }
        far &= (outside & sum(1 << i for i, step in enumerate(AROUND) if step in corners)) != 0
    thin = thin[:, far]
    sides.mark(thin, THIN)
    alone = sides.around(thin, INSIDE) == 0
    sides.mark(thin[:, ~alone], INSIDE)


def barred_steps(corners: Tensor, nodes: Nodes) -> tuple[Tensor, Tensor]:
    """Where no step is: bool [3, N], for each axis the points whose step to the next meets a triangle; and bool [N],
    the points on a triangle."""
    point, axis, touching = _crossings(corners.double(), nodes.grid)
    node = nodes.at(point).long()
    barred = torch.zeros(3, len(nodes), dtype=torch.bool, device=node.device)
    barred[axis, node] = True
    on_surface = torch.zeros_like(barred[0])
    touched = touching.nonzero().squeeze(1)
    on_surface[node[touched]] = True
    # From a point on a triangle there is no step either way.
    point, axis = point[:, touched], axis[touched]
    before = point - (torch.arange(3, device=axis.device)[:, None] == axis).long()
    barred[axis, nodes.at(before).long()] = True
    return barred, on_surface


def _crossings(corners: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Every crossing of a triangle and a grid line: int64 [3, P], the point on it or else below; int64 [P], the axis of
    the line; bool [P], whether the triangle touches the point."""
    a, b, c = corners.unbind(1)
    # Three times each triangle, with the line's axis last.
    normal = _turned(torch.linalg.cross(b - a, c - a))
    axis = torch.arange(3, device=corners.device).repeat_interleave(len(corners))
    # A triangle along the line is met at its edges, which its neighbours have too; alone it encloses nothing.
    slanted = (normal[:, 2] != 0).nonzero().squeeze(1)
    corners, normal, axis = _turned(corners)[slanted], normal[slanted], axis[slanted]
    low, high = corners.amin(1), corners.amax(1)

    member, row = expand_ranges(low[:, 1] - _EDGE_SLACK, high[:, 1] + _EDGE_SLACK)
    first, last = _row_interval(corners[:, :, 0], corners[:, :, 1], member, row)
    line, column = expand_ranges(first - _EDGE_SLACK, last + _EDGE_SLACK)
    row, member = row[line], member[line]

    a, n, axis = corners[member, 0], normal[member], axis[member]
    slope = n[:, 0] * (column - a[:, 0]) + n[:, 1] * (row - a[:, 1])
    # Steep triangles: no farther than their corners.
    depth = (a[:, 2] - slope / n[:, 2]).clamp(low[member, 2], high[member, 2])
    on_point = depth.round()
    touching = (depth - on_point).abs() < _ON_SURFACE
    at = torch.where(touching, on_point, depth.floor()).long()
    x, y = torch.where(axis == 0, at, column), torch.where(axis == 1, at, torch.where(axis == 0, column, row))
    return torch.stack([x, y, torch.where(axis == 2, at, row)]), axis, touching


def _turned(vectors: Tensor) -> Tensor:
    """[..., 3] three times, one after the other, [3 F, ...]: as (y, z, x), (x, z, y) and (x, y, z)."""
    x, y, z = vectors.unbind(-1)
    return torch.cat([torch.stack(turned, -1) for turned in ((y, z, x), (x, z, y), (x, y, z))])


def _row_interval(u: Tensor, v: Tensor, member: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
    """Least and largest u of triangle `member` on the line v = row."""
    low = torch.full_like(row, torch.inf, dtype=torch.float64)
    high = -low
    for i, j in ((0, 1), (1, 2), (2, 0)):
        ui, uj, vi, vj = u[member, i], u[member, j], v[member, i], v[member, j]
        level = vi == vj
        t = torch.where(level, 0, (row - vi) / torch.where(level, 1, vj - vi))
        met = (torch.minimum(vi, vj) - _EDGE_SLACK <= row) & (row <= torch.maximum(vi, vj) + _EDGE_SLACK)
        at = ui + t.clamp(0, 1) * (uj - ui)
        other = torch.where(level, uj, at)  # an edge on the line is met from end to end
        low = torch.where(met, torch.minimum(low, torch.minimum(at, other)), low)
        high = torch.where(met, torch.maximum(high, torch.maximum(at, other)), high)
    return low, high


def components(nodes: Nodes, barred: Tensor) -> Tensor:
    """Label of each node, int32 [N]; equal where steps lead from one to the other.

    Args:
        barred: bool [3, N], for each axis the points whose step to the next is barred.
    """
    label = torch.arange(len(nodes), dtype=torch.int32, device=barred.device)
    across = nodes.grid.side(BLOCK_LEVEL)
    for level, keys in enumerate(nodes.keys):
        given = (label, keys, nodes.table, nodes.blocks, barred)
        where = (nodes.first[level], nodes.first[1], nodes.grid.side(level), across, level)
        if label.is_cuda:
            from models.data import triton_flood  # Triton is not needed on a CPU

            triton_flood.join(*given, *where)
        else:
            from models.data import compiled_flood  # numba is not needed on a GPU

            compiled_flood.join(*(tensor.numpy() for tensor in given), *where)
    if label.is_cuda:
        triton_flood.settle(label)
    else:
        compiled_flood.settle(label.numpy())
    return label
