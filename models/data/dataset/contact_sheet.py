"""One picture of many samples, to look at."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from models.data.cameras import bounding_radius, orbit
from models.data.dataset.reading import PreparedDataset
from models.data.render import Render, render
from models.data.textured import untextured

TILE = 220  # pixels along the side of a render
_LINE = 15  # pixels
_MARGIN = 8


def contact_sheet(dataset: PreparedDataset, count: int = 48) -> Image.Image:
    """Renders of up to `count` samples at equal distances through the dataset, with caption, split and voxels.

    A sample's first view is shown, else its mesh is rendered plainly.
    """
    shown = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)).tolist()
    columns = min(len(shown), max(1, math.ceil(math.sqrt(len(shown) * 1.5))))
    rows = math.ceil(len(shown) / columns)
    cell = TILE + _MARGIN, TILE + 2 * _LINE + _MARGIN
    sheet = Image.new("RGB", (columns * cell[0] + _MARGIN, rows * cell[1] + _MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    title, small = ImageFont.load_default(12), ImageFont.load_default(10)
    for place, index in enumerate(shown):
        left, top = (place % columns) * cell[0] + _MARGIN, (place // columns) * cell[1] + _MARGIN
        sheet.paste(_picture(dataset, index), (left, top))
        entry = dataset.entries[index]
        voxels = ", ".join(f"{number:,} at {resolution}" for resolution, number in entry.voxels.items())
        pen.text((left, top + TILE), _fitted(entry.caption or entry.key, title), "black", title)
        pen.text((left, top + TILE + _LINE), _fitted(f"{entry.split}, voxels {voxels}", small), "#666666", small)
    return sheet


def _picture(dataset: PreparedDataset, index: int) -> Image.Image:
    views = dataset.views(index)
    if views:
        view = views[0].render
    else:
        sample = dataset[index]
        if sample.vertices is None or sample.faces is None:
            raise ValueError("the dataset must be opened with mesh=True or views=True")
        mesh = untextured(sample.vertices, sample.faces.long(), sample.key)
        camera = orbit(20, 30, radius=bounding_radius(mesh.vertices), width=TILE, height=TILE)
        view = render(mesh, camera, background=None)
    return _on_white(view).resize((TILE, TILE), Image.Resampling.LANCZOS, _square(view.mask))


def _on_white(view: Render) -> Image.Image:
    rgb = view.rgb * view.mask[..., None] + 1 - view.mask[..., None]
    return Image.fromarray((rgb * 255).round().to(torch.uint8).numpy())


def _square(mask: torch.Tensor) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a square in the image, around what is covered if it can be."""
    height, width = mask.shape
    rows, columns = mask.nonzero(as_tuple=True)
    if not len(rows):
        return 0, 0, width, height
    (top, bottom), (left, right) = ((int(ends[0]), int(ends[1]) + 1) for ends in (rows.aminmax(), columns.aminmax()))
    side = min(max(bottom - top, right - left) + 2, width, height)
    x = min(max((left + right - side) // 2, 0), width - side)
    y = min(max((top + bottom - side) // 2, 0), height - side)
    return x, y, x + side, y + side


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Text cut to the width of a tile."""
    if font.getlength(text) <= TILE:
        return text
    while text and font.getlength(f"{text}…") > TILE:
        text = text[:-1]
    return f"{text}…"
