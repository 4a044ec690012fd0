"""Sharp points lie along the edges of a shape; extra points complete the blocks of the band."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapes
import torch

from models.data.masks import extra_voxels, sharp_voxels
from models.data.sdf import SparseSDF, sparse_sdf

R = 32
STEP = 2 / R


@pytest.mark.parametrize("turn", [np.eye(3), shapes.rotation(2)], ids=["along the grid", "rotated"])
def test_sharp_points_of_a_box_lie_along_all_its_edges(turn: np.ndarray) -> None:
    half = np.array([0.5, 0.4, 0.3])
    field = sparse_sdf(*shapes.moved(shapes.box(*2 * half), turn), R)
    sharp = field.positions[sharp_voxels(field)].double().numpy() @ turn
    beyond = np.sort(np.abs(np.abs(sharp) - half), axis=1)
    to_edge = np.hypot(beyond[:, 0], beyond[:, 1])  # of the lines through the edges
    assert to_edge.max() < math.sqrt(2) * field.tau + math.sqrt(3) * STEP
    for axis in range(3):
        for signs in np.ndindex(2, 2, 2):
            edge = half * (2 * np.array(signs) - 1)
            for t in np.linspace(-1, 1, 9):
                place = np.where(np.arange(3) == axis, t * half, edge)
                assert np.linalg.norm(sharp - place, axis=1).min() < math.sqrt(3) * STEP


def test_nothing_is_sharp_on_a_sphere() -> None:
    assert not bool(sharp_voxels(sparse_sdf(*shapes.sphere(subdivisions=4), R)).any())


def test_the_two_faces_of_a_thin_sheet_are_no_edge() -> None:
    field = sparse_sdf(*shapes.square(1.0, at=(0, 0, 0.4 * STEP)), R)
    inner = (field.positions[:, :2].abs() < 0.5 - 2 * STEP).all(1)
    assert bool(inner.any())
    assert not bool((sharp_voxels(field) & inner).any())


def test_a_larger_angle_marks_fewer_points() -> None:
    field = sparse_sdf(*shapes.moved(shapes.box(1, 0.8, 0.6), shapes.rotation(2)), R)
    narrow, wide = (sharp_voxels(field, math.radians(angle)) for angle in (20, 60))
    assert 0 < int(wide.sum()) < int(narrow.sum())
    assert not bool((wide & ~narrow).any())


@pytest.mark.parametrize("factor", [4, 8])
@pytest.mark.parametrize("tau", [2 * STEP, 3 * STEP])
def test_extra_points_complete_the_blocks_with_the_right_sides(factor: int, tau: float) -> None:
    turn, extents = shapes.rotation(1), (1.2, 1.0, 0.9)
    field = sparse_sdf(*shapes.moved(shapes.box(*extents), turn), R, tau=tau)
    signed = shapes.box_distance(shapes.grid_points(R) @ turn, *extents).reshape(R, R, R)
    band = ~np.isnan(shapes.values_at(field)).reshape(R, R, R)
    blocks = band.reshape(R // factor, factor, R // factor, factor, R // factor, factor).any((1, 3, 5))
    expected = np.kron(blocks, np.ones((factor,) * 3, dtype=bool)) & ~band
    coords, values = extra_voxels(field, factor)
    assert coords.dtype == torch.int32
    assert values.dtype == torch.float32
    np.testing.assert_array_equal(coords.numpy(), np.argwhere(expected))
    np.testing.assert_allclose(values.numpy(), np.where(signed[expected] < 0, -tau, tau), rtol=1e-6)
    assert {*np.sign(values.tolist())} == {-1, 1}


def test_a_point_between_both_sides_is_outside() -> None:
    # Fields of thin parts do this: the sum of what is around the point in the middle stays zero.
    ends = torch.tensor([[0, 0, 0], [6, 0, 0]], dtype=torch.int32)
    coords, values = extra_voxels(SparseSDF(ends, torch.tensor([STEP, -STEP]), R, 2 * STEP))
    assert len(coords) == 8**3 - 2
    side = dict(zip(map(tuple, coords.tolist()), values.tolist(), strict=True))
    assert {x: side[x, 0, 0] / (2 * STEP) for x in (1, 2, 3, 4, 5, 7)} == {1: 1, 2: 1, 3: 1, 4: -1, 5: -1, 7: -1}


def test_an_empty_field_has_no_masks() -> None:
    field = SparseSDF(torch.empty(0, 3, dtype=torch.int32), torch.empty(0), R, 2 * STEP)
    assert len(sharp_voxels(field)) == 0
    coords, values = extra_voxels(field)
    assert coords.shape == (0, 3)
    assert values.shape == (0,)


def test_bad_arguments_are_refused() -> None:
    field = sparse_sdf(*shapes.box(1, 1, 1), R)
    with pytest.raises(ValueError, match=r"^angle must be between 0 and pi / 2, got 2$"):
        sharp_voxels(field, 2.0)
    for factor in (1, 5):
        with pytest.raises(ValueError, match=f"^factor must be at least 2 and divide the resolution 32, got {factor}$"):
            extra_voxels(field, factor)
    with pytest.raises(ValueError, match=r"^field must reach farther than one grid step of 0\.0625, got 0\.0625$"):
        extra_voxels(sparse_sdf(*shapes.box(1, 1, 1), R, tau=STEP))


@pytest.mark.gpu
def test_masks_on_cuda_are_those_on_the_cpu() -> None:
    field = sparse_sdf(*shapes.moved(shapes.box(1, 0.8, 0.6), shapes.rotation(2)), 64)
    on_gpu = SparseSDF(field.coords.cuda(), field.values.cuda(), field.resolution, field.tau)
    different = sharp_voxels(on_gpu).cpu() != sharp_voxels(field)
    assert float(different.float().mean()) < 1e-3  # angles at the threshold, to rounding
    for ours, theirs in zip(extra_voxels(on_gpu), extra_voxels(field), strict=True):
        assert torch.equal(ours.cpu(), theirs)
