"""The sides of the points around a point, in one lookup, are those of 27 lookups."""

from __future__ import annotations

import pytest
import shapes
import torch

from models.data import compiled_sides, triton_sides
from models.data.flood import flood
from models.data.octree import Grid, descend
from models.data.sides import AROUND, INSIDE, ON_SURFACE, OUTSIDE, THIN, Sides

R = 40


@pytest.fixture(scope="module")
def sides() -> Sides:
    thick, plate = shapes.box(0.9, 0.7, 0.5), shapes.moved(shapes.box(0.8, 0.8, 1.2 / R), shapes.rotation(0))
    vertices, faces = shapes.joined(thick, (plate[0] + (0, 0, 0.6), plate[1]))
    grid = Grid(R)
    corners = torch.from_numpy((vertices[faces] + 1) * (R / 2))
    return flood(corners, grid, list(descend(corners.float(), grid, 1.0)))


def points() -> torch.Tensor:
    """All of the grid, the margin's first layer too."""
    return torch.cartesian_prod(*[torch.arange(-1, R + 1)] * 3).T.contiguous()


@pytest.mark.parametrize("kinds", [(OUTSIDE, THIN), (INSIDE,), (ON_SURFACE,)])
def test_bits_are_the_neighbours_sides(sides: Sides, kinds: tuple[int, ...]) -> None:
    bits = sides.around(points(), *kinds)
    for i, step in enumerate(AROUND):
        there = sides.at(points() + torch.tensor(step)[:, None])
        expected = torch.stack([there == kind for kind in kinds]).any(0)
        assert torch.equal((bits >> i & 1).bool(), expected), step
    assert int((bits != 0).sum()) > 0 or kinds == (ON_SURFACE,)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_kernel_agrees_with_compiled_code(sides: Sides, device: str) -> None:
    if device == "cpu" and torch.cuda.is_available():
        pytest.skip("Triton interprets kernels only where there is no GPU")
    some = points()[:, ::7].contiguous()
    across, margin, kinds = sides.grid.side(3), sides.grid.margin(3), 1 << OUTSIDE | 1 << THIN
    compiled = torch.empty(some.shape[1], dtype=torch.int32)
    given = (some, sides.table, sides.blocks)
    compiled_sides.around(*(tensor.numpy() for tensor in (compiled, *given)), across, margin, kinds)
    kernel = torch.empty_like(compiled).to(device)
    triton_sides.around(kernel, *(tensor.to(device) for tensor in given), across, margin, kinds)
    assert torch.equal(kernel.cpu(), compiled)
    assert len(compiled.unique()) > 2


def test_no_point_has_no_bits(sides: Sides) -> None:
    assert sides.around(points()[:, :0], OUTSIDE).shape == (0,)
