"""Pieces of a surface see the grid points beside them, not those behind other triangles."""

from __future__ import annotations

import pytest
import shapes
import torch

from models.data import compiled_sight, triton_sight
from models.data.flood import flood
from models.data.octree import Grid, Pairs, descend
from models.data.sides import INSIDE, OUTSIDE, THIN
from models.data.sight import _EDGE, _START, _STEP, NOTHING, Sight

R = 32
STEP = 2 / R


def seen_beside(mesh: shapes.Mesh) -> torch.Tensor:
    """What each triangle has above and below, [2, F]."""
    grid = Grid(R)
    corners = torch.from_numpy((mesh[0][mesh[1]] + 1) * (R / 2))
    near = list(descend(corners.float(), grid, 1.0))
    return Sight(corners, grid, Pairs.of(near), flood(corners, grid, near)).beside(corners)


def test_a_hull_has_the_outside_above_and_the_inside_below() -> None:
    above, below = seen_beside(shapes.sphere(0.7, 3))
    assert set(above.tolist()) == {OUTSIDE}
    assert set(below.tolist()) == {INSIDE}


def test_a_wall_beneath_the_hull_has_the_inside_on_both_sides() -> None:
    hull, wall = shapes.box(0.9, 0.9, 0.9), shapes.square(0.88, cells=16)
    seen = seen_beside(shapes.joined(hull, wall))
    assert set(seen[:, len(hull[1]) :].flatten().tolist()) == {INSIDE}


def test_a_fin_on_a_solid_has_the_outside_on_both_sides() -> None:
    solid, fin = shapes.box(0.9, 0.9, 0.4), shapes.square(0.6, cells=16)
    fin = (fin[0][:, [0, 2, 1]] + (0, 0.01, 0.5), fin[1])  # upright, from the top face on
    seen = seen_beside(shapes.joined(solid, fin))
    assert set(seen[:, len(solid[1]) :].flatten().tolist()) == {OUTSIDE}


def test_a_thin_plate_has_no_solid_beneath_its_faces() -> None:
    above, below = seen_beside(shapes.moved(shapes.box(1, 1, 0.5 * STEP), shapes.rotation(0)))
    assert set(above.tolist()) == {OUTSIDE}
    assert set(below.tolist()) <= {THIN, NOTHING}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_kernel_agrees_with_compiled_code(device: str) -> None:
    if device == "cpu" and torch.cuda.is_available():
        pytest.skip("Triton interprets kernels only where there is no GPU")
    pieces, lists, listed = 60, 40, 300
    base = torch.randint(5, 9, (pieces, 3))
    origin = base + (torch.rand(pieces, 3, dtype=torch.float64) - 0.5)
    candidate = torch.rand(2, pieces, 27) < 0.1
    order = torch.rand(pieces, 27).argsort(1)
    side = torch.randint(4, (pieces, 27), dtype=torch.int8)
    row = torch.randint(-1, lists, (pieces, 27))
    corners = 7 + 2 * torch.randn(100, 3, 3, dtype=torch.float64)
    corners[::10, 2] = corners[::10, 0]  # without an area
    ends = torch.cat([torch.zeros(1), torch.rand(lists - 1).sort().values * listed, torch.tensor([listed])]).long()
    triangle = torch.randint(100, (listed,))
    lines = (origin, base, candidate, order, side, row, ends[:-1], ends[1:], triangle, corners)
    nothing = torch.full((2, pieces), NOTHING, dtype=torch.int8)
    compiled = nothing.clone()
    compiled_sight.first_seen(*(tensor.numpy() for tensor in (compiled, *lines)), _START, _EDGE, _STEP)
    kernel = nothing.to(device)
    triton_sight.first_seen(kernel, *(tensor.to(device) for tensor in lines), _START, _EDGE, _STEP)
    assert torch.equal(kernel.cpu(), compiled)
    assert set(compiled.unique().tolist()) == {NOTHING, 0, 1, 2, 3}
