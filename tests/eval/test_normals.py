"""Normal consistency: 1 for equal surfaces, and flips show in the signed value alone."""

from __future__ import annotations

import math

import pytest
import surfaces
import torch

from eval.nearest import nearest_on_surface
from eval.normals import NormalConsistency, normal_consistency
from eval.sampling import sample_surface
from eval.surface import Surface


def consistency(pred: Surface, ref: Surface) -> NormalConsistency:
    a, b = sample_surface(pred, 2000, seed=0), sample_surface(ref, 2000, seed=1)
    return normal_consistency(
        a.normals,
        ref.normals[nearest_on_surface(a.points, ref).index],
        b.normals,
        pred.normals[nearest_on_surface(b.points, pred).index],
    )


def test_concentric_spheres_are_parallel() -> None:
    found = consistency(surfaces.sphere(0.9, 5), surfaces.sphere(1.0, 5))
    assert found.signed == pytest.approx(1, abs=1e-3)
    assert found.absolute == pytest.approx(1, abs=1e-3)


def test_a_flipped_surface_shows_in_the_signed_value() -> None:
    ball = surfaces.sphere()
    found = consistency(surfaces.flipped(ball), ball)
    assert found.signed == pytest.approx(-1, abs=1e-3)
    assert found.absolute == pytest.approx(1, abs=1e-3)


def test_sides_and_angles() -> None:
    x, z = torch.tensor([[1.0, 0, 0]]), torch.tensor([[0.0, 0, 1]])
    slanted = torch.tensor([[0.0, -math.sqrt(0.5), -math.sqrt(0.5)]])
    found = normal_consistency(x, z, z, slanted)
    assert (found.pred_signed, found.pred_absolute, found.pred_degrees) == pytest.approx((0, 0, 90), abs=1e-5)
    expected = (-math.sqrt(0.5), math.sqrt(0.5), 45)
    assert (found.ref_signed, found.ref_absolute, found.ref_degrees) == pytest.approx(expected, abs=1e-5)
    assert found.signed == pytest.approx(-math.sqrt(0.5) / 2)
    assert found.degrees == pytest.approx(67.5)


@pytest.mark.parametrize(
    ("pred", "matched_ref", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0, 3), r"^pred must be \[N, 3\] with at least one normal"),
        (torch.full((1, 3), math.nan), torch.zeros(1, 3), "^pred must be unit vectors"),
        (torch.zeros(1, 3), torch.full((1, 3), 2.0), "^matched_ref must be unit vectors"),
        (torch.zeros(2, 3), torch.zeros(1, 3), "^pred and matched_ref must agree"),
    ],
)
def test_what_are_no_normals_is_refused(pred: torch.Tensor, matched_ref: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normal_consistency(pred, matched_ref, torch.zeros(1, 3), torch.zeros(1, 3))
