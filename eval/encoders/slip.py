"""SLIP's ViT-B/16 and text tower (Mu et al., arXiv 2112.12750), which ULIP's encoders of points without colours are
aligned with. open_clip has the layers but not the weights: ULIP's files hold them, under SLIP's names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from eval.encoders.catalogue import ULIP_TOWERS
from eval.encoders.checkpoint import CheckpointError, differences, read_parameters

_TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
# SLIP and ULIP train with images normalised by ImageNet's statistics.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load_slip(path: Path | None, trunk: str = "vit_base_patch16_224") -> tuple[nn.Module, Any, Any]:
    """The towers of a file of ULIP, the transform of their images and their tokeniser.

    Args:
        trunk: timm's name of the image tower.

    Raises:
        CheckpointError: no file, an unreadable one, or one without these towers.
    """
    import open_clip

    if path is None:
        raise CheckpointError("they are only to be had as a file")
    # SLIP's text tower has the quick approximation of GELU, timm's image towers have the exact one.
    vision = {"timm_model_name": trunk, "timm_pool": "", "timm_proj": "linear", "image_size": 224}
    model = open_clip.CLIP(512, vision, _TEXT, quick_gelu=True)
    state = {
        _renamed(key): value.float() for key, value in read_parameters(path).items() if key.startswith(ULIP_TOWERS)
    }
    projection = state.pop("visual.head.proj.weight", None)
    if projection is not None:
        state["visual.head.proj.weight"] = projection.T
    # The scale belongs to training.
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items() if key != "logit_scale"}
    if wrong := differences(state, wanted):
        raise CheckpointError(f"it does not hold SLIP's towers: {wrong}")
    model.load_state_dict(state, strict=False)
    preprocess = open_clip.image_transform(224, is_train=False, mean=_MEAN, std=_STD, interpolation="bilinear")
    return model, preprocess, open_clip.get_tokenizer("ViT-B-16")


def _renamed(key: str) -> str:
    """open_clip's name of one of SLIP's parameters."""
    if key == "image_projection":
        return "visual.head.proj.weight"
    return f"visual.trunk.{key.removeprefix('visual.')}" if key.startswith("visual.") else key
