"""Image-shape similarity beside the geometry of an evaluation: one more metric for each encoder.

Rows get a score and protocols a metric, so that means, intervals, tests and what failed are as of every other metric.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from eval.encoders.assets import Shell, cloud_of_file, sampling
from eval.encoders.checkpoint import LoadedPointEncoder
from eval.encoders.clip import Towers
from eval.encoders.similarity import SimilarityScores, image_shape_similarity
from eval.protocols.protocol import MeasuredSimilarityMetric, Metric, Protocol, SimilarityMetric
from eval.rows import Row

Progress = Callable[[str, int, int], None]
_FAMILIES = {"ulip2-": "ulip-2", "uni3d-": "uni3d", "openshape-": "openshape"}


@dataclass(frozen=True)
class Judge:
    """An encoder of points with its towers."""

    encoder: LoadedPointEncoder
    towers: Towers

    @property
    def name(self) -> str:
        """The encoder's."""
        return self.encoder.spec.name


@dataclass(frozen=True)
class WithSimilarity:
    """Rows and their protocol with one more metric an encoder, and the cosines by encoder and method."""

    rows: list[Row]
    protocol: Protocol
    scores: dict[tuple[str, str], SimilarityScores]


def with_similarity(
    rows: Sequence[Row],
    protocol: Protocol,
    judges: Sequence[Judge],
    images: Mapping[str, Image.Image],
    *,
    seed: int = 0,
    shell: Shell = "all surfaces",
    progress: Progress | None = None,
) -> WithSimilarity:
    """Add the cosine between each prediction and its asset's image.

    The metric takes the place of the protocol's own of the same family, else it comes last.

    Args:
        rows: of files, by this protocol. images: by asset.
        seed, shell: of the points, as many as each encoder was trained on.

    Raises:
        ValueError: an asset without image, an encoder given twice, or a file that is not what it was.
    """
    if len({judge.name for judge in judges}) < len(judges):
        raise ValueError("similarity must name every encoder once")
    drawn = [row for row in rows if row.status == "ok"]
    assets = sorted({row.asset for row in rows})
    if missing := [asset for asset in assets if asset not in images]:
        raise ValueError(f"images must have one of every asset, there is none of {missing[0]!r}")
    content = hashlib.sha256()
    for asset in assets:
        content.update(f"{asset} {images[asset].mode} {images[asset].size} ".encode() + images[asset].tobytes())
    found: dict[tuple[str, str], SimilarityScores] = {}
    metrics: list[Metric] = list(protocol.metrics)
    for judge in judges:
        for method in dict.fromkeys(row.method for row in drawn):
            own = {row.asset: row for row in drawn if row.method == method}
            clouds = {}
            for done, (asset, row) in enumerate(own.items()):
                if progress is not None:
                    progress(f"{judge.name}: {asset}, {method}", done, len(own))
                clouds[asset] = cloud_of_file(Path(str(row.pred)), judge.encoder.spec.clouds.points, seed, shell)
            found[judge.name, method] = image_shape_similarity(
                judge.encoder,
                judge.towers,
                clouds,
                {asset: images[asset] for asset in own},
                sampling(judge.encoder.spec.clouds.points, seed, shell),
            )
        provenance = next(
            (scores.provenance.model_dump_json() for (name, _), scores in found.items() if name == judge.name),
            "no prediction",
        )
        digest = hashlib.sha256(f"{provenance} {content.hexdigest()}".encode()).hexdigest()
        _place(
            metrics,
            MeasuredSimilarityMetric(
                kind="measured_similarity",
                key=judge.name.replace("-", "_"),
                label=judge.name,
                encoder=judge.name,
                provenance=digest,
            ),
        )
    extended = protocol.model_copy(update={"metrics": tuple(metrics)})
    return WithSimilarity([_extended(row, extended, found) for row in rows], extended, found)


def _place(metrics: list[Metric], metric: MeasuredSimilarityMetric) -> None:
    """In place of the first metric of its family that has no scores, else at the end."""
    family = next((family for prefix, family in _FAMILIES.items() if metric.encoder.startswith(prefix)), None)
    for position, other in enumerate(metrics):
        if isinstance(other, SimilarityMetric) and other.encoder == family and other.query == "image":
            metrics[position] = metric
            return
    metrics.append(metric)


def _extended(row: Row, protocol: Protocol, found: Mapping[tuple[str, str], SimilarityScores]) -> Row:
    cosines = {
        encoder.replace("-", "_"): scores.cosines[row.asset]
        for (encoder, method), scores in found.items()
        if method == row.method and row.status == "ok"
    }
    return row.model_copy(update={"scores": {**row.scores, **cosines}, "protocol_digest": protocol.digest})
