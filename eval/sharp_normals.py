"""Sharp normal error (Dora, 2412.17808): how far normal maps are apart at edges.

Dora renders normal maps of both shapes from 22 views, finds edges in them with Canny's detector, widens these to a mask
and takes the mean squared error of the normals inside it. Neither its code nor its cameras and thresholds are public;
those here are stated, so values compare with each other but not with Dora's table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy import ndimage
from torch import Tensor

from eval.rays import sphere_directions
from eval.surface import Surface
from models.data.cameras import CUBE_RADIUS, Camera, orbit
from models.data.rasterize import rasterize

VIEWS = 22
# Standard deviation of the blur before edges are looked for, in pixels.
_BLUR = 1.0
# Steps between two pixels of the image, whose channels are 0..1: an edge has one as large as the second, and goes on
# while they are as large as the first. OpenCV's customary 100 and 200 on bytes are about these.
_THRESHOLDS = (0.1, 0.2)
# Gradient of a step of 1, half a pixel from it, by the derivative of the blur.
_STEP_GRADIENT = 0.3636
# By which edges are widened, in pixels.
_WIDEN = 3


@dataclass(frozen=True)
class SharpNormalError:
    """Means of |n_pred - n_ref|^2 over pixels, 0..4."""

    sharp: float  # of the pixels near edges; 0 where there are none
    all: float  # of the pixels that show either surface
    sharp_share: float  # of those pixels, which share is near edges


def sphere_views(count: int = VIEWS, *, radius: float = CUBE_RADIUS, size: int = 512) -> list[Camera]:
    """Cameras spread evenly around a ball of `radius` at the origin, which fits into their images of size x size."""
    directions = sphere_directions(count).tolist()
    return [
        orbit(math.degrees(math.asin(y)), math.degrees(math.atan2(x, z)), radius=radius, width=size, height=size)
        for x, y, z in directions
    ]


def sharp_normal_error(pred: Surface, ref: Surface, cameras: Sequence[Camera]) -> SharpNormalError:
    """Error of normal maps over all views together; edges of either surface count.

    Pixels where only one surface is seen count with the other's normal zero, an error of 1.

    Raises:
        ValueError: no cameras, or no view that shows anything.
    """
    if not cameras:
        raise ValueError("cameras must have at least one view")
    total = sharp_total = 0.0
    seen_count = sharp_count = 0
    for camera in cameras:
        maps = normal_map(pred, camera), normal_map(ref, camera)
        error = (maps[0] - maps[1]).square().sum(2)
        seen = (maps[0] != 0).any(2) | (maps[1] != 0).any(2)
        sharp = seen & _widened(edges(maps[0]) | edges(maps[1]))
        total, sharp_total = total + float(error[seen].sum()), sharp_total + float(error[sharp].sum())
        seen_count, sharp_count = seen_count + int(seen.sum()), sharp_count + int(sharp.sum())
    if not seen_count:
        raise ValueError("cameras show neither surface")
    return SharpNormalError(
        sharp=sharp_total / sharp_count if sharp_count else 0.0,
        all=total / seen_count,
        sharp_share=sharp_count / seen_count,
    )


def normal_map(surface: Surface, camera: Camera) -> Tensor:
    """Unit normals of the triangles seen, in the camera's frame, fp64 [H, W, 3], turned to the camera; else 0."""
    triangle = rasterize(surface.vertices, surface.faces, camera).triangle
    to_camera = camera.world_to_camera()[:3, :3].T.to(surface.vertices)
    position = torch.tensor(camera.position, dtype=torch.float64, device=surface.vertices.device)
    toward = position - surface.corners[:, 0]  # any place of a plane tells its side
    facing = (surface.normals * toward).sum(1, keepdim=True) < 0
    normals = torch.where(facing, -surface.normals, surface.normals) @ to_camera
    return torch.where((triangle >= 0)[..., None], normals[triangle.clamp(min=0)], 0)


def edges(normals: Tensor) -> Tensor:
    """Edges of a normal map [H, W, 3], bool [H, W]: Canny, "A Computational Approach to Edge Detection" (1986).

    Each pixel takes the channel with the largest gradient; an edge pixel's is the largest across the edge.
    """
    image = ((normals + 1) / 2).cpu().numpy()
    rows, columns = (
        torch.from_numpy(ndimage.gaussian_filter(image, (_BLUR, _BLUR, 0), order=order))
        for order in ((1, 0, 0), (0, 1, 0))
    )
    channel = (rows.square() + columns.square()).argmax(2, keepdim=True)
    dy, dx = rows.gather(2, channel)[..., 0], columns.gather(2, channel)[..., 0]
    size = torch.hypot(dx, dy)
    unit = size.clamp(min=1e-12)
    grid = torch.stack(torch.meshgrid(*(torch.arange(n, dtype=size.dtype) for n in size.shape), indexing="ij"))
    step = torch.stack([dy / unit, dx / unit])
    beside = [
        torch.from_numpy(ndimage.map_coordinates(size.numpy(), (grid + sign * step).numpy(), order=1, mode="nearest"))
        for sign in (-1, 1)
    ]
    ridge = (size >= beside[0]) & (size > beside[1])
    low, high = (ridge & (size >= threshold * _STEP_GRADIENT) for threshold in _THRESHOLDS)
    strokes, _ = ndimage.label(low.numpy(), structure=[[1, 1, 1]] * 3)
    labels = torch.from_numpy(strokes).long()
    kept = torch.zeros(int(labels.max()) + 1, dtype=torch.bool)
    kept[labels[high]] = True
    kept[0] = False
    return kept[labels].to(normals.device)


def _widened(mask: Tensor) -> Tensor:
    """The mask and all within `_WIDEN` pixels of it, in rows, columns and diagonals."""
    wide = torch.nn.functional.max_pool2d(mask[None, None].float(), 2 * _WIDEN + 1, stride=1, padding=_WIDEN)
    return wide[0, 0] > 0
