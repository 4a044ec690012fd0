"""What a small piece of a surface has beside it: on either side the nearest grid point in sight past the triangles."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from models.data.octree import Grid, Pairs, find
from models.data.sides import INSIDE, ON_SURFACE, Sides

# No grid point is seen on that side.
NOTHING = -1
# Of the length of a line of sight: it starts on its own triangle.
_START = 1e-4
_EDGE = 1e-9
# In grid steps. The nearest grid point of every so many along a line is less than one step from all of the line in
# between, so that it knows the triangles there.
_STEP = 0.25
# Smaller differences of lengths, in grid steps, are rounding.
_TIE = 1e-6
# Pieces that are looked at together.
_CHUNK = {"cuda": 2**17, "cpu": 2**11}


class Sight:
    """Looks from pieces of triangles past all triangles of a mesh."""

    def __init__(self, corners: Tensor, grid: Grid, near: Pairs, sides: Sides) -> None:
        """
        Args:
            corners: fp64 [F, 3, 3], in grid units.
            near: of a descent with a reach of at least 1.
        """
        self.corners, self.grid, self.near, self.sides = corners, grid, near, sides

    def beside(self, pieces: Tensor) -> Tensor:
        """Sides, int8 [2, P], of what pieces fp64 [P, 3, 3] have above and below; `NOTHING` where no point is seen."""
        parts = [self._beside(part) for part in pieces.split(_CHUNK[pieces.device.type])]
        return torch.cat(parts, 1) if parts else torch.empty(2, 0, dtype=torch.int8, device=pieces.device)

    def _beside(self, pieces: Tensor) -> Tensor:
        a, b, c = pieces.unbind(1)
        normal = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=1)
        centre = pieces.mean(1)
        nothing = torch.full((2, len(pieces)), NOTHING, dtype=torch.int8, device=pieces.device)
        seen = self._look(centre, normal, 1, nothing)
        # In a corner of a solid the inside points are farther away.
        cornered = ((seen == NOTHING) & (seen.flip(0) != NOTHING) & (seen.flip(0) != INSIDE)).any(0).nonzero()[:, 0]
        seen[:, cornered] = self._look(centre[cornered], normal[cornered], 2, seen[:, cornered], inside_only=True)
        return seen

    def _look(self, centre: Tensor, normal: Tensor, ring: int, seen: Tensor, *, inside_only: bool = False) -> Tensor:
        """`seen` with what is seen in the block of `ring` steps around."""
        device, pieces = centre.device, len(centre)
        shifts = torch.tensor(list(itertools.product(range(-ring, ring + 1), repeat=3)), device=device)
        base = (centre - _TIE).round().long()
        points = base[:, None] + shifts  # [P, S, 3]
        coords = points.flatten(0, 1).T
        side = self.sides.at(coords).view(pieces, len(shifts))
        index, known = find(self.near.keys, self.grid.key(coords, 0))
        row = torch.where(known, index, -1).view(pieces, len(shifts))
        ray = points - centre[:, None]
        above = (ray * normal[:, None]).sum(2)
        # Of equally far points the first: rounding, which differs between devices, must not choose.
        order = (ray.square().sum(2) / _TIE).round().argsort(dim=1, stable=True)
        looked_for = side == INSIDE if inside_only else side != ON_SURFACE
        candidate = torch.stack([looked_for & (above > _START), looked_for & (above < -_START)])
        seen = seen.clone()
        lists = (self.near.start, self.near.end, self.near.triangle)
        lines = (seen, centre, base, candidate, order, side, row, *lists, self.corners)
        if device.type == "cuda":
            from models.data import triton_sight  # Triton is not needed on a CPU

            triton_sight.first_seen(*lines, _START, _EDGE, _STEP)
        else:
            from models.data import compiled_sight  # numba is not needed on a GPU

            compiled_sight.first_seen(*(tensor.numpy() for tensor in lines), _START, _EDGE, _STEP)
        return seen
