"""Frames that protocols measure in."""

from __future__ import annotations

import pytest
import surfaces
import torch

from eval.normalise import POLICIES, Policy, normalise, require_one_unit, transform_of
from eval.surface import Surface

LONG = surfaces.box(2, 4, 8, at=(1, 2, 3))


@pytest.mark.parametrize(("policy", "longest"), [("unit-cube", 1), ("max-extent", 2), ("mesh-rcnn", 10), ("none", 8)])
def test_the_longest_side(policy: Policy, longest: float) -> None:
    low, high = transform_of(LONG, policy)(LONG).bounds
    torch.testing.assert_close(high - low, torch.tensor([longest / 4, longest / 2, longest], dtype=torch.float64))
    centre = [1, 2, 3] if policy == "none" else [0, 0, 0]
    torch.testing.assert_close((low + high) / 2, torch.tensor(centre, dtype=torch.float64))


@pytest.mark.parametrize("policy", ["unit-sphere", "centroid-sphere"])
def test_the_farthest_vertex_is_at_one(policy: Policy) -> None:
    fitted = transform_of(surfaces.soup(), policy)(surfaces.soup())
    assert float(transform_of(LONG, policy)(LONG).vertices.norm(dim=1).max()) == pytest.approx(1)
    assert fitted.faces.shape == (60, 3)


def test_the_centroid_is_that_of_the_vertices_that_are_used() -> None:
    corner = Surface(torch.tensor([[0.0, 0, 0], [3, 0, 0], [0, 3, 0], [99, 99, 99]]), torch.tensor([[0, 1, 2]]))
    assert transform_of(corner, "centroid-sphere").centre == (1, 1, 0)
    assert transform_of(corner, "unit-sphere").centre == (1.5, 1.5, 0)


def test_the_references_frame_keeps_an_error_of_scale_and_the_own_frame_hides_it() -> None:
    small = surfaces.box(1, 2, 4)
    pred, ref, *_ = normalise(small, LONG, "unit-cube")
    assert float((pred.bounds[1] - pred.bounds[0]).max()) == pytest.approx(0.5)
    pred, ref, mine, theirs = normalise(small, LONG, "unit-cube", "own")
    torch.testing.assert_close(pred.vertices, ref.vertices)
    assert mine.scale == 2 * theirs.scale


@pytest.mark.parametrize("policy", POLICIES)
def test_equal_surfaces_stay_equal(policy: Policy) -> None:
    pred, ref, *_ = normalise(LONG, LONG, policy)
    assert torch.equal(pred.vertices, ref.vertices)


@pytest.mark.parametrize("factor", [1000.0, 1e-3])
def test_another_unit_of_length_is_refused_by_name(factor: float) -> None:
    other = Surface(LONG.vertices * factor, LONG.faces, "pred")
    with pytest.raises(ValueError, match=r"^pred spans .* and mesh 8: they must be in one unit of length"):
        normalise(other, LONG, "none")
    normalise(other, LONG, "unit-cube", "own")


def test_a_point_has_no_extent() -> None:
    point = Surface(torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.int64), "pred")
    with pytest.raises(ValueError, match=r"^pred must have an extent"):
        transform_of(point, "unit-cube")
    with pytest.raises(ValueError, match=r"^pred spans 0"):
        require_one_unit(point, LONG)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^policy must be one of none, unit-cube"):
        transform_of(LONG, "cube")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^frame must be one of reference, own"):
        normalise(LONG, LONG, "none", "pred")  # type: ignore[arg-type]
