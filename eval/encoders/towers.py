"""The towers that a point encoder is aligned with."""

from __future__ import annotations

from pathlib import Path

from eval.encoders import clip
from eval.encoders.catalogue import STANDIN_IMAGES, Tower
from eval.encoders.clip import Towers
from eval.encoders.standin_tower import load_standin_tower


def load_towers(tower: Tower, path: Path | None = None, device: str = "cpu") -> Towers:
    """CLIP's, or the stand-in's, whose weights are packaged.

    Args:
        path: of a file with the weights of CLIP towers; None lets open_clip have them.

    Raises:
        ValueError: a path for the stand-in, or towers that cannot be loaded.
    """
    if tower != STANDIN_IMAGES:
        return clip.load_clip(tower, path, device)
    if path is not None:
        raise ValueError("the stand-in's towers come in packages, so no file of their weights can be given")
    return load_standin_tower(device)
