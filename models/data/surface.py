"""The surface of a solid among the triangles of a soup: which of them, or which pieces, have the outside beside them.

What a triangle has beside it is told by the grid points around it: those of the 3^3 blocks around the points next to
it. Every half-space that begins in the middle cell of such a block holds one of its points, so nothing is missed unless
it is thinner than the grid. A triangle with different things beside it is cut; small pieces look for themselves what
they have above and below.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.data.distance import triangle_distance
from models.data.octree import SLACK, Grid, Pairs
from models.data.sides import INSIDE, OUTSIDE, THIN, Sides
from models.data.sight import Sight

# Pieces of triangles with different things beside them are not cut below this size, in grid steps.
_PIECE_STEPS = 2.0
# Above or below a triangle, in grid steps; nearer points may be so for a neighbour in a curved surface.
_CLEAR = 0.25
# A triangle nearer than this may reach into the unit cell around a point; in fp32, which distances are compared in.
_CELL = float(torch.tensor(math.sqrt(3) / 2 + SLACK, dtype=torch.float32))
# Of lengths that are compared, in grid steps: smaller differences are rounding.
_TIE = 1e-6

# What some point next to a triangle has around it: something outside, nothing, something inside, nothing.
_SOME_OUTSIDE, _NO_OUTSIDE, _SOME_INSIDE, _NO_INSIDE = 1, 2, 4, 8
# A point that is outside itself, one that is inside; by `tell` moved to what lies above a triangle, and what below.
_OUTSIDE, _INSIDE = 16, 32
_OUTSIDE_ABOVE, _INSIDE_ABOVE, _OUTSIDE_BELOW, _INSIDE_BELOW = 16, 32, 64, 128


def surface(corners: Tensor, grid: Grid, near: Pairs, sides: Sides) -> tuple[Tensor, Tensor]:
    """The triangles, or pieces of them, with the outside on one side only, and with the outside on both.

    Args:
        corners: fp64 [F, 3, 3], in grid units.
        near: of a descent with a reach of at least 1.

    Returns:
        Two of fp64 [P, 3, 3].
    """
    sight = Sight(corners, grid, near, sides)
    points = grid.coords(near.keys, 0)
    centres, about = points.float(), _about(points, sides)
    triangle, point, distance = near.triangle, near.point, near.distance
    rounds = []
    while len(corners):
        found = _tell(corners, points, about, triangle, point, distance)
        some_outside, some_inside = _has(found, _SOME_OUTSIDE), _has(found, _SOME_INSIDE)
        all_outside, all_inside = ~_has(found, _NO_OUTSIDE), ~_has(found, _NO_INSIDE)
        small = (corners.roll(-1, 1) - corners).norm(dim=2).amax(1) <= _PIECE_STEPS
        sheet = all_outside & ~some_inside
        wall = torch.where(small, some_outside & some_inside, all_outside & all_inside)
        rounds.append((corners, sheet, wall, small & wall & ~_told_apart(found)))

        cut = (~(wall | sheet | small) & some_outside).nonzero().squeeze(1)
        number = torch.full_like(wall, -1, dtype=torch.int64)
        number[cut] = torch.arange(len(cut), device=cut.device)
        # Pieces are near to no other points than the whole.
        kept = ((number[triangle] >= 0) & (distance <= _CELL + SLACK)).nonzero().squeeze(1)
        quarter = torch.arange(4, device=cut.device)[:, None]
        triangle, point = (number[triangle[kept]] + len(cut) * quarter).flatten(), point[kept].repeat(4)
        corners = _halves(_halves(corners[cut]))
        distance = triangle_distance(centres, corners.float(), point, triangle)

    corners, sheet, wall, unclear = (torch.cat(each) for each in zip(*rounds, strict=True))
    looking = corners[unclear]
    above, below = sight.beside(looking)
    outside_above, outside_below = (((seen == OUTSIDE) | (seen == THIN)) for seen in (above, below))
    on_sheet = (outside_above & (below != INSIDE)) | (outside_below & (above != INSIDE))
    within = (above == INSIDE) & (below == INSIDE)
    walls = torch.cat([corners[wall & ~unclear], looking[~on_sheet & ~within]])
    return walls, torch.cat([corners[sheet], looking[on_sheet]])


def _about(points: Tensor, sides: Sides) -> Tensor:
    """int32 [Q]: the flags of grid points int64 [3, Q]."""
    side = sides.at(points)
    flags = torch.where(sides.around(points, OUTSIDE, THIN) != 0, _SOME_OUTSIDE, _NO_OUTSIDE)
    flags |= torch.where(sides.around(points, INSIDE) != 0, _SOME_INSIDE, _NO_INSIDE)
    flags |= ((side == OUTSIDE) | (side == THIN)) * _OUTSIDE + (side == INSIDE) * _INSIDE
    return flags.int()


def _tell(corners: Tensor, points: Tensor, about: Tensor, triangle: Tensor, point: Tensor, distance: Tensor) -> Tensor:
    """int32 [F]: the flags of all points next to a triangle."""
    found = torch.zeros(len(corners), dtype=torch.int32, device=corners.device)
    a, b, c = corners.unbind(1)
    normal = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=1)
    given = (found, triangle, point, distance, points, about, corners, normal)
    if found.is_cuda:
        from models.data import triton_surface  # Triton is not needed on a CPU

        triton_surface.tell(*given, _CELL, _CLEAR)
    else:
        from models.data import compiled_surface  # numba is not needed on a GPU

        compiled_surface.tell(*(tensor.numpy() for tensor in given), _CELL, _CLEAR)
    return found


def _has(found: Tensor, flag: int) -> Tensor:
    return (found & flag) != 0


def _told_apart(found: Tensor) -> Tensor:
    """Triangles whose next grid points above and below are outside on the one hand, inside on the other."""
    out_above, in_above = _has(found, _OUTSIDE_ABOVE), _has(found, _INSIDE_ABOVE)
    out_below, in_below = _has(found, _OUTSIDE_BELOW), _has(found, _INSIDE_BELOW)
    return (out_above != out_below) & (in_above != in_below) & (out_above != in_above)


def _halves(corners: Tensor) -> Tensor:
    """The triangles cut at the middle of their longest sides: all first halves, then the others."""
    # The side from corner `which` to the next; of equally long ones the first, whatever the device's rounding.
    which = ((corners.roll(-1, 1) - corners).norm(dim=2) / _TIE).round().argmax(1)
    turn = (which[:, None] + torch.arange(3, device=corners.device)) % 3
    a, b, c = corners.gather(1, turn[:, :, None].expand(-1, -1, 3)).unbind(1)
    middle = (a + b) / 2
    return torch.cat([torch.stack([a, middle, c], 1), torch.stack([middle, b, c], 1)])
