"""PSNR of normal maps, against values that are known beforehand."""

from __future__ import annotations

import math

import pytest
import torch
from surfaces import box, sphere

from eval.normal_maps import PSNR_LIMIT, normal_psnr, paired_normal_maps
from eval.protocols.protocol import Views
from eval.surface import Surface

VIEWS = Views(elevation=0, azimuths=(0, 90), fov=6, size=64)


def test_equal_surfaces_reach_the_limit() -> None:
    assert normal_psnr(box(1, 1, 1), box(1, 1, 1), VIEWS.cameras(box(1, 1, 1))) == PSNR_LIMIT


def test_a_wall_seen_straight_and_an_empty_view() -> None:
    wall = box(1, 1, 1)
    far = Surface(wall.vertices + 100, wall.faces)
    cameras = VIEWS.cameras(wall)
    maps = list(paired_normal_maps(far, wall, cameras))
    seen = [float((b != 0.5).any(2).double().mean()) for _, b in maps]
    # Where the wall is seen its normal is (0, 0, 1), so the map differs from the background by 0.5 in one channel.
    expected = -10 * math.log10(0.25 / 3 * sum(seen) / len(seen))
    assert normal_psnr(far, wall, cameras) == pytest.approx(expected)


def test_maps_are_in_the_frame_of_the_camera() -> None:
    for pred, _ in paired_normal_maps(sphere(), sphere(), VIEWS.cameras(sphere())):
        torch.testing.assert_close(pred[32, 32], torch.tensor([0.5, 0.5, 1.0]).double(), atol=0.05, rtol=0)
        assert bool((pred >= 0).all() & (pred <= 1).all())
        assert bool((pred[0, 0] == 0.5).all())


def test_a_ball_around_the_reference_fits_wherever_it_is() -> None:
    ref = sphere(0.01, at=(5, -3, 2))
    for image, _ in paired_normal_maps(ref, ref, VIEWS.cameras(ref)):
        border = torch.cat([image[0], image[-1], image[:, 0], image[:, -1]])
        assert bool((border == 0.5).all())
        assert bool((image != 0.5).any())


def test_no_cameras_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one view"):
        normal_psnr(sphere(), sphere(), [])
