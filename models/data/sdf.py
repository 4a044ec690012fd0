"""Sparse signed distance fields of triangle soups.

The field lives on the points x_i = 2 i / R - 1 of a grid in [-1, 1)^3, as in Direct3D-S2, and holds those with
|sdf| < tau (paper, section 3.1). Its solid is what the triangles enclose, whatever their orientation, together with
what the grid cannot show: open sheets are made two grid steps thick, parts thinner than a cell thicker by as much; the
edge of a wedge of 60 degrees or less, which is so thin, may grow by a step.
Walls inside the solid are no part of it; within a step or two of where one comes to the surface, inside values may
still measure to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.data.distance import triangle_distance
from models.data.flood import flood
from models.data.octree import SLACK, Grid, Pairs, descend, find
from models.data.sides import INSIDE, ON_SURFACE, THIN
from models.data.surface import surface

RESOLUTIONS = (16, 2048)
PAPER_TAU = 1 / 128
# So that the eight points around every crossing of the surface are there, and an isosurface closes.
_LEAST_STEPS = 2.0
# Half the thickness of an open sheet, in grid steps: at less, a grid of points would miss parts of it.
SHEET_STEPS = 1.0
# Of a point on the surface, in grid steps, so that the field has a sign everywhere.
_LEAST = 1e-6


@dataclass(frozen=True, eq=False)
class SparseSDF:
    """Values of a signed distance field at the grid points near its surface; negative inside."""

    coords: Tensor  # int32 [V, 3], in 0 .. resolution - 1, sorted by x, then y, then z
    values: Tensor  # fp32 [V], in units of the cube [-1, 1]^3; |value| < tau
    resolution: int
    tau: float

    @property
    def positions(self) -> Tensor:
        """fp32 [V, 3] in [-1, 1)."""
        return self.coords.float() * (2 / self.resolution) - 1


def truncation(resolution: int) -> float:
    """The paper's tau, 1/128, or two grid steps where those are more."""
    return max(PAPER_TAU, _LEAST_STEPS * 2 / resolution)


def sparse_sdf(
    vertices: NDArray[np.float64] | Tensor,
    faces: NDArray[np.int64] | Tensor,
    resolution: int,
    *,
    tau: float | None = None,
    signed: bool = True,
    device: torch.device | str = "cpu",
) -> SparseSDF:
    """Distance to a triangle soup, at all grid points nearer than `tau`.

    Args:
        vertices: [V, 3] in [-1, 1]. faces: [F, 3]. Open, intersecting, unoriented and degenerate triangles are welcome.
        resolution: grid points along an axis.
        tau: where the field ends; by default `truncation(resolution)`.
        signed: else the distance to all triangles, walls inside included, without a sign.

    Raises:
        ValueError: an argument outside its range, no triangles, or coordinates that are not finite or leave the cube.
    """
    if not RESOLUTIONS[0] <= resolution <= RESOLUTIONS[1]:
        raise ValueError(f"resolution must be from {RESOLUTIONS[0]} to {RESOLUTIONS[1]}, got {resolution}")
    tau = truncation(resolution) if tau is None else tau
    step = 2 / resolution
    if not step <= tau <= 16 * step:
        raise ValueError(f"tau must be from 1 to 16 grid steps of {step:g}, got {tau:g}")
    corners = _grid_corners(vertices, faces, resolution, device)
    grid = Grid(resolution)
    reach = tau / step
    if signed:
        keys, values = _signed_distance(corners, grid, reach)
    else:
        keys, values = _nearest_distance(corners, grid, reach)
    coords = grid.coords(keys, 0)
    kept = (values.abs() < reach) & ((coords >= 0) & (coords < resolution)).all(0)
    return SparseSDF(coords[:, kept].T.int().contiguous(), (values[kept] * step).float(), resolution, tau)


def _grid_corners(
    vertices: NDArray[np.float64] | Tensor,
    faces: NDArray[np.int64] | Tensor,
    resolution: int,
    device: torch.device | str,
) -> Tensor:
    """fp64 [F, 3, 3] in grid units."""
    vertices = torch.as_tensor(vertices, dtype=torch.float64, device=device)
    faces = torch.as_tensor(faces, dtype=torch.int64, device=device)
    for name, given, letter in (("vertices", vertices, "V"), ("faces", faces, "F")):
        if given.dim() != 2 or given.shape[1] != 3:
            raise ValueError(f"{name} must have shape [{letter}, 3], got {list(given.shape)}")
    if not len(faces):
        raise ValueError("faces must not be empty")
    low, high = (int(end) for end in faces.aminmax())
    if low < 0 or high >= len(vertices):
        raise ValueError(f"faces must name vertices from 0 to {len(vertices) - 1}, got {low} to {high}")
    if not bool(vertices.isfinite().all()):
        raise ValueError("vertices must be finite")
    if float(vertices.abs().max()) > 1:
        raise ValueError(f"vertices must lie in [-1, 1], got {float(vertices.abs().max()):g}")
    return (vertices[faces] + 1) * (resolution / 2)


def _nearest_distance(corners: Tensor, grid: Grid, reach: float) -> tuple[Tensor, Tensor]:
    """Sorted keys of the points within reach of the triangles, and their exact distances in fp64 grid units."""
    found: list[tuple[Tensor, Tensor]] = []
    corners = corners.contiguous()
    for part in descend(corners.float(), grid, reach, nearest=True) if len(corners) else ():
        if not len(part.key):
            continue
        keys, member = part.key.unique_consecutive(return_inverse=True)
        least = part.distance.new_full((len(keys),), math.inf).scatter_reduce_(0, member, part.distance, "amin")
        # Single precision left the nearest triangle among these.
        close = (part.distance <= least[member] + 2 * SLACK).nonzero().squeeze(1)
        member, triangle = member[close], part.triangle[close]
        distance = triangle_distance(grid.coords(keys, 0).double(), corners, member, triangle)
        found.append((keys, distance.new_full((len(keys),), math.inf).scatter_reduce_(0, member, distance, "amin")))
    if not found:
        return torch.empty(0, dtype=torch.int64, device=corners.device), corners.new_empty(0)
    keys, order = torch.cat([key for key, _ in found]).sort()
    return keys, torch.cat([distance for _, distance in found])[order]


def _signed_distance(corners: Tensor, grid: Grid, reach: float) -> tuple[Tensor, Tensor]:
    """Keys and signed distances of at least all points nearer than `reach` to the solid's surface."""
    parts = list(descend(corners.float(), grid, 1.0))
    sides = flood(corners, grid, parts)
    walls, sheets = surface(corners, grid, Pairs.of(parts), sides)
    wall_keys, wall_distance = _nearest_distance(walls, grid, reach)
    sheet_keys, sheet_distance = _nearest_distance(sheets, grid, reach + SHEET_STEPS)
    keys = torch.cat([wall_keys, sheet_keys]).unique()
    side = sides.at(grid.coords(keys, 0))
    wall = _spread(wall_keys, wall_distance.clamp(min=_LEAST), keys)
    sheet = _spread(sheet_keys, sheet_distance, keys)
    # A point on a wall counts as inside, one on a sheet is decided by the sheet. Thin parts may be walls or sheets.
    on_wall = (side == ON_SURFACE) & wall.isfinite()
    inside = (side == INSIDE) | on_wall | ((side == THIN) & (wall < sheet))
    # The union of both solids: the smaller value.
    return keys, torch.minimum(torch.where(inside, -wall, wall), sheet - SHEET_STEPS)


def _spread(known: Tensor, values: Tensor, keys: Tensor) -> Tensor:
    """Values by key; infinity for keys that are not known."""
    index, found = find(known, keys)
    spread = values.new_full((len(keys),), math.inf)
    spread[found] = values[index[found]]
    return spread
