"""The rasterizer sees what a ray caster sees, without holes, on both sides of the camera's plane."""

from __future__ import annotations

import math

import pytest
import torch
import trimesh
from torch import Tensor

from models.data import rasterize as module
from models.data.cameras import Camera, orbit
from models.data.rasterize import NEAR, Fragments, rasterize


def rays(camera: Camera) -> tuple[Tensor, Tensor]:
    """Origin [3], and directions [H, W, 3] that are 1 long along the camera's axis, in the world."""
    inverse = torch.linalg.inv(camera.world_to_camera())
    y, x = torch.meshgrid(torch.arange(camera.height) + 0.5, torch.arange(camera.width) + 0.5, indexing="ij")
    x, y = (x.double() - camera.width / 2) / camera.focal, (camera.height / 2 - y.double()) / camera.focal
    local = torch.stack([x, y, -torch.ones_like(x)], dim=-1)
    return inverse[:3, 3], local @ inverse[:3, :3].T


def cast(vertices: Tensor, faces: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """Möller-Trumbore, every ray against every triangle: depth, inf where missed, and distance to the nearest edge in
    barycentric coordinates, negative outside; [H, W, F] each."""
    origin, direction = rays(camera)
    a, b, c = vertices.double()[faces].unbind(1)
    ab, ac = b - a, c - a
    direction = direction[:, :, None]
    p = torch.linalg.cross(direction, ac.expand(*direction.shape[:2], -1, -1))
    determinant = (ab * p).sum(-1)
    s = origin - a
    u = (s * p).sum(-1) / determinant
    q = torch.linalg.cross(s, ab)
    v = (direction * q).sum(-1) / determinant
    t = (ac * q).sum(-1) / determinant
    margin = torch.stack([u, v, 1 - u - v]).amin(0)
    return torch.where((margin >= 0) & (t > NEAR), t, torch.inf), margin


def random_soup(seed: int, count: int, size: float, spread: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = spread * torch.randn(count, 1, 3, generator=generator)
    corners = centres + size * torch.randn(count, 3, 3, generator=generator)
    return corners.reshape(-1, 3), torch.arange(3 * count).view(-1, 3)


def assert_as_cast(seen: Fragments, vertices: Tensor, faces: Tensor, camera: Camera) -> float:
    """Compares all pixels but those within 1e-6 of an edge or of two surfaces as near; returns the share compared."""
    depth, margin = cast(vertices, faces, camera)
    sure = (margin.abs() > 1e-6).all(-1)
    nearest, triangle = depth.sort(dim=-1)
    if len(faces) > 1:
        tied = nearest[..., 1] - nearest[..., 0] < 1e-6 * nearest[..., 0]
        sure &= ~tied
    expected = torch.where(nearest[..., 0].isfinite(), triangle[..., 0], -1)
    assert torch.equal(seen.triangle[sure], expected[sure])
    torch.testing.assert_close(seen.depth[sure], nearest[..., 0][sure], rtol=1e-5, atol=1e-5)
    hit = seen.hit & sure
    points = (seen.barycentric[..., None] * vertices.double()[faces[seen.triangle]]).sum(2)
    origin, direction = rays(camera)
    torch.testing.assert_close(points[hit], (origin + seen.depth[..., None] * direction)[hit], rtol=1e-9, atol=1e-9)
    return float(sure.double().mean())


@pytest.mark.parametrize(
    ("seed", "count", "size", "spread"),
    [(0, 1, 0.5, 0.1), (1, 60, 0.05, 0.5), (2, 60, 0.6, 0.5), (3, 300, 0.02, 0.4), (4, 20, 3.0, 1.0)],
)
def test_a_random_soup_looks_as_it_does_to_a_ray_caster(seed: int, count: int, size: float, spread: float) -> None:
    vertices, faces = random_soup(seed, count, size, spread)
    camera = orbit(20, 30 * seed, width=40, height=28)
    seen = rasterize(vertices, faces, camera)
    assert seen.hit.any()
    assert assert_as_cast(seen, vertices, faces, camera) > 0.99


@pytest.mark.parametrize("seed", range(4))
def test_triangles_through_the_plane_of_the_camera_are_seen_in_front_of_it(seed: int) -> None:
    vertices, faces = random_soup(seed, 12, 2.0, 0.5)
    camera = Camera((0, 0, 0.5), focal_mm=15, width=40, height=28)
    behind = (vertices[:, 2] > 0.5)[faces]
    assert (behind.any(1) & ~behind.all(1)).sum() > 3
    seen = rasterize(vertices, faces, camera)
    assert assert_as_cast(seen, vertices, faces, camera) > 0.99


def test_a_floor_from_the_camera_to_the_horizon_covers_the_lower_half() -> None:
    vertices = torch.tensor([[-1e4, -1, 1e4], [1e4, -1, 1e4], [0, -1, -1e8]])
    seen = rasterize(vertices, torch.tensor([[0, 1, 2]]), Camera((0, 0, 0), (0, 0, -1), width=16, height=16))
    assert not seen.hit[:8].any()
    assert seen.hit[8:].all()
    # A row y pixels below the horizon sees the floor, one unit below, at depth focal / y.
    rows = torch.arange(8) + 0.5
    focal = 50 / 36 * 16
    torch.testing.assert_close(seen.depth[8:], (focal / rows.double())[:, None].expand(8, 16))


@pytest.mark.parametrize("offset", [(0.0, 0.0, 6.0), (40.0, 0.0, 0.0), (0.0, -40.0, 0.0), (-40.0, 40.0, 0.0)], ids=str)
def test_what_is_behind_the_camera_or_beside_the_image_is_not_seen(offset: tuple[float, ...]) -> None:
    vertices = torch.eye(3) + torch.tensor(offset)
    seen = rasterize(vertices, torch.tensor([[0, 1, 2]]), Camera((0, 0, 5), width=16, height=16))
    assert (seen.triangle == -1).all()
    assert seen.depth.isinf().all()
    assert (seen.barycentric == 0).all()


@pytest.mark.parametrize(("depth", "seen"), [(0.5 * NEAR, False), (2 * NEAR, True)])
def test_nothing_is_seen_before_the_near_plane(depth: float, seen: bool) -> None:
    vertices = torch.tensor([[-9.0, -9, -depth], [9, -9, -depth], [0, 18, -depth]])
    hit = rasterize(vertices, torch.tensor([[0, 1, 2]]), Camera((0, 0, 0), (0, 0, -1), width=9, height=9)).hit
    assert hit.all() if seen else not hit.any()


def test_a_surface_is_seen_from_the_near_plane_on() -> None:
    """A wall beside the camera, from behind it to far ahead: each column sees it at another depth."""
    wall = torch.tensor([[0.002, -9.0, 1], [0.002, 9, 1], [0.002, 0, -9]])
    seen = rasterize(wall, torch.tensor([[0, 1, 2]]), Camera((0, 0, 0), (0, 0, -1), focal_mm=6, width=16, height=16))
    depth = 0.002 * (6 / 36 * 16) / (torch.arange(16) - 7.5).double()
    visible = depth > NEAR
    assert visible.sum() == 5
    assert torch.equal(seen.hit, visible.expand(16, 16))
    torch.testing.assert_close(seen.depth[:, visible], depth[visible].expand(16, -1))


def test_a_triangle_that_hides_all_is_seen_at_every_pixel() -> None:
    vertices = torch.tensor([[-1e3, -1e3, 0], [1e3, -1e3, 0], [0, 1e3, 0]])
    assert (rasterize(vertices, torch.tensor([[0, 1, 2]]), Camera((0, 0, 5), width=16, height=16)).triangle == 0).all()


@pytest.mark.parametrize("focal", [30, 100, 343.5])
def test_a_subdivided_sphere_has_no_holes(focal: float) -> None:
    sphere = trimesh.creation.icosphere(subdivisions=5)
    vertices, faces = torch.from_numpy(sphere.vertices), torch.from_numpy(sphere.faces)
    camera = orbit(0, 0, radius=1.1, focal_mm=focal, width=200, height=200)
    seen = rasterize(vertices, faces, camera)
    y, x = torch.meshgrid(torch.arange(200) - 99.5, torch.arange(200) - 99.5, indexing="ij")
    # The outline of the ball that the faceted sphere certainly fills, and of the one that it certainly does not leave.
    distance = math.hypot(*camera.position)
    radius = (x.square() + y.square()).sqrt() / camera.focal
    assert seen.hit[radius < 0.998 / math.sqrt(distance**2 - 0.998**2)].all()
    assert not seen.hit[radius > 1 / math.sqrt(distance**2 - 1)].any()
    # The far side lies beyond the distance of the centre: a hole would show it.
    assert (seen.depth[seen.hit] < distance).all()


def test_pixels_exactly_on_edges_and_corners_are_covered() -> None:
    """A grid whose lines go through the centres of all pixels, each square cut in two."""
    side = 17
    line = torch.arange(side) - 8.0
    vertices = torch.cartesian_prod(line, line, torch.zeros(1))
    corner = (torch.arange(side - 1)[:, None] * side + torch.arange(side - 1)).reshape(-1)
    faces = torch.cat(
        [
            torch.stack([corner, corner + 1, corner + side], 1),
            torch.stack([corner + 1, corner + side + 1, corner + side], 1),
        ]
    )
    # One unit is one pixel, and the image's centre is the centre of a pixel.
    camera = Camera((0, 0, 9), focal_mm=36, width=9, height=9)
    seen = rasterize(vertices, faces, camera)
    assert seen.hit.all()
    torch.testing.assert_close(seen.depth, torch.full((9, 9), 9.0, dtype=torch.float64))


def test_of_equally_near_triangles_the_first_is_seen() -> None:
    vertices = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [0, 1, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 1, 2], [2, 1, 0]])
    seen = rasterize(vertices, faces, Camera((0, 0, 5), width=16, height=16))
    assert set(seen.triangle.flatten().tolist()) == {-1, 0}


def test_triangles_without_area_are_not_seen() -> None:
    vertices = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [0, -1, 0], [0, 1, 0], [0, 1, 1]])
    faces = torch.tensor([[0, 1, 2], [0, 0, 0], [2, 3, 4]])  # the last is edge on
    assert not rasterize(vertices, faces, Camera((0, 0, 5), width=15, height=15)).hit.any()


def test_work_in_small_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    vertices, faces = random_soup(7, 80, 0.3, 0.4)
    camera = orbit(10, 10, width=33, height=21)
    whole = rasterize(vertices, faces, camera)
    monkeypatch.setitem(module._ROWS, "cpu", 5)
    monkeypatch.setitem(module._PAIRS, "cpu", 7)
    parts = rasterize(vertices, faces, camera)
    assert torch.equal(whole.triangle, parts.triangle)
    assert torch.equal(whole.depth, parts.depth)


@pytest.mark.parametrize(
    ("vertices", "faces", "message"),
    [
        (torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.int64), "at least one triangle"),
        (torch.full((3, 3), math.nan), torch.zeros(1, 3, dtype=torch.int64), "finite"),
        (torch.zeros(3, 3), torch.tensor([[0, 1, 3]]), "of the 3 vertices"),
        (torch.zeros(3, 2), torch.zeros(1, 3, dtype=torch.int64), "vertices"),
        (torch.zeros(3, 3), torch.zeros(1, 4, dtype=torch.int64), "faces"),
    ],
)
def test_what_is_no_mesh_is_refused(vertices: Tensor, faces: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rasterize(vertices, faces, Camera((0, 0, 5)))


@pytest.mark.gpu
@pytest.mark.parametrize("near", [False, True])
def test_a_gpu_sees_the_same(near: bool) -> None:
    vertices, faces = random_soup(5, 5000, 0.05, 0.3)
    camera = Camera((0, 0, 0.3), focal_mm=15, width=160, height=120) if near else orbit(25, 70, width=160, height=120)
    host = rasterize(vertices, faces, camera)
    device = rasterize(vertices.cuda(), faces.cuda(), camera)
    assert torch.equal(host.triangle, device.triangle.cpu())
    torch.testing.assert_close(device.depth.cpu(), host.depth, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(device.barycentric.cpu(), host.barycentric, rtol=1e-9, atol=1e-9)
