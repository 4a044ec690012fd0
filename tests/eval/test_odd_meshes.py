"""What generators make when they fail still gets every score: a single triangle, slivers, a soup, a mesh inside out."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import surfaces
import torch

from eval.chamfer import chamfer
from eval.fscore import fscores
from eval.hausdorff import hausdorff
from eval.nearest import nearest_on_surface
from eval.normals import normal_consistency
from eval.rays import interior_share
from eval.sampling import sample_surface
from eval.sharp_normals import sharp_normal_error, sphere_views
from eval.surface import Surface
from eval.topology import topology
from eval.volume import solid_iou, volume_iou

REF = surfaces.box(1, 1.1, 1.2)


def sliver() -> Surface:
    return Surface(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0.5, 1e-12, 0]]), torch.tensor([[0, 1, 2]]))


def mostly_degenerate() -> Surface:
    faces = torch.cat([torch.zeros(500, 3, dtype=torch.int64), REF.faces])
    return Surface(REF.vertices, faces)


ODD = [surfaces.triangle, sliver, surfaces.soup, mostly_degenerate, lambda: surfaces.flipped(REF)]


@pytest.mark.parametrize("make", ODD, ids=["triangle", "sliver", "soup", "mostly degenerate", "inside out"])
def test_every_score_is_a_number(make: Callable[[], Surface]) -> None:
    pred = make()
    a, b = sample_surface(pred, 300, seed=0), sample_surface(REF, 300, seed=1)
    to_ref, to_pred = nearest_on_surface(a.points, REF), nearest_on_surface(b.points, pred)
    distances = to_ref.distance, to_pred.distance
    normals = normal_consistency(a.normals, REF.normals[to_ref.index], b.normals, pred.normals[to_pred.index])
    sharp = sharp_normal_error(pred, REF, sphere_views(2, size=64))
    scores = [
        chamfer(*distances).sum_l1,
        hausdorff(*distances).distance,
        fscores(*distances, [0.01])[0].fscore,
        normals.signed,
        normals.degrees,
        volume_iou(pred, REF, 500).iou,
        solid_iou(pred, REF, 16),
        interior_share(pred, 300),
        sharp.sharp,
        sharp.all,
    ]
    assert all(math.isfinite(score) for score in scores)
    assert topology(pred).components >= 1


def test_a_single_triangle_scores_badly_against_a_solid() -> None:
    pred = surfaces.triangle()
    to_ref, to_pred = surfaces.to_surfaces(pred, REF, 500)
    assert fscores(to_ref, to_pred, [0.01])[0].recall < 0.02
    volume = volume_iou(pred, REF, 500)
    assert volume.iou < 0.05
    assert volume.pred_ambiguous > 0.1  # and it says that there is none
    assert not topology(pred).watertight
