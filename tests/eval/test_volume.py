"""Volumes by winding numbers: closed forms, overlaps and cavities, and doubt where a mesh is open."""

from __future__ import annotations

import pytest
import surfaces
import torch

from eval.rays import inside
from eval.surface import Surface
from eval.volume import near_surface_iou, occupancy_iou, solid_iou, volume_iou


def test_six_of_eight_voxels() -> None:
    pred, ref = torch.ones(2, 2, 2, dtype=torch.bool), torch.ones(2, 2, 2, dtype=torch.bool)
    pred[0, 0] = False
    assert occupancy_iou(pred, ref) == 0.75


def test_nothing_and_nothing_are_equal() -> None:
    nothing = torch.zeros(4, dtype=torch.bool)
    assert occupancy_iou(nothing, nothing) == 1
    assert occupancy_iou(nothing, ~nothing) == 0


def test_concentric_spheres() -> None:
    found = volume_iou(surfaces.sphere(0.9), surfaces.sphere(1.0), 40_000)
    assert found.iou == pytest.approx(0.729, abs=0.01)
    assert (found.pred_ambiguous, found.ref_ambiguous, found.points) == (0, 0, 40_000)


def test_boxes_side_by_side_and_a_third_overlapping() -> None:
    one = surfaces.box(1, 1, 1)
    assert volume_iou(one, surfaces.box(1, 1, 1, at=(2, 0, 0)), 5000).iou == 0
    assert volume_iou(one, surfaces.box(1, 1, 1, at=(0.5, 0, 0)), 40_000).iou == pytest.approx(1 / 3, abs=0.01)
    assert volume_iou(one, one, 5000).iou == 1


def test_near_the_surface_errors_weigh_more() -> None:
    pred, ref = surfaces.sphere(0.95), surfaces.sphere(1.0)
    assert near_surface_iou(pred, ref, 0.05, 10_000).iou < volume_iou(pred, ref, 10_000).iou - 0.2


def test_points_inside_a_box_have_a_closed_form() -> None:
    points = 2 * torch.rand(20_000, 3) - 1
    within, doubt = inside(points, surfaces.box(1, 1.2, 0.8))
    assert torch.equal(within, (points.abs() < torch.tensor([0.5, 0.6, 0.4])).all(1))
    assert not bool(doubt.any())


def test_an_overlap_is_inside() -> None:
    pair = surfaces.joined(surfaces.box(1, 1, 1), surfaces.box(1, 1, 1, at=(0.5, 0, 0)))
    assert inside(torch.tensor([[0.25, 0.1, 0.2]]), pair)[0].tolist() == [True]


def test_a_cavity_is_outside_if_it_faces_inwards() -> None:
    hull, core = surfaces.box(1, 1, 1), surfaces.box(0.5, 0.5, 0.5)
    centre = torch.tensor([[0.01, 0.02, 0.03]])
    assert inside(centre, surfaces.joined(hull, surfaces.flipped(core)))[0].tolist() == [False]
    assert inside(centre, surfaces.joined(hull, core))[0].tolist() == [True]


def test_a_mesh_inside_out_has_the_same_volume() -> None:
    ball = surfaces.sphere()
    assert volume_iou(surfaces.flipped(ball), ball, 5000).iou == 1


def test_an_open_mesh_is_in_doubt() -> None:
    closed = surfaces.box(1, 1, 1)
    opened = Surface(closed.vertices, closed.faces[2:])
    found = volume_iou(opened, closed, 5000)
    assert found.pred_ambiguous > 0.1
    assert found.ref_ambiguous == 0


def test_solids_of_closed_meshes_have_the_same_iou() -> None:
    assert solid_iou(surfaces.sphere(0.9), surfaces.sphere(1.0), 64) == pytest.approx(0.729, abs=0.02)
    one, beside = surfaces.box(1, 1, 1), surfaces.box(1, 1, 1, at=(0.5, 0, 0))
    assert solid_iou(one, beside, 48) == pytest.approx(1 / 3, abs=0.03)
    assert solid_iou(one, surfaces.box(1, 1, 1, at=(3, 0, 0)), 48) == 0
    assert solid_iou(one, one, 32) == 1


def test_a_solid_has_no_orientation_nor_walls_inside_nor_overlaps() -> None:
    hull = surfaces.box(1, 1, 1)
    assert solid_iou(surfaces.flipped(hull), hull, 32) == 1
    assert solid_iou(surfaces.joined(hull, surfaces.flipped(surfaces.sphere(0.3, 2))), hull, 32) == 1
    overlapping = surfaces.joined(surfaces.box(1, 1, 1), surfaces.box(1, 1, 1, at=(0.5, 0, 0)))
    assert solid_iou(overlapping, surfaces.box(1.5, 1, 1, at=(0.25, 0, 0)), 32) == 1


def test_an_opening_empties_a_solid() -> None:
    hull = surfaces.box(1, 1, 1)
    assert solid_iou(Surface(hull.vertices, hull.faces[2:]), hull, 32) < 0.3


def test_flat_meshes_have_no_volume() -> None:
    with pytest.raises(ValueError, match=r"^pred and ref must enclose a volume"):
        volume_iou(surfaces.triangle(), surfaces.triangle())


def test_arguments_are_checked() -> None:
    ball = surfaces.sphere(subdivisions=1)
    with pytest.raises(ValueError, match=r"^count must be positive"):
        volume_iou(ball, ball, 0)
    with pytest.raises(ValueError, match=r"^spread must be positive"):
        near_surface_iou(ball, ball, 0.0)
    with pytest.raises(ValueError, match=r"^resolution must be from 16 to 2048, got 8$"):
        solid_iou(ball, ball, 8)
    with pytest.raises(ValueError, match=r"^pred must be bool"):
        occupancy_iou(torch.ones(1), torch.ones(1, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"^pred and ref must be of one shape"):
        occupancy_iou(torch.ones(1, dtype=torch.bool), torch.ones(2, dtype=torch.bool))


@pytest.mark.gpu
def test_cuda_gives_the_same_volume() -> None:
    pred, ref = surfaces.sphere(0.9), surfaces.sphere(1.0)
    on_gpu = [Surface(s.vertices.cuda(), s.faces.cuda()) for s in (pred, ref)]
    assert volume_iou(*on_gpu, 5000).iou == volume_iou(pred, ref, 5000).iou
