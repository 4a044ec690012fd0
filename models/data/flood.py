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

from models.data.octree import Grid, Near, expand_ranges, find
from models.data.sides import AROUND, INSIDE, ON_SURFACE, OUTSIDE, THIN, Sides

# Of grid coordinates, all in double precision: neighbouring triangles round their common edge differently.
_EDGE_SLACK = 1e-9
# A grid point so near to the surface is on it; every step from it along that axis is barred.
_ON_SURFACE = 1e-7


def flood(corners: Tensor, grid: Grid, parts: Iterable[Near]) -> Sides:
    """Fill from the margin of the grid.

    Args:
        corners: fp32 [F, 3, 3] of triangles, in grid units.
        parts: of a descent with a reach of at least 1.
    """
    occupied: list[Tensor] = []
    empty: dict[int, list[Tensor]] = {level: [] for level in range(grid.root_level + 1)}
    for part in parts:
        occupied.append(part.key.unique_consecutive())
        for cells in part.empty:
            empty[cells.level].append(cells.keys)
    empty[0] += occupied
    keys = [
        torch.cat(chunks).sort().values if chunks else corners.new_empty(0, dtype=torch.int64)
        for chunks in empty.values()
    ]
    first = [0]  # node number of the first cell of each level
    for known in keys:
        first.append(first[-1] + len(known))
    barred, touching = barred_steps(corners, grid)
    component = connected_components(_edges(keys, first, barred, grid), first[-1])
    far = component[first[grid.root_level]]  # the first coarsest cell is a corner of the margin
    side = torch.where(component == far, OUTSIDE, INSIDE).to(torch.int8)
    index, found = find(keys[0], touching)
    side[index[found]] = ON_SURFACE
    sides = Sides.of_cells(
        grid, [(known, side[a:b]) for known, (a, b) in zip(keys, itertools.pairwise(first), strict=True)]
    )
    _mark_thin(sides, keys[0][side[: len(keys[0])] == INSIDE])
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


def _edges(keys: list[Tensor], first: list[int], barred: list[Tensor], grid: Grid) -> Tensor:
    """int64 [2, E]: neighbouring nodes with free passage."""
    edges = []
    for level, known in enumerate(keys):
        node = torch.arange(len(known), device=known.device)
        side = grid.side(level)
        inner = grid.coords(known, level)
        low, high = -grid.margin(level), side - grid.margin(level) - 1
        for axis in range(3):
            stride = side ** (2 - axis)
            for direction in (1, -1):
                here = node[inner[axis] < high] if direction > 0 else node[inner[axis] > low]
                if direction > 0:  # of two cells of one level the lower one makes the edge
                    index, found = find(known, known[here] + stride)
                    ends = torch.stack([here[found], index[found]])
                    if level == 0:
                        ends = ends[:, ~find(barred[axis], known[ends[0]])[1]]
                    edges.append(ends + first[level])
                    here = here[~found]
                else:
                    here = here[~find(known, known[here] - stride)[1]]
                step = torch.zeros(3, 1, dtype=torch.int64, device=known.device)
                step[axis] = direction
                there = inner[:, here] + step
                for coarser in range(level + 1, grid.root_level + 1):
                    index, found = find(keys[coarser], grid.key(there >> (coarser - level), coarser))
                    edges.append(torch.stack([here[found] + first[level], index[found] + first[coarser]]))
                    here, there = here[~found], there[:, ~found]
    return torch.cat(edges, dim=1)


def barred_steps(corners: Tensor, grid: Grid) -> tuple[list[Tensor], Tensor]:
    """Sorted keys: for each axis the points whose step to the next meets a triangle; and the points on a triangle."""
    crossings = [_crossings(corners.double(), axis, grid) for axis in range(3)]
    return [barred.unique() for barred, _ in crossings], torch.cat([touching for _, touching in crossings]).unique()


def _crossings(corners: Tensor, axis: int, grid: Grid) -> tuple[Tensor, Tensor]:
    """Keys of the points below every crossing of a triangle and a grid line along `axis`, and of the points at one."""
    u, v = [other for other in range(3) if other != axis]
    a, b, c = corners.unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    # A triangle along the line is met at its edges, which its neighbours have too; alone it encloses nothing.
    upright = normal[:, axis] == 0
    corners, normal = corners[~upright], normal[~upright]
    if not len(corners):
        none = torch.empty(0, dtype=torch.int64, device=corners.device)
        return none, none

    member, row = expand_ranges(corners[:, :, v].amin(1) - _EDGE_SLACK, corners[:, :, v].amax(1) + _EDGE_SLACK)
    low, high = _row_interval(corners[:, :, u], corners[:, :, v], member, row)
    line, column = expand_ranges(low - _EDGE_SLACK, high + _EDGE_SLACK)
    row, member = row[line], member[line]

    a, n = corners[member, 0], normal[member]
    slope = n[:, u] * (column - a[:, u]) + n[:, v] * (row - a[:, v])
    depth = a[:, axis] - slope / n[:, axis]
    # Steep triangles: no farther than their corners.
    depth = depth.clamp(corners[:, :, axis].amin(1)[member], corners[:, :, axis].amax(1)[member])
    below = depth.floor()
    on_point = depth.round()
    touching = (depth - on_point).abs() < _ON_SURFACE
    point = torch.empty(3, len(depth), dtype=torch.int64, device=depth.device)
    point[u], point[v], point[axis] = column, row, torch.where(touching, on_point, below).long()
    barred = grid.key(point, 0)
    stride = grid.side(0) ** (2 - axis)
    return torch.cat([barred, barred[touching] - stride]), barred[touching]


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


def connected_components(edges: Tensor, nodes: int) -> Tensor:
    """Label of each node; equal where a path of edges leads from one to the other.

    Args:
        edges: int64 [2, E].
    """
    if edges.device.type == "cpu":
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components as components

        a, b = edges.numpy()
        graph = coo_array((torch.ones(len(a), dtype=torch.bool).numpy(), (a, b)), shape=(nodes, nodes))
        return torch.from_numpy(components(graph, directed=False)[1])
    return propagate_labels(edges, nodes)


def propagate_labels(edges: Tensor, nodes: int) -> Tensor:
    """Connected components in parallel: every node takes the least label at hand, labels follow their labels.

    As in Zhang, Azad, Hu, "FastSV" (2020): the number of rounds grows with the logarithm of the longest path.
    """
    label = torch.arange(nodes, device=edges.device)
    a, b = edges
    while True:
        least = torch.minimum(label[a], label[b])
        following = label.clone()
        for end in (a, b):
            following.scatter_reduce_(0, label[end], least, "amin")  # the whole tree hears of it
            following.scatter_reduce_(0, end, least, "amin")
        following = following[following]
        if torch.equal(following, label):
            return label
        label = following
