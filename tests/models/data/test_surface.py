"""What the points beside a triangle tell about it, in a kernel as in compiled code."""

from __future__ import annotations

import pytest
import shapes
import torch

from models.data import compiled_surface, triton_surface
from models.data.flood import flood
from models.data.octree import Grid, Pairs, descend
from models.data.surface import _CELL, _CLEAR, _about, surface

R = 32


def surface_of(mesh: shapes.Mesh) -> tuple[torch.Tensor, torch.Tensor]:
    grid = Grid(R)
    corners = torch.from_numpy((mesh[0][mesh[1]] + 1) * (R / 2))
    near = list(descend(corners.float(), grid, 1.0))
    return surface(corners, grid, Pairs.of(near), flood(corners, grid, near))


def area(corners: torch.Tensor) -> float:
    """In units of the cube."""
    a, b, c = corners.unbind(1)
    return float(torch.linalg.cross(b - a, c - a).norm(dim=1).sum()) / 2 * (2 / R) ** 2


def test_a_closed_solid_is_all_wall() -> None:
    walls, sheets = surface_of(shapes.box(1, 1, 1))
    assert area(walls) == pytest.approx(6)
    assert not len(sheets)


def test_an_open_square_is_all_sheet() -> None:
    walls, sheets = surface_of(shapes.square(1.0))
    assert not len(walls)
    assert area(sheets) == pytest.approx(1)


def test_a_square_through_a_box_is_cut_where_the_outside_ends() -> None:
    """The part outside is a sheet, a piece's width more or less; the part inside bounds nothing."""
    walls, sheets = surface_of(shapes.joined(shapes.box(1, 1, 1), shapes.square(1.6)))
    assert 6 - 0.6 < area(walls) < 6 + 0.6
    assert 1.56 - 0.6 < area(sheets) < 1.56 + 0.6


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_kernel_agrees_with_compiled_code(device: str) -> None:
    if device == "cpu" and torch.cuda.is_available():
        pytest.skip("Triton interprets kernels only where there is no GPU")
    grid = Grid(R)
    mesh = shapes.joined(shapes.box(0.9, 0.7, 0.5), shapes.moved(shapes.square(1.2), shapes.rotation(1)))
    corners = torch.from_numpy((mesh[0][mesh[1]] + 1) * (R / 2))
    parts = list(descend(corners.float(), grid, 1.0))
    near, sides = Pairs.of(parts), flood(corners, grid, parts)
    points = grid.coords(near.keys, 0)
    a, b, c = corners.unbind(1)
    normal = torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=1)
    given = (near.triangle, near.point, near.distance, points, _about(points, sides), corners, normal)
    compiled = torch.zeros(len(corners), dtype=torch.int32)
    compiled_surface.tell(*(tensor.numpy() for tensor in (compiled, *given)), _CELL, _CLEAR)
    kernel = torch.zeros(len(corners), dtype=torch.int32, device=device)
    triton_surface.tell(kernel, *(tensor.to(device) for tensor in given), _CELL, _CLEAR)
    assert torch.equal(kernel.cpu(), compiled)
    assert len(compiled.unique()) > 2
