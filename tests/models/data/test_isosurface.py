"""A closed, outward surface of the right genus, exact where the field is linear."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import shapes
import torch
import trimesh

from models.data.isosurface import Surface, isosurface
from models.data.sdf import SparseSDF, sparse_sdf

R = 32


def field_from(values: torch.Tensor) -> SparseSDF:
    """All grid points of a cube of values, in the middle of a larger grid."""
    side = len(values)
    coords = torch.cartesian_prod(*[torch.arange(side, dtype=torch.int32)] * 3) + 4
    return SparseSDF(coords, values.reshape(-1).float(), 16, 1.0)


def mesh_of(surface: Surface) -> trimesh.Trimesh:
    return trimesh.Trimesh(surface.vertices.numpy(), surface.faces.numpy(), process=False)


def directed_edges(faces: torch.Tensor) -> list[tuple[int, int]]:
    return [(int(face[i]), int(face[(i + 1) % 3])) for face in faces for i in range(3)]


@pytest.mark.parametrize(
    ("mesh", "euler", "volume"),
    [
        (shapes.sphere(subdivisions=3), 2, 4 / 3 * np.pi * 0.7**3),
        (shapes.torus(), 0, abs(trimesh.Trimesh(*shapes.torus()).volume)),
        (
            shapes.joined(shapes.sphere(0.3, at=(-0.5, 0, 0)), shapes.sphere(0.3, at=(0.5, 0, 0))),
            4,
            8 / 3 * np.pi * 0.3**3,
        ),
        (shapes.joined(shapes.sphere(0.8), shapes.sphere(0.3)), 2, 4 / 3 * np.pi * 0.8**3),
        (shapes.moved(shapes.box(1, 0.8, 0.6), shapes.rotation(2)), 2, 0.48),
        (shapes.box(1, 1, 1), 2, 1.0),
    ],
    ids=["sphere", "torus", "two spheres", "cavity", "rotated box", "box on grid points"],
)
def test_round_trips_close_and_keep_genus_and_volume(mesh: shapes.Mesh, euler: int, volume: float) -> None:
    surface = mesh_of(isosurface(sparse_sdf(*mesh, R)))
    assert surface.is_watertight
    assert surface.is_winding_consistent
    assert surface.euler_number == euler
    assert surface.volume == pytest.approx(volume, rel=0.06)  # outward, or it would be negative


def test_vertices_of_a_linear_field_are_exact() -> None:
    normal = torch.tensor([0.48, 0.6, 0.64])
    field = field_from(torch.zeros(8, 8, 8))
    values = field.positions @ normal + 0.1
    surface = isosurface(SparseSDF(field.coords, values, field.resolution, field.tau))
    assert len(surface.faces) > 20
    torch.testing.assert_close(surface.vertices @ normal, torch.full((len(surface.vertices),), -0.1), atol=1e-6, rtol=0)
    torch.testing.assert_close(surface.normals, normal.expand_as(surface.normals), atol=1e-5, rtol=0)
    a, b, c = surface.vertices[surface.faces].unbind(1)
    assert bool((torch.linalg.cross(b - a, c - a) @ normal > -1e-9).all())


def test_normals_are_units_and_point_outward() -> None:
    surface = isosurface(sparse_sdf(*shapes.sphere(subdivisions=3), 64))
    torch.testing.assert_close(surface.normals.norm(dim=1), torch.ones(len(surface.normals)))
    outward = torch.nn.functional.normalize(surface.vertices, dim=1)
    assert float((surface.normals * outward).sum(1).min()) > 0.98


@pytest.mark.parametrize("seed", range(4))
def test_any_field_closes(seed: int) -> None:
    """Noise has all cases of cells, beside each other in every way."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.ones(9, 9, 9)
    values[1:-1, 1:-1, 1:-1] = torch.randn(7, 7, 7, generator=generator)
    edges = directed_edges(isosurface(field_from(values)).faces)
    assert len(edges) == len(set(edges)) > 1000
    assert {(b, a) for a, b in edges} == set(edges)


def test_values_of_zero_do_not_pinch_the_surface() -> None:
    """Programs that read the mesh take vertices at equal positions for one."""
    values = torch.ones(9, 9, 9)
    values[1:-1, 1:-1, 1:-1] = torch.randn(7, 7, 7, generator=torch.Generator().manual_seed(0))
    values[values.abs() < 0.5] = 0
    small = field_from(values)
    vertices = isosurface(SparseSDF(small.coords + 1011, small.values, 1024, small.tau)).vertices
    assert len(vertices.unique(dim=0)) == len(vertices) > 400


def test_each_of_the_256_cells_closes_in_a_field_that_is_outside_around_it() -> None:
    for inside in itertools.product((False, True), repeat=8):
        values = torch.ones(4, 4, 4)
        values[1:3, 1:3, 1:3] = torch.where(torch.tensor(inside), -1.0, 1.0).view(2, 2, 2)
        faces = isosurface(field_from(values)).faces
        edges = directed_edges(faces)
        assert (len(faces) > 0) == any(inside)
        assert len(edges) == len(set(edges))
        assert {(b, a) for a, b in edges} == set(edges)


@pytest.mark.parametrize("points", [0, 512])
def test_nothing_comes_from_nothing(points: int) -> None:
    field = field_from(torch.ones(8, 8, 8))
    surface = isosurface(SparseSDF(field.coords[:points], field.values[:points], 16, 1.0))
    assert surface.vertices.shape == surface.faces.shape == surface.normals.shape == (0, 3)


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu() -> None:
    field = sparse_sdf(*shapes.torus(), 64)
    on_gpu = isosurface(SparseSDF(field.coords.cuda(), field.values.cuda(), field.resolution, field.tau))
    on_cpu = isosurface(field)
    assert torch.equal(on_gpu.faces.cpu(), on_cpu.faces)
    torch.testing.assert_close(on_gpu.vertices.cpu(), on_cpu.vertices, atol=1e-6, rtol=0)
    torch.testing.assert_close(on_gpu.normals.cpu(), on_cpu.normals, atol=1e-4, rtol=0)
