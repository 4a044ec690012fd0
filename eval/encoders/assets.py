"""Mesh files as clouds of points, and the images or captions that belong to them by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from eval.encoders.similarity import Cloud, Sampling
from eval.rays import sample_outer_surface
from eval.sampling import sample_surface
from eval.surface import Surface
from models.data.mesh_file import read_mesh_file

IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp")
Shell = Literal["all surfaces", "outer surface"]


def cloud_of_file(path: Path, points: int, seed: int, shell: Shell) -> Cloud:
    """Points uniform by area, of all triangles or of what is seen from outside; without colours.

    Raises:
        ValueError: an unreadable mesh, or one without area.
    """
    mesh = read_mesh_file(path, "mesh")
    vertices = torch.from_numpy(np.array(mesh.vertices, dtype=np.float64))
    surface = Surface(vertices, torch.from_numpy(np.array(mesh.faces, dtype=np.int64)), path.name)
    sample = sample_outer_surface if shell == "outer surface" else sample_surface
    return Cloud(sample(surface, points, seed).points.float())


def sampling(points: int, seed: int, shell: Shell) -> Sampling:
    """What `cloud_of_file` does, for the record."""
    return Sampling(points=points, method="uniform by area", seed=seed, shell=shell)


def read_images(folder: Path, names: Mapping[str, object]) -> dict[str, Image.Image]:
    """The image of each name in a folder: png, jpg, jpeg or webp.

    Raises:
        ValueError: a name without an image, or an unreadable one.
    """
    found: dict[str, Image.Image] = {}
    for name in names:
        paths = [path for suffix in IMAGE_SUFFIXES if (path := folder / f"{name}{suffix}").is_file()]
        if not paths:
            raise ValueError(f"{folder} has no image of {name!r} ({', '.join(IMAGE_SUFFIXES)})")
        try:
            image = Image.open(paths[0])
            image.load()
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"image {paths[0]} cannot be read: {error}") from error
        found[name] = image
    return found


def read_captions(path: Path, names: Mapping[str, object]) -> dict[str, str]:
    """The text of each name in a JSON object.

    Raises:
        ValueError: no JSON object of texts, or a name without a text.
    """
    try:
        texts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"captions {path} cannot be read: {error}") from error
    if not isinstance(texts, dict):
        raise ValueError(f"captions {path} must be a JSON object of name and text")
    for name in names:
        if not isinstance(texts.get(name), str):
            raise ValueError(f"captions {path} have no text for {name!r}")
    return {name: texts[name] for name in names}
