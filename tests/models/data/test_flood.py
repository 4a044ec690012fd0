"""The outside comes to every grid point that is not enclosed; components are those of the graph."""

from __future__ import annotations

import numpy as np
import pytest
import shapes
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from models.data.flood import flood, propagate_labels
from models.data.octree import Grid, descend
from models.data.sides import INSIDE, ON_SURFACE, OUTSIDE, THIN, Sides

R = 32


def sides_of(mesh: shapes.Mesh) -> Tensor:
    """Side of every grid point, [R, R, R]."""
    grid = Grid(R)
    corners = torch.from_numpy((mesh[0][mesh[1]] + 1) * (R / 2))
    sides: Sides = flood(corners, grid, descend(corners.float(), grid, 1.0))
    return sides.at(torch.cartesian_prod(*[torch.arange(R)] * 3).T).view(R, R, R)


@pytest.mark.parametrize(("nodes", "edges"), [(50, 10), (200, 150), (300, 900), (5, 0)])
def test_labels_are_those_of_scipy(nodes: int, edges: int) -> None:
    ends = torch.randint(nodes, (2, edges))
    labels = propagate_labels(ends, nodes).numpy()
    graph = coo_array((np.ones(edges), ends.numpy()), shape=(nodes, nodes))
    count, expected = connected_components(graph, directed=False)
    assert len({*zip(labels.tolist(), expected.tolist(), strict=True)}) == count == len(set(labels.tolist()))


def test_a_long_path_is_one_component() -> None:
    order = torch.randperm(5000)
    assert bool((propagate_labels(torch.stack([order[:-1], order[1:]]), 5000) == 0).all())


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


@pytest.mark.gpu
def test_labels_on_cuda_are_those_on_the_cpu() -> None:
    edges = torch.randint(100_000, (2, 90_000))
    assert torch.equal(propagate_labels(edges.cuda(), 100_000).cpu(), propagate_labels(edges, 100_000))
