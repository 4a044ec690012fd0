"""Labelled point clouds for zero-shot classification, in the layouts that the authors of Uni3D and OpenShape publish.

Both keep clouds with y up, coordinates and colours of 10,000 points, as OpenShape made them:

* ModelNet40: ``test_pc.npy``, ``test_split.json``, and from Uni3D ``modelnet40_shape_names.txt``;
* Objaverse-LVIS of Uni3D (https://huggingface.co/BAAI/Uni3D, data/test_datasets.zip): ``lvis_testset.txt``, whose lines
  name class, object and file;
* Objaverse-LVIS of OpenShape (https://huggingface.co/datasets/OpenShape/openshape-training-data): ``split/lvis.json``
  below its meta_data.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from eval.encoders.restricted_npy import read_npy

Dataset = Literal["modelnet40", "objaverse-lvis"]


@dataclass(frozen=True)
class LabelledClouds:
    """Clouds, read when they are asked for."""

    dataset: Dataset
    classes: list[str]
    labels: list[int]  # of each cloud: index of its class
    read: Callable[[int], tuple[Tensor, Tensor]]  # points [N, 3], y up, and colours [N, 3], 0..1, both fp32


def read_modelnet40(folder: Path) -> LabelledClouds:
    """The test set of ModelNet40.

    Raises:
        ValueError: a file that is missing or not of this layout.
    """
    names = [str(item) for item in _field(_json(folder / "test_split.json"), "category", folder / "test_split.json")]
    clouds = read_npy(folder / "test_pc.npy")
    if len(clouds) != len(names):
        raise ValueError(f"{str(folder)!r} has {len(clouds)} clouds but {len(names)} labels")
    listed = folder / "modelnet40_shape_names.txt"
    classes = listed.read_text(encoding="utf-8").split() if listed.is_file() else sorted(set(names))
    unknown = set(names) - set(classes)
    if unknown:
        raise ValueError(f"{str(listed)!r} does not list the class {sorted(unknown)[0]!r}")
    # Its colours are bytes, of one grey.
    return LabelledClouds(
        "modelnet40", classes, [classes.index(name) for name in names], lambda i: _cloud(clouds[i], 255, folder)
    )


def read_objaverse_lvis(folder: Path) -> LabelledClouds:
    """Objaverse-LVIS, of either layout; its clouds are read one by one.

    Raises:
        ValueError: neither layout's list of clouds is there, or it is not of that layout.
    """
    lines, split = folder / "lvis_testset.txt", folder / "split" / "lvis.json"
    if lines.is_file():
        rows = [line.split(",") for line in lines.read_text(encoding="utf-8").splitlines() if line.strip()]
        if any(len(row) < 4 or not row[0].isdigit() for row in rows):
            raise ValueError(f"{str(lines)!r} must have lines of class number, class, object and file")
        by_number = {int(row[0]): row[1] for row in rows}
        numbers = sorted(by_number)
        classes, labels = [by_number[n] for n in numbers], [numbers.index(int(row[0])) for row in rows]
        paths = [folder / row[3].strip().lstrip("/") for row in rows]
    elif split.is_file():
        content = _json(split)
        names = [str(name) for name in _field(content, "category", split)]
        classes = sorted(set(names))
        labels = [classes.index(name) for name in names]
        paths = [folder.parent / str(path) for path in _field(content, "data_path", split)]
    else:
        raise ValueError(f"{str(folder)!r} must hold lvis_testset.txt (Uni3D) or split/lvis.json (OpenShape)")
    return LabelledClouds("objaverse-lvis", classes, labels, lambda i: _cloud(read_npy(paths[i]), 1, paths[i]))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from error


def _field(items: Any, name: str, path: Path) -> list[Any]:
    if not isinstance(items, list) or not all(isinstance(item, dict) and name in item for item in items):
        raise ValueError(f"{str(path)!r} must be a list of objects with {name!r}")
    return [item[name] for item in items]


def _cloud(item: Any, white: float, path: Path) -> tuple[Tensor, Tensor]:
    if not isinstance(item, dict) or "xyz" not in item or "rgb" not in item:
        raise ValueError(f"{str(path)!r} must hold clouds with 'xyz' and 'rgb'")
    return torch.as_tensor(item["xyz"]).float(), torch.as_tensor(item["rgb"]).float() / white
