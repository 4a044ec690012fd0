"""LPIPS of normal maps beside what a protocol measures without weights: its column gets scores.

Rows get a score and the protocol a metric that has them, so that means, intervals, tests and what failed are as of
every other metric.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from eval.encoders.lpips import LPIPS
from eval.job import read_surface
from eval.normal_maps import paired_normal_maps
from eval.normalise import normalise
from eval.protocols.protocol import MeasuredLPIPSMetric, Metric, NormalLPIPSMetric, Protocol
from eval.rows import Row

Progress = Callable[[str, int, int], None]


def lpips_metric(protocol: Protocol) -> NormalLPIPSMetric:
    """The protocol's own, which has no scores.

    Raises:
        ValueError: it has none.
    """
    for metric in protocol.metrics:
        if isinstance(metric, NormalLPIPSMetric):
            return metric
    raise ValueError(f"protocol {protocol.name} has no LPIPS of normal maps (normal_lpips)")


def with_lpips(
    rows: Sequence[Row], protocol: Protocol, lpips: LPIPS, *, device: str = "cpu", progress: Progress | None = None
) -> tuple[list[Row], Protocol]:
    """Add the mean over the protocol's views of the distance between the normal maps of prediction and reference.

    Args:
        rows: of files, by this protocol.

    Returns:
        The rows, and the protocol with a metric that has scores in place of its own.

    Raises:
        ValueError: a protocol without the metric, or a file that is not what it was.
    """
    own = lpips_metric(protocol)
    provenance = hashlib.sha256(f"{lpips.backbone_sha256} {lpips.linear_sha256}".encode()).hexdigest()
    measured = MeasuredLPIPSMetric(
        kind="measured_normal_lpips",
        key=own.key,
        label="LPIPS" if lpips.is_published else "LPIPS, unknown weights",
        views=own.views,
        provenance=provenance,
        bound=lpips.bound,
    )
    metrics: list[Metric] = [measured if metric is own else metric for metric in protocol.metrics]
    extended = protocol.model_copy(update={"metrics": tuple(metrics)})
    found = []
    for done, row in enumerate(rows):
        scores = dict(row.scores)
        if row.status == "ok":
            if progress is not None:
                progress(f"LPIPS: {row.asset}, {row.method}", done, len(rows))
            scores[own.key] = _score(row, protocol, own, lpips, device)
        found.append(row.model_copy(update={"scores": scores, "protocol_digest": extended.digest}))
    return found, extended


def _score(row: Row, protocol: Protocol, metric: NormalLPIPSMetric, lpips: LPIPS, device: str) -> float:
    pred = read_surface(Path(str(row.pred)), "prediction", device)
    pred, ref, *_ = normalise(
        pred, read_surface(Path(row.ref), "reference", device), protocol.normalisation, protocol.frame
    )
    distances = [
        # One view at a time: VGG16's first features of 512 x 512 pixels are 64 MiB an image.
        lpips.distance(*(image.permute(2, 0, 1)[None].float() for image in pair))
        for pair in paired_normal_maps(pred, ref, metric.views.cameras(ref))
    ]
    return float(torch.cat(distances).double().mean())
