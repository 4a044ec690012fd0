"""Does a loaded encoder reproduce the zero-shot accuracy that its authors publish?

The end-to-end test of architecture, checkpoint, towers and preparation of clouds, for those who have weights and data:
classes are embedded as texts, the mean over templates; a cloud belongs to the class of the largest cosine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional as F

from eval.encoders.checkpoint import LoadedPointEncoder
from eval.encoders.clip import TextTower
from eval.encoders.clouds import prepare
from eval.encoders.labelled import Dataset, LabelledClouds
from eval.encoders.point_encoder import embed_clouds
from eval.encoders.similarity import cosine_matrix

# Percentage points. The authors evaluate in half precision, OpenShape begins its sampling at a random point, and all
# break ties of neighbours as it happens; a wrong axis, colour or normalisation costs far more.
TOLERANCE = 1.0


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PublishedAccuracy(_Frozen):
    """Of zero-shot classification, in percent."""

    encoder: str
    training: str  # data that this checkpoint was trained with: several are published under one architecture
    dataset: Dataset
    top1: float
    top5: float
    source: str


class SelfTest(_Frozen):
    """What a loaded encoder reaches beside what is published, in percent."""

    encoder_sha256: str
    clouds: int
    top1: float
    top5: float
    published: PublishedAccuracy
    tolerance: float

    @property
    def passed(self) -> bool:
        """Both accuracies are as published, neither lower nor higher."""
        return (
            abs(self.top1 - self.published.top1) <= self.tolerance
            and abs(self.top5 - self.published.top5) <= self.tolerance
        )


@cache
def published_accuracies() -> tuple[PublishedAccuracy, ...]:
    """All that the authors print."""
    content = json.loads(resources.files("eval.encoders").joinpath("published_accuracy.json").read_text("utf-8"))
    return tuple(PublishedAccuracy(**{**row, "source": content["sources"][row["source"]]}) for row in content["rows"])


def published_accuracy(encoder: str, dataset: Dataset, training: str = "ensembled") -> PublishedAccuracy:
    """The one of a checkpoint.

    Raises:
        ValueError: none is published.
    """
    for row in published_accuracies():
        if (row.encoder, row.dataset, row.training) == (encoder, dataset, training):
            return row
    known = sorted({row.training for row in published_accuracies() if (row.encoder, row.dataset) == (encoder, dataset)})
    raise ValueError(
        f"no published accuracy of {encoder} trained {training!r} on {dataset}"
        + (f"; there are {', '.join(map(repr, known))}" if known else "")
    )


def read_templates(path: Path, name: str = "modelnet40_64") -> list[str]:
    """The texts around a class's name, from ``data/templates.json`` of salesforce/ULIP or baaivision/Uni3D.

    Raises:
        ValueError: unreadable, or without templates of that name.
    """
    try:
        templates = json.loads(path.read_text(encoding="utf-8"))[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{str(path)!r} has no templates {name!r}; data/templates.json of baaivision/Uni3D has"
        ) from error
    if not isinstance(templates, list) or not templates or any("{}" not in str(text) for text in templates):
        raise ValueError(f"templates {name!r} of {str(path)!r} must be texts that hold {{}}")
    return [str(text) for text in templates]


def selftest(
    encoder: LoadedPointEncoder,
    towers: TextTower,
    clouds: LabelledClouds,
    templates: Sequence[str],
    *,
    training: str = "ensembled",
    tolerance: float = TOLERANCE,
    batch_size: int = 16,
    progress: Callable[[int], None] = lambda done: None,
) -> SelfTest:
    """Classify the clouds and compare.

    Args:
        templates: texts that hold ``{}``, where a class's name goes.
        training: which of the published checkpoints this is.
        tolerance: percentage points.
        progress: told how many clouds are done, after each batch.

    Raises:
        ValueError: no published accuracy to compare with, or no clouds.
    """
    published = published_accuracy(encoder.spec.name, clouds.dataset, training)
    if not clouds.labels:
        raise ValueError("clouds must not be empty")
    classes = embed_classes(towers, clouds.classes, templates)
    hits = torch.zeros(2)
    total = len(clouds.labels)
    for start in range(0, total, batch_size):
        batch = range(start, min(start + batch_size, total))
        prepared = [prepare(*clouds.read(i), encoder.spec.clouds) for i in batch]
        cosines = cosine_matrix(embed_clouds(encoder.encoder, prepared, batch_size=batch_size), classes)
        ranked = cosines.topk(min(5, len(classes)), dim=1).indices
        right = ranked == torch.tensor([clouds.labels[i] for i in batch])[:, None]
        hits += torch.stack([right[:, 0].sum(), right.sum()])
        progress(batch.stop)
    top1, top5 = (100 * hits / total).tolist()
    return SelfTest(
        encoder_sha256=encoder.sha256, clouds=total, top1=top1, top5=top5, published=published, tolerance=tolerance
    )


def embed_classes(towers: TextTower, classes: Sequence[str], templates: Sequence[str]) -> Tensor:
    """fp32 [classes, E]: of each class the unit mean of its unit embeddings in all templates.

    Raises:
        ValueError: no classes or no templates.
    """
    if not classes or not templates:
        raise ValueError("classes and templates must not be empty")
    embedded = [towers.embed_texts([text.replace("{}", name) for text in templates]) for name in classes]
    return F.normalize(torch.stack([F.normalize(each.float(), dim=1).mean(0) for each in embedded]), dim=1)
