"""Cameras follow the stated conventions, and the protocols' views have the published numbers."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from models.data.cameras import (
    Camera,
    bounding_radius,
    direct3d_s2_views,
    focal_of_fov,
    orbit,
    trellis2_views,
    turntable,
)

CUBE = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=torch.float64)


def project(points: Tensor, camera: Camera) -> Tensor:
    """Pixels [N, 2] by the documented matrices."""
    matrix = camera.world_to_camera()
    x, y, z = (points @ matrix[:3, :3].T + matrix[:3, 3]).unbind(1)
    image = torch.stack([x, -y, -z], dim=1) @ camera.intrinsics().T
    return image[:, :2] / image[:, 2:]


def elevation_azimuth(camera: Camera) -> tuple[float, float]:
    x, y, z = camera.position
    return math.degrees(math.asin(y / math.hypot(x, y, z))), math.degrees(math.atan2(x, z)) % 360


def test_a_camera_in_front_sees_x_to_the_right_and_y_up() -> None:
    camera = Camera((0, 0, 5), width=200, height=100, focal_mm=36)
    points = torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)
    # The focal length is the width of the sensor: 200 pixels; at distance 5 a unit is 40 pixels.
    assert project(points, camera).tolist() == [[100, 50], [140, 50], [100, 10]]


def test_the_world_to_camera_matrix_is_a_rotation_and_places_the_camera_at_the_origin() -> None:
    camera = Camera((3, 2, -1), target=(0.5, 0.25, 0.125))
    matrix = camera.world_to_camera()
    torch.testing.assert_close(matrix[:3, :3] @ matrix[:3, :3].T, torch.eye(3, dtype=torch.float64))
    assert torch.linalg.det(matrix[:3, :3]) == pytest.approx(1)
    position = torch.tensor([*camera.position, 1.0], dtype=torch.float64)
    torch.testing.assert_close(matrix @ position, torch.tensor([0.0, 0, 0, 1], dtype=torch.float64))


@pytest.mark.parametrize("target", [(0.0, 0.0, 0.0), (0.3, -0.2, 0.7)])
def test_the_target_is_at_the_centre_of_the_image(target: tuple[float, float, float]) -> None:
    camera = orbit(33, 217, target=target, width=640, height=480)
    centre = project(torch.tensor([target], dtype=torch.float64), camera)
    torch.testing.assert_close(centre, torch.tensor([[320, 240]], dtype=torch.float64))


def test_azimuth_is_0_in_front_and_90_on_the_right() -> None:
    for azimuth, axis, sign in ((0, 2, 1), (90, 0, 1), (180, 2, -1), (270, 0, -1)):
        position = orbit(0, azimuth).position
        assert sign * position[axis] == pytest.approx(math.hypot(*position))
    assert orbit(89, 0).position[1] > 0


@pytest.mark.parametrize(("width", "height"), [(512, 512), (640, 480), (300, 500)])
@pytest.mark.parametrize("focal", [20, 50, 300])
def test_a_ball_touches_the_shorter_sides(width: int, height: int, focal: float) -> None:
    camera = orbit(20, 40, radius=0.8, focal_mm=focal, width=width, height=height)
    distance = math.hypot(*camera.position)
    assert math.degrees(math.asin(0.8 / distance)) == pytest.approx(camera.fov / 2)


def test_a_field_of_view_of_90_degrees_has_half_the_sensor_as_focal_length() -> None:
    assert focal_of_fov(90) == pytest.approx(18)
    assert Camera((0, 0, 1), focal_mm=focal_of_fov(6)).fov == pytest.approx(6)


def test_direct3d_s2_has_45_views_in_the_published_ranges() -> None:
    views = direct3d_s2_views(seed=1)
    assert len(views) == 45
    assert {(view.width, view.height) for view in views} == {(1024, 1024)}
    for values, low, high in (
        ([elevation_azimuth(view)[0] for view in views], 10, 40),
        ([elevation_azimuth(view)[1] for view in views], 0, 180),
        ([view.focal_mm for view in views], 30, 100),
    ):
        assert low <= min(values) < low + (high - low) / 4
        assert high - (high - low) / 4 < max(values) <= high


def test_direct3d_s2_views_are_those_of_their_seed() -> None:
    assert direct3d_s2_views(seed=1) == direct3d_s2_views(seed=1)
    assert direct3d_s2_views(seed=1) != direct3d_s2_views(seed=2)


def test_trellis2_has_four_views_of_pitch_30_and_6_degrees() -> None:
    views = trellis2_views()
    assert [elevation_azimuth(view) for view in views] == [pytest.approx((30, yaw)) for yaw in (30, 120, 210, 300)]
    assert [view.fov for view in views] == pytest.approx([6] * 4)


def test_a_turntable_goes_round_in_equal_steps() -> None:
    assert [elevation_azimuth(view)[1] for view in turntable(4)] == pytest.approx([0, 90, 180, 270])


@pytest.mark.parametrize("views", [direct3d_s2_views(0, size=64), trellis2_views(size=64), turntable(7, size=64)])
def test_the_cube_is_inside_every_image(views: list[Camera]) -> None:
    for view in views:
        pixels = project(CUBE, view)
        assert 0 <= pixels.min() <= pixels.max() <= 64


def test_the_ball_of_an_object_holds_its_farthest_vertex() -> None:
    assert bounding_radius(torch.tensor([[0.0, 3, 4], [1, 1, 1]])) == 5


def test_another_size_keeps_the_view() -> None:
    camera = orbit(10, 20, width=100, height=50)
    torch.testing.assert_close(project(CUBE, camera.at_size(300, 150)), 3 * project(CUBE, camera))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"position": (0, 0, 0)}, "cannot look at"),
        ({"position": (0, 4, 0)}, "cannot look at"),
        ({"position": (math.nan, 0, 1)}, "finite"),
        ({"position": (0, 0, 1), "focal_mm": 0}, "focal_mm"),
        ({"position": (0, 0, 1), "height": 0}, "width and height"),
    ],
)
def test_what_makes_no_camera_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Camera(**arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: orbit(90, 0), "elevation"),
        (lambda: orbit(0, 0, radius=0), "radius"),
        (lambda: orbit(0, 0, focal_mm=-1), "focal_mm"),
        (lambda: focal_of_fov(180), "fov"),
        (lambda: turntable(0), "views"),
        (lambda: direct3d_s2_views(0, views=0), "views"),
    ],
)
def test_arguments_out_of_range_are_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
