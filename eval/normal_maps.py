"""Normal maps of a prediction and its reference from the same cameras: what PSNR, LPIPS and Normal-FID look at."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import Tensor

from eval.sharp_normals import normal_map
from eval.surface import Surface
from models.data.cameras import Camera

# Of equal maps, whose PSNR is infinite and would make every mean infinite.
PSNR_LIMIT = 100.0


def paired_normal_maps(pred: Surface, ref: Surface, cameras: Sequence[Camera]) -> Iterator[tuple[Tensor, Tensor]]:
    """Images 0..1, fp64 [H, W, 3], of both surfaces from each camera; 0.5 where nothing is seen.

    Normals are those of the triangles in the camera's frame, turned to the camera, as (n + 1) / 2.

    Raises:
        ValueError: no cameras.
    """
    if not cameras:
        raise ValueError("cameras must have at least one view")
    for camera in cameras:
        yield (normal_map(pred, camera) + 1) / 2, (normal_map(ref, camera) + 1) / 2


def normal_psnr(pred: Surface, ref: Surface, cameras: Sequence[Camera]) -> float:
    """Peak signal-to-noise ratio, dB, of all pixels of all views together; at most `PSNR_LIMIT`.

    Raises:
        ValueError: no cameras.
    """
    errors = [float((a - b).square().mean()) for a, b in paired_normal_maps(pred, ref, cameras)]
    mean = math.fsum(errors) / len(errors)
    return min(PSNR_LIMIT, -10 * math.log10(mean)) if mean > 0 else PSNR_LIMIT
