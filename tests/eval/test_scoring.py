"""Scores of a pair follow from the definitions of the metrics, in the units that a table prints."""

from __future__ import annotations

import math

import pytest
from surfaces import box, flipped, joined, sphere

from eval.ceiling import SamplingCeiling
from eval.normalise import normalise
from eval.protocols.protocol import Protocol, load_protocol, protocol_names
from eval.scoring import Pair
from eval.surface import Surface


def protocol(name: str, points: int = 5000) -> Protocol:
    """With fewer points, and fewer and smaller views of sharp edges."""
    loaded = load_protocol(name)
    smaller = {"views": 4, "size": 128}
    metrics = [m.model_copy(update=smaller if m.kind == "sharp_normal_error" else {}) for m in loaded.metrics]
    return loaded.model_copy(update={"points": points, "metrics": tuple(metrics)})


def pair(name: str, pred: Surface, ref: Surface) -> Pair:
    chosen = protocol(name)
    pred, ref, *_ = normalise(pred, ref, chosen.normalisation, chosen.frame)
    return Pair(pred, ref, chosen)


def test_concentric_spheres() -> None:
    scores = pair("roundtrip", sphere(0.9), sphere(1.0)).scores()
    assert scores["cd"] == pytest.approx(1000, rel=0.01)  # 0.1, in ten-thousandths
    assert scores["f_0.01"] == 0
    assert scores["nc"] == pytest.approx(1, abs=1e-3)


def test_the_unit_cube_halves_lengths_and_quarters_squares() -> None:
    assert pair("trellis2", sphere(0.9), sphere(1.0)).scores()["md"] == pytest.approx(1e6 * 0.05**2, rel=0.02)


@pytest.mark.parametrize("name", protocol_names())
def test_a_copy_scores_best_or_at_the_ceiling(name: str) -> None:
    copy = pair(name, box(1, 0.7, 0.5), box(1, 0.7, 0.5))
    scores, ceilings = copy.scores(), copy.ceilings()
    exact = {"nc": 1, "iou": 100, "sne": 0, "normal_psnr": 100}
    for metric in copy.protocol.scored:
        if metric.key in ceilings:
            assert scores[metric.key] == pytest.approx(ceilings[metric.key], rel=0.1, abs=0.01)
        elif metric.kind == "fscore":
            assert scores[metric.key] == metric.scale
        else:
            assert scores[metric.key] == pytest.approx(exact.get(metric.key, 0), abs=1e-6)


def test_the_ceiling_of_outer_samples_leaves_out_what_is_inside() -> None:
    inside = joined(box(1, 1, 1), box(0.5, 0.5, 0.5))
    outer = pair("trellis2", inside, inside).ceilings()["cd_outer"]
    assert outer == pytest.approx(1e6 * SamplingCeiling(6.0, 5000, 5000).squared_accuracy, rel=0.01)


def test_flipped_triangles_show_in_signed_normals_only() -> None:
    chosen = protocol("roundtrip")
    signed = chosen.metrics[-1].model_copy(update={"convention": "signed", "key": "signed"})
    chosen = chosen.model_copy(update={"metrics": (*chosen.metrics, signed)})
    scores = Pair(flipped(sphere()), sphere(), chosen).scores()
    assert scores["nc"] == pytest.approx(1, abs=1e-3)
    assert scores["signed"] == pytest.approx(-1, abs=1e-3)


def test_normals_of_points_are_those_of_the_nearest_samples() -> None:
    chosen = protocol("roundtrip")
    points = chosen.metrics[-1].model_copy(update={"target": "points"})
    score = Pair(sphere(), sphere(), chosen.model_copy(update={"metrics": (points,)})).scores()["nc"]
    assert 0.99 < score < 1 - 1e-5
    assert math.isfinite(score)
