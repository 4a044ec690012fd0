"""Pinhole cameras, and the sets of views that published protocols render.

Conventions, those of OpenGL and glTF: right-handed axes, the world's y up; a camera looks along its own -z, its x to
the right, its y up. Meshes keep the axes of their file. Elevation is above the horizontal plane y = 0. Azimuth is about
the y axis: 0 on the +z side, which glTF calls an object's front, 90 on the +x side. Images begin at their upper left
corner; centres of pixels are at halves; pixels are square. Angles are in degrees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# A full-frame sensor, as "focal length in mm" is commonly understood (Blender's default too); across the image's width.
SENSOR_MM = 36.0
# Of the sphere around the cube [-1, 1]^3.
CUBE_RADIUS = math.sqrt(3)

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Camera:
    """A camera at `position` that looks at `target`, its top towards `up`.

    Raises:
        ValueError: a place, direction, focal length or size that makes no camera.
    """

    position: Point
    target: Point = (0.0, 0.0, 0.0)
    focal_mm: float = 50.0
    width: int = 1024
    height: int = 1024
    up: Point = (0.0, 1.0, 0.0)

    def __post_init__(self) -> None:
        if not np.isfinite([*self.position, *self.target, *self.up]).all():
            raise ValueError("position, target and up of a camera must be finite")
        if not 0 < self.focal_mm < math.inf:
            raise ValueError(f"focal_mm must be positive and finite, got {self.focal_mm}")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"width and height must be positive, got {self.width} x {self.height}")
        backward = np.subtract(self.position, self.target, dtype=np.float64)
        across = np.linalg.norm(np.cross(self.up, backward))
        if not across > 1e-9 * np.linalg.norm(self.up) * np.linalg.norm(backward):
            raise ValueError(f"a camera at {self.position} cannot look at {self.target} with {self.up} upwards")

    def world_to_camera(self) -> Tensor:
        """fp64 [4, 4], for columns of homogeneous coordinates."""
        backward = np.subtract(self.position, self.target, dtype=np.float64)
        backward /= np.linalg.norm(backward)
        right = np.cross(self.up, backward)
        right /= np.linalg.norm(right)
        matrix = np.eye(4)
        matrix[:3, :3] = right, np.cross(backward, right), backward
        matrix[:3, 3] = -matrix[:3, :3] @ np.asarray(self.position)
        return torch.from_numpy(matrix)

    @property
    def focal(self) -> float:
        """Focal length in pixels."""
        return self.focal_mm / SENSOR_MM * self.width

    def intrinsics(self) -> Tensor:
        """fp64 [3, 3] K: a point (x, y, z) of the camera's frame is at K (x, -y, -z), homogeneous, in pixels."""
        return torch.tensor(
            [[self.focal, 0, self.width / 2], [0, self.focal, self.height / 2], [0, 0, 1]], dtype=torch.float64
        )

    @property
    def fov(self) -> float:
        """Field of view across the shorter side of the image."""
        return 2 * math.degrees(math.atan(min(self.width, self.height) / 2 / self.focal))

    def at_size(self, width: int, height: int) -> Camera:
        """The same camera with another number of pixels across its sensor."""
        return Camera(self.position, self.target, self.focal_mm, width, height, self.up)


def focal_of_fov(fov: float) -> float:
    """Focal length in mm of a horizontal field of view."""
    if not 0 < fov < 180:
        raise ValueError(f"fov must be between 0 and 180 degrees, got {fov}")
    return SENSOR_MM / 2 / math.tan(math.radians(fov) / 2)


def orbit(
    elevation: float,
    azimuth: float,
    *,
    focal_mm: float = 50.0,
    radius: float = CUBE_RADIUS,
    target: Point = (0.0, 0.0, 0.0),
    width: int = 1024,
    height: int = 1024,
) -> Camera:
    """A camera on a sphere around the target, so far away that a ball of `radius` touches the image's shorter sides."""
    if not -90 < elevation < 90:
        raise ValueError(f"elevation must be between -90 and 90 degrees, both excluded, got {elevation}")
    if not 0 < radius < math.inf:
        raise ValueError(f"radius must be positive and finite, got {radius}")
    if not 0 < focal_mm < math.inf:
        raise ValueError(f"focal_mm must be positive and finite, got {focal_mm}")
    half_fov = math.atan(min(width, height) / width * SENSOR_MM / 2 / focal_mm)
    distance = radius / math.sin(half_fov)
    e, a = math.radians(elevation), math.radians(azimuth)
    direction = (math.cos(e) * math.sin(a), math.sin(e), math.cos(e) * math.cos(a))
    x, y, z = (centre + distance * d for centre, d in zip(target, direction, strict=True))
    return Camera((x, y, z), target, focal_mm, width, height)


def bounding_radius(vertices: Tensor) -> float:
    """Radius of the smallest ball around the origin that holds the vertices [V, 3]: fits views to an object."""
    return float(vertices.norm(dim=1).max())


def turntable(
    views: int,
    *,
    elevation: float = 20.0,
    focal_mm: float = 50.0,
    radius: float = CUBE_RADIUS,
    size: int = 1024,
) -> list[Camera]:
    """Views at equal steps of azimuth, from the front on."""
    if views < 1:
        raise ValueError(f"views must be positive, got {views}")
    step = 360 / views
    return [orbit(elevation, step * i, focal_mm=focal_mm, radius=radius, width=size, height=size) for i in range(views)]


def direct3d_s2_views(seed: int, *, views: int = 45, radius: float = CUBE_RADIUS, size: int = 1024) -> list[Camera]:
    """Direct3D-S2's training views (arXiv 2505.17412): elevation 10 to 40, azimuth 0 to 180, focal length 30 to 100 mm.

    The paper gives neither the distributions, nor the origin of azimuth, nor the distance. Here the draws are uniform
    and independent, azimuth is as in `orbit`, and a ball of `radius` fits into every image.
    """
    if views < 1:
        raise ValueError(f"views must be positive, got {views}")
    low, high = np.array([[10, 0, 30], [40, 180, 100]])
    drawn = np.random.default_rng(seed).uniform(low, high, (views, 3)).tolist()
    return [orbit(e, a, focal_mm=focal, radius=radius, width=size, height=size) for e, a, focal in drawn]


def trellis2_views(*, radius: float = CUBE_RADIUS, size: int = 1024) -> list[Camera]:
    """The four views whose normal maps TRELLIS.2 compares (arXiv 2512.14692): pitch 30, yaw 30 to 300, field of view 6.

    The paper does not give the distance: here a ball of `radius` fits.
    """
    focal = focal_of_fov(6)
    return [orbit(30, yaw, focal_mm=focal, radius=radius, width=size, height=size) for yaw in (30, 120, 210, 300)]
