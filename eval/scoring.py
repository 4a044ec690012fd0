"""Scores of one prediction against its reference, by a protocol's metrics; samples and distances are shared."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import singledispatchmethod

from torch import Tensor

from eval.ceiling import SamplingCeiling
from eval.chamfer import Chamfer, chamfer
from eval.fscore import fscores
from eval.hausdorff import hausdorff
from eval.nearest import Nearest, nearest_on_surface, nearest_point
from eval.normal_maps import normal_psnr
from eval.normals import normal_consistency
from eval.protocols.protocol import (
    Area,
    ChamferMetric,
    FScoreMetric,
    HausdorffMetric,
    Metric,
    NormalMetric,
    NormalPSNRMetric,
    Protocol,
    SharpNormalMetric,
    Target,
    VolumeMetric,
)
from eval.rays import interior_share, sample_outer_surface
from eval.sampling import Samples, sample_surface
from eval.sharp_normals import sharp_normal_error, sphere_views
from eval.surface import Surface
from eval.volume import volume_iou


@dataclass
class Pair:
    """Two surfaces in the protocol's frame."""

    pred: Surface
    ref: Surface
    protocol: Protocol
    _samples: dict[Area, tuple[Samples, Samples]] = field(default_factory=dict)
    _nearest: dict[tuple[Target, Area], tuple[Nearest, Nearest]] = field(default_factory=dict)

    def scores(self) -> dict[str, float]:
        """Of every metric that runs here, by key.

        Raises:
            ValueError: a surface that a metric cannot be taken of.
        """
        return {metric.key: self._score(metric) for metric in self.protocol.scored}

    def ceilings(self) -> dict[str, float]:
        """What two independent samples of the reference score, of the metrics between points, by key."""
        found = {}
        outer = 1 - interior_share(self.ref) if self.protocol.uses_outer_area else 1.0
        for metric in self.protocol.scored:
            if isinstance(metric, ChamferMetric | FScoreMetric) and metric.target == "points":
                area = self.ref.area * (outer if metric.area == "outer" else 1)
                ceiling = SamplingCeiling(area, self.protocol.points, self.protocol.points)
                found[metric.key] = metric.scale * (
                    ceiling.fscore(metric.threshold)
                    if isinstance(metric, FScoreMetric)
                    else getattr(_best_chamfer(ceiling), metric.convention)
                )
        return found

    @singledispatchmethod
    def _score(self, metric: Metric) -> float:
        raise TypeError(f"no scores for {type(metric).__name__}")

    @_score.register
    def _(self, metric: ChamferMetric) -> float:
        value = getattr(chamfer(*self._distances(metric.target, metric.area)), metric.convention)
        return metric.scale * float(value)

    @_score.register
    def _(self, metric: FScoreMetric) -> float:
        distances = self._distances(metric.target, metric.area)
        return metric.scale * fscores(*distances, [metric.threshold], strict=metric.strict)[0].fscore

    @_score.register
    def _(self, metric: HausdorffMetric) -> float:
        found = hausdorff(*self._distances(metric.target, "all"), [metric.quantile])
        return metric.scale * found.quantiles[metric.quantile]

    @_score.register
    def _(self, metric: NormalMetric) -> float:
        (pred, ref), (to_ref, to_pred) = self.samples("all"), self.nearest(metric.target, "all")
        if metric.target == "surface":
            matched_ref, matched_pred = self.ref.normals[to_ref.index], self.pred.normals[to_pred.index]
        else:
            matched_ref, matched_pred = ref.normals[to_ref.index], pred.normals[to_pred.index]
        found = normal_consistency(pred.normals, matched_ref, ref.normals, matched_pred)
        return float(getattr(found, metric.convention))

    @_score.register
    def _(self, metric: VolumeMetric) -> float:
        return metric.scale * volume_iou(self.pred, self.ref, metric.points, self.protocol.seed).iou

    @_score.register
    def _(self, metric: NormalPSNRMetric) -> float:
        return normal_psnr(self.pred, self.ref, metric.views.cameras(self.ref))

    @_score.register
    def _(self, metric: SharpNormalMetric) -> float:
        cameras = sphere_views(metric.views, radius=self.protocol.diagonal / 2, size=metric.size)
        return metric.scale * sharp_normal_error(self.pred, self.ref, cameras).sharp

    def samples(self, area: Area) -> tuple[Samples, Samples]:
        """Of the prediction and of the reference."""
        if area not in self._samples:
            sample = sample_surface if area == "all" else sample_outer_surface
            count, seed = self.protocol.points, self.protocol.seed
            self._samples[area] = sample(self.pred, count, seed), sample(self.ref, count, seed + 1)
        return self._samples[area]

    def nearest(self, target: Target, area: Area) -> tuple[Nearest, Nearest]:
        """What the prediction's samples are nearest to on the reference's side, and the other way round."""
        if (target, area) not in self._nearest:
            pred, ref = self.samples(area)
            if target == "points":
                found = nearest_point(pred.points, ref.points), nearest_point(ref.points, pred.points)
            else:
                found = nearest_on_surface(pred.points, self.ref), nearest_on_surface(ref.points, self.pred)
            self._nearest[target, area] = found
        return self._nearest[target, area]

    def _distances(self, target: Target, area: Area) -> tuple[Tensor, Tensor]:
        to_ref, to_pred = self.nearest(target, area)
        return to_ref.distance, to_pred.distance


def _best_chamfer(ceiling: SamplingCeiling) -> Chamfer:
    return Chamfer(ceiling.accuracy, ceiling.completeness, ceiling.squared_accuracy, ceiling.squared_completeness)
