"""Closed or open, in how many pieces, with how many handles."""

from __future__ import annotations

import surfaces
import torch
import trimesh

from eval.surface import Surface
from eval.topology import topology


def test_a_box() -> None:
    found = topology(surfaces.box(1, 1, 1))
    assert (found.vertices, found.edges, found.faces) == (8, 18, 12)
    assert (found.euler, found.genus, found.components) == (2, 0, 1)
    assert found.watertight
    assert found.oriented


def test_a_torus_has_a_handle() -> None:
    found = topology(surfaces.of(trimesh.creation.torus(1, 0.3)))
    assert (found.euler, found.genus) == (0, 1)


def test_pieces_are_counted() -> None:
    found = topology(surfaces.joined(surfaces.sphere(1.0, 1), surfaces.sphere(0.5, 1), surfaces.box(3, 3, 3)))
    assert (found.components, found.euler, found.genus) == (3, 6, 0)


def test_a_corner_in_common_joins_no_pieces() -> None:
    found = topology(surfaces.joined(surfaces.box(1, 1, 1), surfaces.box(1, 1, 1, at=(1, 1, 1))))
    assert found.components == 2
    assert found.watertight


def test_an_open_box_has_a_boundary() -> None:
    closed = surfaces.box(1, 1, 1)
    found = topology(Surface(closed.vertices, closed.faces[1:]))
    assert (found.boundary_edges, found.nonmanifold_edges) == (3, 0)
    assert not found.watertight
    assert found.genus is None


def test_a_triangle_is_all_boundary() -> None:
    found = topology(surfaces.triangle())
    assert (found.boundary_edges, found.components, found.euler) == (3, 1, 1)


def test_seams_do_not_open_a_mesh() -> None:
    ball = surfaces.sphere(subdivisions=2)
    apart = Surface(ball.corners.reshape(-1, 3), torch.arange(3 * len(ball.faces)).view(-1, 3))
    assert topology(apart) == topology(ball)


def test_a_wall_between_two_rooms_is_no_manifold() -> None:
    box = surfaces.box(1, 1, 1)
    corner = box.vertices.tolist().index
    a, b, c, d = (
        corner([x, y, z]) for x, y, z in ((-0.5, -0.5, -0.5), (-0.5, -0.5, 0.5), (0.5, 0.5, -0.5), (0.5, 0.5, 0.5))
    )
    found = topology(Surface(box.vertices, torch.cat([box.faces, torch.tensor([[a, b, c], [c, b, d]])])))
    assert found.nonmanifold_edges > 0
    assert not found.watertight


def test_one_flipped_triangle_is_found() -> None:
    box = surfaces.box(1, 1, 1)
    faces = box.faces.clone()
    faces[0] = faces[0].flip(0)
    found = topology(Surface(box.vertices, faces))
    assert found.misoriented_edges == 3
    assert found.watertight
    assert not found.oriented
    assert found.genus is None


def test_triangles_of_fewer_than_three_places_are_left_out() -> None:
    box = surfaces.box(1, 1, 1)
    found = topology(Surface(box.vertices, torch.cat([box.faces, torch.tensor([[0, 0, 1], [2, 2, 2]])])))
    assert found.degenerate_faces == 2
    assert found.faces == 12
    assert found.watertight


def test_nothing_but_degenerate_triangles_is_not_watertight() -> None:
    found = topology(Surface(torch.eye(3), torch.tensor([[0, 1, 1]])))
    assert (found.faces, found.components) == (0, 0)
    assert not found.watertight
