"""What scores must do when both shapes are swapped, moved or scaled together."""

from __future__ import annotations

import pytest
import surfaces
import torch

from eval.chamfer import chamfer
from eval.fscore import fscores
from eval.hausdorff import hausdorff
from eval.nearest import nearest_on_surface, nearest_point
from eval.sampling import sample_surface
from eval.surface import Surface
from eval.volume import volume_iou

PRED, REF = surfaces.sphere(0.9, 3), surfaces.box(1.4, 1.5, 1.6)


def scores(pred: Surface, ref: Surface, unit: float = 1.0) -> dict[str, list[float]]:
    """Between points and to surfaces; lengths and thresholds in `unit`."""
    a, b = sample_surface(pred, 3000, seed=0).points, sample_surface(ref, 3000, seed=0).points
    found = {}
    for kind, distances in (
        ("points", (nearest_point(a, b).distance, nearest_point(b, a).distance)),
        ("surface", (nearest_on_surface(a, ref).distance, nearest_on_surface(b, pred).distance)),
    ):
        cd, hd = chamfer(*distances), hausdorff(*distances)
        (f,) = fscores(*distances, [0.1 * unit])
        found[kind] = [
            cd.sum_l1 / unit,
            cd.sum_l2sq / unit**2,
            hd.distance / unit,
            *(value / unit for value in hd.quantiles.values()),
            f.fscore,
        ]
    return found


def moved(surface: Surface, turn: torch.Tensor, shift: torch.Tensor, scale: float = 1.0) -> Surface:
    return Surface(scale * surface.vertices @ turn.T + shift, surface.faces)


def test_swapping_the_sides_changes_nothing() -> None:
    one, other = scores(PRED, REF), scores(REF, PRED)
    for kind in one:
        assert one[kind] == pytest.approx(other[kind], rel=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 250.0])
def test_a_rigid_motion_and_a_scale_of_both_are_only_a_change_of_unit(scale: float) -> None:
    turn, shift = surfaces.rotation(), torch.tensor([3.0, -2.0, 0.5]) * scale
    together = scores(moved(PRED, turn, shift, scale), moved(REF, turn, shift, scale), scale)
    for kind, expected in scores(PRED, REF).items():
        assert together[kind] == pytest.approx(expected, rel=1e-9)


def test_volumes_do_not_change_with_the_unit_either() -> None:
    plain = volume_iou(PRED, REF, 20_000)
    scaled = volume_iou(*(moved(s, torch.eye(3, dtype=torch.float64), torch.ones(3), 7.0) for s in (PRED, REF)), 20_000)
    assert scaled.iou == pytest.approx(plain.iou, abs=1e-3)
    assert volume_iou(REF, PRED, 20_000).iou == plain.iou


def test_moving_one_side_alone_is_seen() -> None:
    turn = torch.eye(3, dtype=torch.float64)
    aside = scores(moved(PRED, turn, torch.tensor([0.2, 0, 0])), REF)
    assert aside["surface"][0] > 1.1 * scores(PRED, REF)["surface"][0]
