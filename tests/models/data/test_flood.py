"""The outside comes to every grid point that is not enclosed; components are those of the steps between points."""

from __future__ import annotations

import numpy as np
import pytest
import shapes
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from models.data import compiled_flood, triton_flood
from models.data.flood import barred_steps, components, flood
from models.data.nodes import BLOCK_LEVEL, Nodes
from models.data.octree import Grid, descend
from models.data.sides import INSIDE, ON_SURFACE, OUTSIDE, THIN, Sides

R = 32


def corners_of(mesh: shapes.Mesh) -> Tensor:
    return torch.from_numpy((mesh[0][mesh[1]] + 1) * (R / 2))


def nodes_of(mesh: shapes.Mesh) -> tuple[Nodes, Tensor]:
    """The cells around a mesh, and the steps it bars."""
    grid, corners = Grid(R), corners_of(mesh)
    keys: list[list[Tensor]] = [[] for _ in range(grid.root_level + 1)]
    for part in descend(corners.float(), grid, 1.0):
        keys[0].append(part.key.unique())
        for cells in part.empty:
            keys[cells.level].append(cells.keys)
    nodes = Nodes.of_cells(grid, [torch.cat(chunks) for chunks in keys])
    return nodes, barred_steps(corners, nodes)[0]


def cavities() -> shapes.Mesh:
    hull = shapes.moved(shapes.box(1.4, 1.3, 1.2), shapes.rotation(0))
    return shapes.joined(hull, shapes.sphere(0.4), shapes.sphere(0.2))


def sides_of(mesh: shapes.Mesh) -> Tensor:
    """Side of every grid point, [R, R, R]."""
    grid = Grid(R)
    corners = torch.from_numpy((mesh[0][mesh[1]] + 1) * (R / 2))
    sides: Sides = flood(corners, grid, descend(corners.float(), grid, 1.0))
    return sides.at(torch.cartesian_prod(*[torch.arange(R)] * 3).T).view(R, R, R)


def test_every_point_lies_in_its_cell() -> None:
    nodes, _ = nodes_of(cavities())
    points = torch.cartesian_prod(*[torch.arange(-R, 2 * R)] * 3).T
    held = nodes.at(points).long()
    for level, keys in enumerate(nodes.keys):
        here = (held >= nodes.first[level]) & (held < nodes.first[level + 1])
        assert torch.equal(keys[held[here] - nodes.first[level]], nodes.grid.key(points[:, here] >> level, level)), (
            level
        )
    assert len(held.unique()) == len(nodes)


def test_components_are_those_of_a_graph_of_all_points() -> None:
    nodes, barred = nodes_of(cavities())
    label = components(nodes, barred)
    low, high = -R, 2 * R  # margins included
    points = torch.cartesian_prod(*[torch.arange(low, high)] * 3).T
    node = nodes.at(points).long()
    edges = []
    for axis in range(3):
        stride = (high - low) ** (2 - axis)
        free = (points[axis] < high - 1) & ~barred[axis, node]
        start = free.nonzero().squeeze(1)
        edges.append(torch.stack([start, start + stride]))
    ends = torch.cat(edges, 1).numpy()
    graph = coo_array((np.ones(ends.shape[1]), ends), shape=(points.shape[1],) * 2)
    count, expected = connected_components(graph, directed=False)
    found = label[node].tolist()
    assert len({*zip(found, expected.tolist(), strict=True)}) == count == len(set(found)) == 4


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_kernels_agree_with_compiled_code(device: str) -> None:
    if device == "cpu" and torch.cuda.is_available():
        pytest.skip("Triton interprets kernels only where there is no GPU")
    nodes, barred = nodes_of(cavities())
    compiled = torch.arange(len(nodes), dtype=torch.int32)
    kernel = compiled.to(device, copy=True)
    for level, keys in enumerate(nodes.keys):
        given = (keys, nodes.table, nodes.blocks, barred)
        where = (nodes.first[level], nodes.first[1], nodes.grid.side(level), nodes.grid.side(BLOCK_LEVEL), level)
        compiled_flood.join(compiled.numpy(), *(tensor.numpy() for tensor in given), *where)
        triton_flood.join(kernel, *(tensor.to(device) for tensor in given), *where)
    compiled_flood.settle(compiled.numpy())
    triton_flood.settle(kernel)
    assert torch.equal(kernel.cpu(), compiled)
    assert len(compiled.unique()) == 4


def test_a_box_on_grid_points_has_an_inside_a_surface_and_an_outside() -> None:
    sides = sides_of(shapes.box(1, 1, 1))
    expected = torch.full((R, R, R), OUTSIDE, dtype=torch.int8)
    expected[8:25, 8:25, 8:25] = ON_SURFACE
    expected[9:24, 9:24, 9:24] = INSIDE
    assert torch.equal(sides, expected)


def test_nothing_is_inside_an_open_box() -> None:
    vertices, faces = shapes.box(0.9, 0.9, 0.9)
    assert not bool((sides_of((vertices, faces[2:])) == INSIDE).any())


def test_a_cavity_and_what_floats_in_it_are_inside() -> None:
    hull, cavity, crumb = shapes.sphere(0.8), shapes.sphere(0.5), shapes.sphere(0.2)
    assert torch.equal(sides_of(shapes.joined(hull, cavity, crumb)) == OUTSIDE, sides_of(hull) == OUTSIDE)


def test_inside_points_without_a_whole_cell_are_thin() -> None:
    step = 2 / R
    sides = sides_of(shapes.box(0.9, 0.9, 0.5 * step))
    assert set(sides.unique().tolist()) == {OUTSIDE, THIN}
    assert set(sides_of(shapes.box(0.9, 0.9, 2.5 * step)).unique().tolist()) == {OUTSIDE, INSIDE}
