"""Point encoders as data: architecture, preparation of clouds, the towers they are aligned with.

All published ones, and a stand-in trained by this project, which is kept apart and never goes by a published name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from eval.encoders.clouds import CloudPolicy
from eval.encoders.openshape import OpenShapeConfig, openshape
from eval.encoders.point_encoder import PointEncoder
from eval.encoders.point_standin import PointStandIn, PointStandInConfig
from eval.encoders.ulip import Ulip, UlipConfig
from eval.encoders.uni3d import Uni3D, Uni3DConfig


@dataclass(frozen=True)
class Tower:
    """Image and text encoder of one space, by the names that open_clip gives."""

    architecture: str
    pretrained: str | None  # None: open_clip does not have these weights
    dim: int
    url: str  # of a file with the weights


EVA02_E = Tower(
    "EVA02-E-14-plus",
    "laion2b_s9b_b144k",
    1024,
    "https://huggingface.co/timm/eva02_enormous_patch14_plus_clip_224.laion2b_s9b_b144k",
)
BIG_G = Tower(
    "ViT-bigG-14", "laion2b_s39b_b160k", 1280, "https://huggingface.co/laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"
)
# OpenAI trained with a quick approximation of GELU.
CLIP_L = Tower("ViT-L-14-quickgelu", "openai", 768, "https://huggingface.co/timm/vit_large_patch14_clip_224.openai")
CLIP_B = Tower("ViT-B-32-quickgelu", "openai", 512, "https://huggingface.co/timm/vit_base_patch32_clip_224.openai")


_ULIP_URL = "https://huggingface.co/datasets/SFXX/ulip/blob/main/ULIP-2/pretrained_models/"
_ULIP_8K = "ULIP-2-PointBERT-8k-xyz-pc-slip_vit_b-objaverse-pretrained.pt"
# Its weights lie beside those of the point encoder (eval.encoders.slip).
SLIP_B = Tower("SLIP-ViT-B-16", None, 512, _ULIP_URL + _ULIP_8K)

# Parameters of towers that ULIP's files hold beside the encoder's.
ULIP_TOWERS = (
    "visual.",
    "transformer.",
    "token_embedding.",
    "positional_embedding",
    "ln_final.",
    "image_projection",
    "text_projection",
    "open_clip_model.",
)


@dataclass(frozen=True)
class PointEncoderSpec:
    """A point encoder."""

    name: str
    build: Callable[[], PointEncoder]  # with random weights
    dim: int  # of the embedding
    clouds: CloudPolicy
    tower: Tower  # that it is aligned with
    url: str  # of the weights
    other_towers: tuple[str, ...] = ()  # what names of parameters begin with that the file holds beside the encoder's
    packaged: str | None = None  # the file's name, where it comes with ssabench


def _uni3d(name: str, config: Uni3DConfig, folder: str | None) -> PointEncoderSpec:
    """folder: in the model zoo; None: never published there."""
    url = "https://huggingface.co/BAAI/Uni3D" + (f"/blob/main/modelzoo/{folder}/model.pt" if folder else "")
    return PointEncoderSpec(name, partial(Uni3D, config), config.dim, CloudPolicy(10_000, 0.4), EVA02_E, url)


def _ulip(name: str, config: UlipConfig, clouds: CloudPolicy, tower: Tower, file: str) -> PointEncoderSpec:
    return PointEncoderSpec(name, partial(Ulip, config), config.dim, clouds, tower, _ULIP_URL + file, ULIP_TOWERS)


def _openshape(name: str, config: OpenShapeConfig, axes: tuple[int, int, int], tower: Tower) -> PointEncoderSpec:
    url = f"https://huggingface.co/OpenShape/{name}/blob/main/model.pt"
    dim = config.width if config.dim is None else config.dim
    return PointEncoderSpec(name, partial(openshape, config), dim, CloudPolicy(10_000, 0.4, axes), tower, url)


_SPECS = (
    _uni3d("uni3d-ti", Uni3DConfig(192, 12, 3, 512, "eva02-packed", 257, 0), None),
    _uni3d("uni3d-s", Uni3DConfig(384, 12, 6, 1024, "eva02-packed", 257, 0), None),
    _uni3d("uni3d-b", Uni3DConfig(768, 12, 12, 2048, "eva02-normed", 1025, 1000), "uni3d-b"),
    _uni3d("uni3d-l", Uni3DConfig(1024, 24, 16, 2730, "eva02-normed", 1025, 1000), "uni3d-l"),
    _uni3d("uni3d-g", Uni3DConfig(1408, 40, 16, 6144, "eva", 1601, 1000), "uni3d-g"),
    _ulip(
        "ulip2-10k-xyzrgb",
        UlipConfig(colours=True, depth=18, dim=1280),
        CloudPolicy(10_000, 0.4),
        BIG_G,
        "ULIP-2-PointBERT-10k-xyzrgb-pc-vit_g-objaverse_shapenet-pretrained.pt",
    ),
    # ULIP-1's Point-BERT has the same layout: only the hash tells.
    _ulip(
        "ulip2-8k-xyz",
        UlipConfig(colours=False, depth=12, dim=512),
        CloudPolicy(8192, None),
        SLIP_B,
        _ULIP_8K,
    ),
    _openshape(
        "openshape-pointbert-vitg14-rgb",
        OpenShapeConfig(groups=384, radius=0.2, group_size=64, token_width=256, hidden=1536, dim=1280),
        (0, 2, 1),
        BIG_G,
    ),
    _openshape(
        "openshape-pointbert-vitl14-rgb",
        OpenShapeConfig(groups=64, radius=0.4, group_size=256, token_width=128, hidden=1024, dim=768),
        (0, 1, 2),
        CLIP_L,
    ),
    _openshape(
        "openshape-pointbert-vitb32-rgb",
        OpenShapeConfig(groups=64, radius=0.4, group_size=256, token_width=128, hidden=1024, dim=None),
        (0, 1, 2),
        CLIP_B,
    ),
)
POINT_ENCODERS = {spec.name: spec for spec in _SPECS}

# Features of an ImageNet classifier (eval.encoders.standin), projected.
STANDIN_IMAGES = Tower("standin-efficientnet-lite2, projected", None, PointStandInConfig().dim, "")
STANDIN_POINTS = PointEncoderSpec(
    "standin-points",
    partial(PointStandIn, PointStandInConfig()),
    PointStandInConfig().dim,
    CloudPolicy(1024, None),
    STANDIN_IMAGES,
    "",
    other_towers=("image_projection.",),
    packaged="standin-points.safetensors",
)


def point_encoder_spec(name: str) -> PointEncoderSpec:
    """The encoder of that name: a published one, or the stand-in.

    Raises:
        ValueError: there is none.
    """
    known = {**POINT_ENCODERS, STANDIN_POINTS.name: STANDIN_POINTS}
    if name not in known:
        raise ValueError(f"unknown point encoder {name!r}; expected one of {', '.join(known)}")
    return known[name]
