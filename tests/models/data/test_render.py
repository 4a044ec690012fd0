"""Renders show what was put before the camera: texels, lighting, coverage, depth and normals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from torch import Tensor

from models.data import render as module
from models.data.cameras import Camera, orbit
from models.data.rasterize import rasterize
from models.data.render import (
    AMBIENT,
    HEADLIGHT,
    KEY_DIRECTION,
    KEY_LIGHT,
    encode_srgb,
    normal_colors,
    render,
    save_png,
)
from models.data.textured import Material, TexturedMesh, decode_srgb, untextured

SQUARE = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], dtype=torch.float64)
CORNERS = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]], dtype=torch.float64)


def square(texture: Tensor | None = None, vertices: Tensor = SQUARE, uv: Tensor = CORNERS) -> TexturedMesh:
    mesh = untextured(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]), "square")
    return replace(mesh, uv=uv, materials=(Material("painted", texture=texture),))


def filling(size: int) -> Camera:
    """A camera whose image SQUARE fills."""
    return Camera((0, 0, 2), focal_mm=36, width=size, height=size)


def linear(rgb: Tensor) -> Tensor:
    return torch.from_numpy(decode_srgb(rgb.double().numpy()))


def reflected(mesh: TexturedMesh, camera: Camera) -> Tensor:
    """The colour of the surface alone, linear: the render over that of a white surface."""
    white = replace(mesh, materials=(Material("white"),) * len(mesh.materials), colors=torch.ones_like(mesh.colors))
    return linear(render(mesh, camera, supersample=1).rgb) / linear(render(white, camera, supersample=1).rgb)


def test_a_texture_as_large_as_the_image_is_seen_texel_by_texel() -> None:
    checks = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 255
    texture = checks.to(torch.uint8)[..., None].repeat(1, 1, 3)
    camera = filling(8)
    rgb = render(square(texture), camera, supersample=1).rgb
    white = render(square(), camera, supersample=1).rgb
    torch.testing.assert_close(rgb, white * checks[..., None] / 255, rtol=0, atol=1e-6)


def test_a_texture_stands_upright_in_its_own_colours() -> None:
    texture = torch.randint(0, 256, (8, 8, 3), dtype=torch.uint8)
    torch.testing.assert_close(reflected(square(texture), filling(8)), linear(texture / 255), rtol=1e-4, atol=1e-5)


def test_a_texture_goes_on_beyond_its_borders() -> None:
    texture = torch.randint(0, 256, (4, 2, 3), dtype=torch.uint8)
    seen = reflected(square(texture, uv=CORNERS * torch.tensor([4, 2]) - 3), filling(8))
    torch.testing.assert_close(seen, linear(texture / 255).repeat(2, 4, 1), rtol=1e-4, atol=1e-5)


def test_textures_of_different_sizes_belong_to_their_faces() -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).expand(5, 3, 3)
    green = torch.tensor([0, 255, 0], dtype=torch.uint8).expand(2, 7, 3)
    materials = Material("red", texture=red), Material("blue", (0.0, 0.0, 1.0)), Material("green", texture=green)
    mesh = replace(square(), materials=materials, material=torch.tensor([0, 2]))
    camera = filling(9)
    seen = (reflected(mesh, camera) > 0.5).long()
    triangle = rasterize(mesh.vertices, mesh.faces, camera).triangle
    assert torch.equal(seen, torch.eye(3, dtype=torch.int64)[triangle])


def test_a_texture_on_a_slanted_square_is_in_perspective() -> None:
    """u and v in closed form, from the ray's point on the plane; colour is linear in u between two texels' centres."""
    slanted = SQUARE.clone()
    slanted[:, 2] = 1.5 * SQUARE[:, 0]
    ramp = torch.tensor([[[0, 0, 0], [255, 255, 255]]], dtype=torch.uint8)
    uv = torch.stack([0.25 + 0.5 * CORNERS[:, 0], CORNERS[:, 1]], dim=1)
    camera = Camera((0, 0, 4), focal_mm=36, width=33, height=33)
    mesh = square(ramp, slanted, uv)
    hit = render(mesh, camera, supersample=1).mask == 1
    # Ray: x = t across, z = 4 - t; plane: z = 1.5 x.
    across = ((torch.arange(33) - 16) / 33).double().expand(33, 33)
    x = across * 4 / (1 + 1.5 * across)
    seen = reflected(mesh, camera)[..., 0]
    assert hit.sum() > 200
    torch.testing.assert_close(seen[hit], ((x + 1) / 2)[hit], rtol=1e-3, atol=1e-5)


def test_factor_and_vertex_colours_multiply() -> None:
    mesh = square()
    mesh = replace(mesh, materials=(Material("m", (0.5, 1.0, 0.25)),), colors=torch.full((4, 3), 0.5))
    torch.testing.assert_close(
        reflected(mesh, filling(4)), torch.tensor([0.25, 0.5, 0.125]).double().expand(4, 4, 3), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize(("elevation", "azimuth"), [(0, 0), (40, 130)])
def test_light_comes_from_the_shoulder_the_camera_and_everywhere(elevation: float, azimuth: float) -> None:
    camera = orbit(elevation, azimuth, width=33, height=33)
    to_world = camera.world_to_camera()[:3, :3].T
    for turn, expected in (
        (KEY_DIRECTION, AMBIENT + HEADLIGHT * KEY_DIRECTION[2] + KEY_LIGHT),  # faces the shoulder's lamp
        ((0.0, 0.0, 1.0), AMBIENT + HEADLIGHT + KEY_LIGHT * KEY_DIRECTION[2]),  # faces the camera
        ((0.8, 0.0, 0.6), AMBIENT + HEADLIGHT * 0.6),  # from the side: that lamp is behind it
    ):
        normal = torch.tensor(turn, dtype=torch.float64)
        across = torch.linalg.cross(torch.tensor([0.0, 1, 0], dtype=torch.float64), normal)
        across /= across.norm()
        frame = torch.stack([across, torch.linalg.cross(normal, across), normal], dim=1)
        rgb = linear(render(square(vertices=SQUARE @ (to_world @ frame).T), camera, supersample=1).rgb)
        assert rgb[16, 16].tolist() == pytest.approx([expected] * 3, rel=1e-5)


def test_depth_is_the_distance_from_the_plane_of_the_camera() -> None:
    seen = render(square(), Camera((0, 0, 4), width=32, height=32))
    covered = seen.depth.isfinite()
    assert covered.any()
    assert not covered.all()
    assert (seen.depth[covered] == 4).all()


@pytest.mark.parametrize("azimuth", [0, 77, 200])
def test_the_normals_of_a_sphere_are_those_of_a_ball_and_point_to_the_camera_at_its_centre(azimuth: float) -> None:
    sphere = trimesh.creation.icosphere(subdivisions=4)
    vertices = torch.from_numpy(np.array(sphere.vertices))
    mesh = untextured(vertices, torch.from_numpy(np.array(sphere.faces)), "sphere")
    camera = orbit(30, azimuth, radius=1, width=65, height=65)
    for normals, tolerance in ((torch.zeros_like(vertices), 0.05), (3 * vertices, 1e-3)):
        seen = render(replace(mesh, normals=normals), camera)
        np.testing.assert_allclose(seen.normal[32, 32], [0, 0, 1], atol=tolerance)
        hit = seen.depth.isfinite()
        torch.testing.assert_close(seen.normal[hit].norm(dim=-1), torch.ones(int(hit.sum())))
        assert (seen.normal[~hit] == 0).all()
        # The normal of a ball around the origin is the point itself, here in the camera's frame.
        y, x = torch.meshgrid(32 - torch.arange(65), torch.arange(65) - 32, indexing="ij")
        z = float(np.linalg.norm(camera.position)) - seen.depth
        expected = torch.stack([x * seen.depth / camera.focal, y * seen.depth / camera.focal, z], dim=-1)
        torch.testing.assert_close(seen.normal[hit], expected[hit], rtol=0, atol=max(tolerance, 0.005))


@pytest.mark.parametrize("smooth", [False, True])
def test_the_back_of_a_surface_looks_like_its_front(smooth: bool) -> None:
    mesh = square()
    if smooth:
        mesh = replace(mesh, normals=SQUARE + torch.tensor([0.0, 0, 3]))
    turned = replace(mesh, faces=mesh.faces.flip(1), normals=-mesh.normals)
    camera = orbit(20, 30, width=24, height=24)
    a, b = render(mesh, camera), render(turned, camera)
    torch.testing.assert_close(a.normal, b.normal)
    torch.testing.assert_close(a.rgb, b.rgb)


def test_samples_are_averaged_in_linear_light() -> None:
    """The right edge of the square halves the third of four columns."""
    part = SQUARE.clone()
    part[1:3, 0] = 0.25
    black = replace(square(vertices=part), materials=(Material("black", (0.0, 0.0, 0.0)),))
    seen = render(black, filling(4))
    assert seen.mask.tolist() == [[1, 1, 0.5, 0]] * 4
    torch.testing.assert_close(seen.rgb[0, :, 0], encode_srgb(torch.tensor([0.0, 0, 0.5, 1])))
    assert render(black, filling(4), supersample=4).mask.tolist() == seen.mask.tolist()
    assert set(render(black, filling(4), supersample=1).mask.flatten().tolist()) == {0, 1}


def test_a_background_has_its_colour_or_is_left_out() -> None:
    part = SQUARE.clone()
    part[1:3, 0] = 0.25
    mesh = replace(square(vertices=part), materials=(Material("red", (1.0, 0.0, 0.0)),))
    over = render(mesh, filling(4), background=(0.2, 0.4, 0.6)).rgb
    torch.testing.assert_close(over[0, 3], torch.tensor([0.2, 0.4, 0.6]))
    alone = render(mesh, filling(4), background=None)
    # A half covered pixel has the full colour, and its mask tells the rest.
    assert alone.rgb[0, 2].tolist() == pytest.approx(
        render(mesh, filling(4), supersample=1).rgb[0, 1].tolist(), abs=0.1
    )
    assert alone.rgb[0, 2, 1:].tolist() == [0, 0]
    assert alone.rgb[0, 3].tolist() == [0, 0, 0]
    assert alone.mask[0].tolist() == [1, 1, 0.5, 0]


def test_a_mesh_beside_the_image_leaves_the_background() -> None:
    seen = render(square(vertices=SQUARE + 100), Camera((0, 0, 4), width=8, height=8))
    torch.testing.assert_close(seen.rgb, torch.ones(8, 8, 3))
    assert (seen.mask == 0).all()


def test_shading_in_small_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    texture = torch.randint(0, 256, (4, 6, 3), dtype=torch.uint8)
    whole = render(square(texture), orbit(20, 30, width=24, height=18))
    monkeypatch.setitem(module._PIXELS, "cpu", 7)
    parts = render(square(texture), orbit(20, 30, width=24, height=18))
    torch.testing.assert_close(parts.rgb, whole.rgb)
    torch.testing.assert_close(parts.normal, whole.normal)


def test_srgb_there_and_back() -> None:
    bytes_ = torch.arange(256) / 255
    torch.testing.assert_close(encode_srgb(linear(bytes_)), bytes_.double())


def test_a_mesh_without_faces_and_no_samples_are_refused() -> None:
    nothing = untextured(SQUARE, torch.zeros(0, 3, dtype=torch.int64), "nothing")
    with pytest.raises(ValueError, match="at least one triangle"):
        render(nothing, filling(4))
    with pytest.raises(ValueError, match="supersample"):
        render(square(), filling(4), supersample=0)


def test_saved_images_hold_their_colours(tmp_path: Path) -> None:
    rgb = torch.rand(5, 7, 3)
    alpha = torch.rand(5, 7)
    save_png(tmp_path / "rgb.png", rgb)
    save_png(tmp_path / "rgba.png", rgb, alpha)
    save_png(tmp_path / "mask.png", alpha)
    expected = torch.cat([rgb, alpha[..., None]], dim=-1)
    for name, channels in (("rgb", slice(0, 3)), ("rgba", slice(0, 4)), ("mask", 3)):
        saved = np.asarray(Image.open(tmp_path / f"{name}.png"))
        np.testing.assert_allclose(saved / 255, expected[..., channels], atol=0.5001 / 255)


def test_normals_become_colours() -> None:
    assert normal_colors(torch.tensor([0.0, -1, 1])).tolist() == [0.5, 0, 1]


@pytest.mark.gpu
def test_a_gpu_renders_the_same() -> None:
    count = 600
    vertices = (0.4 * torch.randn(count, 1, 3) + 0.2 * torch.randn(count, 3, 3)).reshape(-1, 3)
    textures = torch.randint(0, 256, (16, 8, 3), dtype=torch.uint8), torch.randint(0, 256, (5, 9, 3), dtype=torch.uint8)
    mesh = replace(
        untextured(vertices, torch.arange(3 * count).view(-1, 3), "soup"),
        uv=torch.rand(3 * count, 2, dtype=torch.float64),
        material=torch.arange(count) % 3,
        materials=(Material("a", texture=textures[0]), Material("b"), Material("c", texture=textures[1])),
        normals=torch.randn(3 * count, 3, dtype=torch.float64) * (torch.arange(3 * count) % 6 < 3)[:, None],
    )
    camera = orbit(25, 70, width=120, height=90)
    host, device = render(mesh, camera), render(mesh.to("cuda"), camera)
    assert torch.equal(host.mask, device.mask.cpu())
    for name in ("rgb", "depth", "normal"):
        torch.testing.assert_close(getattr(device, name).cpu(), getattr(host, name), rtol=1e-5, atol=1e-5)
