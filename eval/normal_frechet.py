"""The Frechet distance between the normal maps of a method's shapes and those of the references, from the same cameras.

Direct3D-S2's and TripoSG's Normal-FID is this with features of Inception v3 (`eval.encoders.inception`), whose weights
are a file of the user's; Direct3D-S2 does not say which Inception, FID's is meant here. Over features of the packaged
stand-in it orders methods of one's own; its values compare with no published one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol as Interface

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from eval.encoders.inception import KIND as INCEPTION
from eval.job import read_surface
from eval.normal_maps import paired_normal_maps
from eval.normalise import normalise
from eval.protocols.protocol import NormalFIDMetric, Protocol, Views
from eval.rows import Row
from eval.set_metrics import frechet_distance

Progress = Callable[[str, int, int], None]


class ImageFeatures(Interface):
    """An encoder of images."""

    @property
    def kind(self) -> str:
        """Its name, for tables."""
        ...

    @property
    def sha256(self) -> str:
        """Of its weights."""
        ...

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Features floating [n, D] of RGB images."""
        ...


class NormalFrechet(BaseModel):
    """The distance of one method, and what it depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str
    distance: float = Field(ge=0)
    images: int  # of each side; only distances of equal numbers compare
    failed: int  # assets whose maps are empty, because there is no prediction
    features: str
    features_sha256: str
    views: Views
    protocol_digest: str

    @property
    def is_fid(self) -> bool:
        """Whether the features are those that FID is defined by."""
        return self.features == INCEPTION


def normal_frechet(
    rows: Sequence[Row],
    protocol: Protocol,
    encoder: ImageFeatures,
    *,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[NormalFrechet]:
    """Of every method, in the order of the rows; of the protocol's views for normal maps, in its frame.

    A failed asset counts with maps in which nothing is seen. One whose reference cannot be used counts for no method.

    Raises:
        ValueError: a protocol without normal maps of sets, fewer than two maps, or a file that is not what it was.
    """
    views = normal_views(protocol)
    unusable = {row.asset for row in rows if row.status == "no_reference"}
    counted = [row for row in rows if row.asset not in unusable]
    maps = len({row.asset for row in counted}) * len(views.azimuths)
    if maps < 2:
        raise ValueError(f"a Frechet distance needs two normal maps or more, got {maps}")
    features: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for done, row in enumerate(counted):
        if progress is not None:
            progress(f"normals of {row.asset}, {row.method}", done, len(counted))
        pairs = _maps(row, protocol, views, device)
        preds, refs = ([_image(pair[side]) for pair in pairs] for side in (0, 1))
        features.setdefault(row.method, []).append((encoder.embed_images(preds), encoder.embed_images(refs)))
    return [
        NormalFrechet(
            method=method,
            distance=frechet_distance(*(torch.cat([pair[side] for pair in found]) for side in (0, 1))),
            images=maps,
            failed=sum(row.method == method and row.status == "failed" for row in counted),
            features=encoder.kind,
            features_sha256=encoder.sha256,
            views=views,
            protocol_digest=protocol.digest,
        )
        for method, found in features.items()
    ]


def normal_views(protocol: Protocol) -> Views:
    """The cameras of the protocol's normal maps of sets.

    Raises:
        ValueError: it has none.
    """
    for metric in protocol.metrics:
        if isinstance(metric, NormalFIDMetric):
            return metric.views
    raise ValueError(f"protocol {protocol.name} has no normal maps of sets (normal_fid), whose views are needed")


def _maps(row: Row, protocol: Protocol, views: Views, device: str) -> list[tuple[Tensor, Tensor]]:
    """Normal maps of the prediction and of the reference, from every view."""
    ref = read_surface(Path(row.ref), "reference", device)
    pred = read_surface(Path(row.pred), "prediction", device) if row.status == "ok" and row.pred else None
    shown, ref, *_ = normalise(pred or ref, ref, protocol.normalisation, protocol.frame)
    pairs = list(paired_normal_maps(shown, ref, views.cameras(ref)))
    return pairs if pred is not None else [(torch.full_like(a, 0.5), b) for a, b in pairs]


def _image(colors: Tensor) -> Image.Image:
    return Image.fromarray((colors * 255).round().to("cpu", torch.uint8).numpy())
