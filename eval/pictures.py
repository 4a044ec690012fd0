"""Small pictures of shapes, and of how far their surface is from a reference."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from eval.nearest import nearest_on_surface
from eval.protocols.protocol import Views
from eval.surface import Surface
from models.data.cameras import Camera
from models.data.rasterize import rasterize
from models.data.render import render
from models.data.textured import untextured

# From the front right, a little from above; two samples along each side of a pixel.
VIEW = Views(elevation=20, azimuths=(35,), fov=30, size=280)
_SUPERSAMPLE = 2
# Distance at which the heat map is darkest, as a share of the reference's longest side.
HEAT_LIMIT = 0.01
# Of distances from 0 to the limit: sRGB bytes, pale to dark, told apart without telling hues.
HEAT_COLORS = np.array(
    [[245, 242, 232], [254, 217, 118], [253, 141, 60], [227, 26, 28], [110, 0, 45]], dtype=np.float64
)
_QUALITY = 82
# Of the picture's width or height that the reference's box takes, at most.
_FILL = 0.94
# Height of the captions of an overview, in pixels.
_CAPTION = 24


def thumbnail(surface: Surface, reference: Surface) -> Image.Image:
    """The surface in grey, seen as the reference is: the camera fits the reference."""
    shape = untextured(surface.vertices, surface.faces, surface.name)
    rgb = render(shape, _camera(reference), supersample=_SUPERSAMPLE).rgb
    return _image(rgb)


def heat_map(pred: Surface, ref: Surface) -> Image.Image:
    """The prediction, each pixel coloured by the distance of the place that it shows to the reference.

    Pixels, not vertices, because coarse meshes are wrong in the middle of their triangles.
    """
    camera = _camera(ref)
    fine = camera.at_size(camera.width * _SUPERSAMPLE, camera.height * _SUPERSAMPLE)
    white = untextured(pred.vertices, pred.faces, pred.name, color=(1.0, 1.0, 1.0))
    light = render(white, fine, supersample=1).rgb
    seen = rasterize(pred.vertices, pred.faces, fine)
    if bool(seen.hit.any()):
        corners = pred.corners[seen.triangle[seen.hit]]
        places = (seen.barycentric[seen.hit][:, :, None] * corners).sum(1)
        low, high = ref.bounds
        share = nearest_on_surface(places, ref).distance / (HEAT_LIMIT * float((high - low).max()))
        light[seen.hit] *= heat_color(share).to(light)
    small = light.view(camera.height, _SUPERSAMPLE, camera.width, _SUPERSAMPLE, 3).mean((1, 3))
    return _image(small)


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one height in a row."""
    sheet = Image.new("RGB", (sum(image.width for image in images), max(image.height for image in images)), "white")
    left = 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width
    return sheet


def overview(reference: Path, columns: Sequence[tuple[str, Path, Path]]) -> Image.Image:
    """One picture of an asset: the reference, then for each method its prediction over its heat map.

    Args:
        columns: caption, prediction and heat map; files that do not exist leave their place empty.
    """
    side, band = VIEW.size, _CAPTION
    sheet = Image.new("RGB", (side * (1 + len(columns)), band + 2 * side), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(band * 0.6)
    captions = ["reference", *(caption for caption, _, _ in columns)]
    files = [(reference,), *((prediction, error) for _, prediction, error in columns)]
    for place, (caption, below) in enumerate(zip(captions, files, strict=True)):
        draw.text((side * (place + 0.5), band / 2), caption, fill="black", font=font, anchor="mm")
        for row, file in enumerate(below):
            if file.exists():
                with Image.open(file) as image:
                    sheet.paste(image, (side * place, band + side * row))
    return sheet


def heat_color(share: Tensor) -> Tensor:
    """fp64 [N, 3] in 0..1 of distances [N] as shares of the limit; farther ones look like the limit."""
    place = share.double().clamp(0, 1) * (len(HEAT_COLORS) - 1)
    colors = torch.from_numpy(HEAT_COLORS).to(place.device) / 255
    low = place.floor().long().clamp(max=len(HEAT_COLORS) - 2)
    return torch.lerp(colors[low], colors[low + 1], (place - low)[:, None])


def save(image: Image.Image, path: Path) -> None:
    """As JPEG, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()
    image.save(data, format="JPEG", quality=_QUALITY, optimize=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data.getvalue())
    os.replace(temporary, path)


def _camera(reference: Surface) -> Camera:
    """With a focal length at which the corners of the reference's box just fit."""
    camera = VIEW.cameras(reference)[0]
    low, high = (end.cpu() for end in reference.bounds)
    corners = torch.cartesian_prod(*torch.stack([low, high], 1))
    matrix = camera.world_to_camera()
    x, y, z = (corners @ matrix[:3, :3].T + matrix[:3, 3]).unbind(1)
    reach = float((torch.stack([x, y]) / z).abs().max()) * camera.focal / (camera.width / 2)
    return replace(camera, focal_mm=camera.focal_mm * _FILL / reach)


def _image(rgb: Tensor) -> Image.Image:
    return Image.fromarray((rgb.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
