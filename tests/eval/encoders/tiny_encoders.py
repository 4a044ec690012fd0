"""Tiny encoders of every architecture with random parameters, and random clouds."""

from __future__ import annotations

import torch
from torch import Tensor

from eval.encoders.catalogue import POINT_ENCODERS, PointEncoderSpec
from eval.encoders.clouds import prepare
from eval.encoders.openshape import OpenShapeConfig, openshape
from eval.encoders.point_encoder import PointEncoder
from eval.encoders.ulip import Ulip, UlipConfig
from eval.encoders.uni3d import Uni3D, Uni3DConfig

_UNI3D = {"width": 24, "depth": 2, "heads": 3, "hidden": 10, "image_tokens": 5, "image_classes": 7}
_UNI3D |= {"groups": 9, "group_size": 6, "dim": 8, "token_width": 12}
_OPENSHAPE = {"groups": 7, "radius": 0.5, "group_size": 12, "token_width": 16, "hidden": 20}
_OPENSHAPE |= {"width": 24, "depth": 2, "heads": 3, "head_dim": 5}


def tiny_uni3d(blocks: str) -> PointEncoder:
    return randomised(Uni3D(Uni3DConfig(blocks=blocks, **_UNI3D)))


def tiny_ulip(colours: bool) -> PointEncoder:
    config = UlipConfig(colours, depth=2, dim=8, width=24, heads=3, hidden=20, token_width=12, groups=9, group_size=6)
    return randomised(Ulip(config))


def tiny_openshape(dim: int | None) -> PointEncoder:
    return randomised(openshape(OpenShapeConfig(dim=dim, **_OPENSHAPE)))


TINY = {
    "uni3d-eva": lambda: tiny_uni3d("eva"),
    "uni3d-eva02-packed": lambda: tiny_uni3d("eva02-packed"),
    "uni3d-eva02-normed": lambda: tiny_uni3d("eva02-normed"),
    "ulip-colours": lambda: tiny_ulip(True),
    "ulip-xyz": lambda: tiny_ulip(False),
    "openshape-projected": lambda: tiny_openshape(8),
    "openshape-plain": lambda: tiny_openshape(None),
}


def randomised(encoder: PointEncoder, seed: int = 1) -> PointEncoder:
    """All parameters and statistics random, so that none can be forgotten without a difference."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in encoder.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            scale = 1 if "norm" in name or value.ndim < 2 else value[0].numel() ** -0.5
            value.copy_(noise.square() + 0.5 if name.endswith("running_var") else noise * scale)
    return encoder.requires_grad_(False)


def random_cloud(seed: int, points: int = 40, spec: PointEncoderSpec = POINT_ENCODERS["uni3d-b"]) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    xyz = torch.randn(points, 3, generator=generator)
    return prepare(xyz, torch.rand(points, 3, generator=generator), spec.clouds)
