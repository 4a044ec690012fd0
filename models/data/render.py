"""Images of a mesh: colour, mask, depth and normals.

Light, on matt surfaces: a lamp far above the camera's left shoulder shows shape, one at the camera reaches all that is
seen, and a little comes from everywhere; so every view is lit alike. Light adds up in linear RGB, where samples are
averaged and laid over the background too; images are sRGB at the end. Textures have no smaller versions for distant
surfaces: `supersample` is what smooths them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.data.cameras import Camera
from models.data.rasterize import Fragments, rasterize
from models.data.textured import TexturedMesh, decode_srgb

WHITE = (1.0, 1.0, 1.0)
# Shares of the light on a surface that faces both lamps: from everywhere, from the camera, from the shoulder.
AMBIENT, HEADLIGHT, KEY_LIGHT = 0.15, 0.3, 0.55
# Pixels that are shaded at once: bounds memory, about 500 bytes a pixel.
_PIXELS = {"cuda": 2**22, "cpu": 2**15}
# From the surface to the shoulder's lamp, in the camera's frame.
KEY_DIRECTION = (-0.48, 0.64, 0.6)


@dataclass(frozen=True)
class Render:
    """Images of one view, top row first."""

    rgb: Tensor  # fp32 [H, W, 3], sRGB 0..1
    mask: Tensor  # fp32 [H, W], the share of the pixel that is covered
    depth: Tensor  # fp32 [H, W], at the pixel's centre: distance from the camera's plane, inf where nothing is
    normal: Tensor  # fp32 [H, W, 3], at the pixel's centre: unit, in the camera's frame (+z to the camera), else 0


def render(
    mesh: TexturedMesh,
    camera: Camera,
    *,
    supersample: int = 2,
    background: tuple[float, float, float] | None = WHITE,
) -> Render:
    """Render on the mesh's device.

    Surfaces are seen from both sides. Normals are the file's, interpolated, else those of the faces; they are turned to
    the side that is seen.

    Args:
        supersample: samples along each side of a pixel, averaged for `rgb` and `mask`.
        background: sRGB; None leaves what is not covered out, so that `rgb` and `mask` make an RGBA image.

    Raises:
        ValueError: no faces, or fewer than one sample.
    """
    if supersample < 1:
        raise ValueError(f"supersample must be positive, got {supersample}")
    fine = camera.at_size(camera.width * supersample, camera.height * supersample)
    centre = rasterize(mesh.vertices, mesh.faces, camera)
    samples = centre if supersample == 1 else rasterize(mesh.vertices, mesh.faces, fine)

    to_camera = camera.world_to_camera()[:3, :3].T.to(mesh.vertices)
    normal = _image(centre, lambda triangle, at: _facing(mesh, triangle, at, camera)[0] @ to_camera)
    palette = _Palette.of(mesh)
    light = _image(
        samples,
        lambda triangle, at: (
            palette.colors(mesh, triangle, at) * _lighting(*_facing(mesh, triangle, at, camera), camera)
        ),
    )
    mask = _box(samples.hit[..., None].float(), supersample)
    light = _box(light, supersample)
    if background is None:
        light = light / mask.clamp(min=1e-6)
    else:
        behind = torch.from_numpy(decode_srgb(np.asarray(background, dtype=np.float64))).to(light)
        light = light + (1 - mask) * behind
    return Render(encode_srgb(light), mask[..., 0], centre.depth.float(), normal)


def _image(fragments: Fragments, shade: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """fp32 [H, W, 3] from `shade` of triangles [P] and barycentric coordinates [P, 3], some at a time; else 0."""
    hit = fragments.hit
    some = _PIXELS[hit.device.type]
    parts = zip(fragments.triangle[hit].split(some), fragments.barycentric[hit].split(some), strict=True)
    image = torch.zeros(*hit.shape, 3, device=hit.device)
    image[hit] = torch.cat([shade(triangle, at).float() for triangle, at in parts])
    return image


def _box(image: Tensor, size: int) -> Tensor:
    """Means of squares of pixels: [H size, W size, C] to [H, W, C]."""
    height, width, channels = image.shape
    return image.view(height // size, size, width // size, size, channels).mean((1, 3))


def _interpolate(attribute: Tensor, faces: Tensor, barycentric: Tensor) -> Tensor:
    """[P, C] from [V, C], the corners [P, 3] and their weights [P, 3]."""
    first, second, third = faces.unbind(1)
    a, b, c = barycentric.to(attribute.dtype)[:, :, None].unbind(1)
    return a * attribute[first] + b * attribute[second] + c * attribute[third]


def _facing(mesh: TexturedMesh, triangle: Tensor, barycentric: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """In the world, fp64 [P, 3]: unit normals on the side that is seen, and unit vectors to the camera."""
    corners = mesh.faces[triangle]
    position = torch.tensor(camera.position, dtype=torch.float64, device=corners.device)
    toward = _unit(position - _interpolate(mesh.vertices, corners, barycentric))
    a, b, c = mesh.vertices[corners].unbind(1)
    flat = _turned(_unit(torch.linalg.cross(b - a, c - a)), toward)
    smooth = _turned(_unit(_interpolate(mesh.normals, corners, barycentric)), flat)
    return torch.where((smooth == 0).all(1, keepdim=True), flat, smooth), toward


def _unit(vectors: Tensor) -> Tensor:
    """Zero stays zero."""
    return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-300)


def _turned(vectors: Tensor, towards: Tensor) -> Tensor:
    """The vectors, those negated that point away from `towards`."""
    return torch.where((vectors * towards).sum(1, keepdim=True) < 0, -vectors, vectors)


def _lighting(normal: Tensor, toward: Tensor, camera: Camera) -> Tensor:
    """fp32 [P, 1] from unit vectors [P, 3] in the world."""
    key = (torch.tensor(KEY_DIRECTION, dtype=torch.float64) @ camera.world_to_camera()[:3, :3]).to(normal)
    from_camera = (normal * toward).sum(1, keepdim=True).clamp(min=0)
    from_shoulder = (normal * key).sum(1, keepdim=True).clamp(min=0)
    return (AMBIENT + HEADLIGHT * from_camera + KEY_LIGHT * from_shoulder).float()


@dataclass(frozen=True)
class _Palette:
    """All materials of a mesh; the textures lie behind each other in one row of texels, to be looked up at once."""

    factor: Tensor  # fp32 [M, 3], linear
    textured: Tensor  # bool [M]
    start: Tensor  # int64 [M], first texel
    height: Tensor  # int64 [M], 0 where there is no texture
    width: Tensor  # int64 [M]
    texels: Tensor  # uint8 [T, 3], sRGB
    linear: Tensor  # fp32 [256], of sRGB bytes

    @classmethod
    def of(cls, mesh: TexturedMesh) -> _Palette:
        device = mesh.faces.device
        textures = [m.texture for m in mesh.materials if m.texture is not None]
        shapes = [(0, 0) if m.texture is None else tuple(m.texture.shape[:2]) for m in mesh.materials]
        height, width = torch.tensor(shapes, device=device).unbind(1)
        size = height * width
        nothing = torch.empty(0, 3, dtype=torch.uint8, device=device)
        return cls(
            factor=torch.tensor([m.factor for m in mesh.materials], device=device),
            textured=size > 0,
            start=size.cumsum(0) - size,
            height=height,
            width=width,
            texels=torch.cat([nothing, *(texture.reshape(-1, 3) for texture in textures)]),
            linear=torch.from_numpy(decode_srgb(np.arange(256) / 255)).to(device, torch.float32),
        )

    def colors(self, mesh: TexturedMesh, triangle: Tensor, barycentric: Tensor) -> Tensor:
        """Linear RGB fp32 [P, 3]: factor times texture times vertex colour."""
        corners, material = mesh.faces[triangle], mesh.material[triangle]
        color = self.factor[material] * _interpolate(mesh.colors, corners, barycentric)
        painted = self.textured[material]
        if bool(painted.any()):
            uv = _interpolate(mesh.uv, corners[painted], barycentric[painted])
            color[painted] *= self._lookup(material[painted], uv)
        return color

    def _lookup(self, material: Tensor, uv: Tensor) -> Tensor:
        """Bilinear, wrapped around, linear RGB fp32 [P, 3], of textured materials [P] at uv fp64 [P, 2]."""
        start, height, width = self.start[material], self.height[material], self.width[material]
        x, y = uv[:, 0] * width - 0.5, (1 - uv[:, 1]) * height - 0.5
        left, top = x.floor(), y.floor()
        color = torch.zeros(len(uv), 3, device=uv.device)
        for column, across in ((left, left + 1 - x), (left + 1, x - left)):
            for row, down in ((top, top + 1 - y), (top + 1, y - top)):
                texel = start + (row.long() % height) * width + column.long() % width
                color += (across * down).float()[:, None] * self.linear[self.texels[texel].long()]
        return color


def encode_srgb(light: Tensor) -> Tensor:
    """sRGB from linear light, clipped to 0..1 (IEC 61966-2-1)."""
    light = light.clamp(0, 1)
    return torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


def normal_colors(normal: Tensor) -> Tensor:
    """Normals [..., 3] as colours 0..1: -1 is 0, +1 is 1; where there is none, mid grey."""
    return (normal + 1) / 2


def save_png(path: str | Path, image: Tensor, alpha: Tensor | None = None) -> None:
    """Write an image of 8 bits a channel.

    Args:
        image: floating [H, W, 3], colours 0..1, or [H, W], grey.
        alpha: floating [H, W], opacity 0..1.
    """
    from PIL import Image  # comes with matplotlib; most of this module's users save nothing

    if alpha is not None:
        image = torch.cat([image, alpha[..., None].to(image)], dim=-1)
    Image.fromarray((image.clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy()).save(path)
