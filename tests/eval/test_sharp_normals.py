"""Normal maps, their edges, and the error near them."""

from __future__ import annotations

import math

import pytest
import surfaces
import torch

from eval.sharp_normals import edges, normal_map, sharp_normal_error, sphere_views
from eval.surface import Surface
from models.data.cameras import orbit

BOX = surfaces.box(1, 1, 1)
VIEWS = sphere_views(3, radius=0.9, size=96)


def rounded(radius: float) -> Surface:
    """The box with its edges rounded off, as a fine mesh."""
    ball = surfaces.sphere(1.0, 5).vertices
    scale = (0.5 - radius) / ball.abs().amax(1, keepdim=True)
    return Surface(
        (ball * scale * 3).clamp(-(0.5 - radius), 0.5 - radius) + radius * ball, surfaces.sphere(1.0, 5).faces
    )


def test_equal_surfaces_have_no_error() -> None:
    found = sharp_normal_error(BOX, BOX, VIEWS)
    assert (found.sharp, found.all) == (0, 0)
    assert 0 < found.sharp_share < 1


def test_orientation_does_not_matter_because_normals_face_the_camera() -> None:
    assert sharp_normal_error(surfaces.flipped(BOX), BOX, VIEWS).all == 0


def test_rounder_edges_are_worse_and_worst_near_the_edges() -> None:
    slightly, much = (sharp_normal_error(rounded(radius), BOX, VIEWS) for radius in (0.05, 0.15))
    assert 0 < slightly.all < much.all
    assert slightly.sharp > 2 * slightly.all


def test_an_edge_is_found_where_it_is() -> None:
    """Two planes that meet in the middle column."""
    left, right = (torch.tensor([math.sin(a), 0.0, math.cos(a)]) for a in (-0.5, 0.5))
    normals = torch.cat([left.expand(32, 16, 3), right.expand(32, 16, 3)], dim=1)
    columns = edges(normals).nonzero()[:, 1].unique().tolist()
    assert set(columns) <= {15, 16}
    assert bool(edges(normals).any(1).all())


def test_a_slope_without_an_edge_has_none() -> None:
    angle = torch.linspace(-0.5, 0.5, 64)
    normals = torch.stack([angle.sin(), torch.zeros(64), angle.cos()], 1).expand(64, 64, 3)
    assert not bool(edges(normals).any())


def step(size: float) -> torch.Tensor:
    """A normal map with a step in one coordinate, of which its image has half."""
    image = torch.zeros(16, 32, 3)
    image[:, 16:, 0] = 2 * size
    return image


@pytest.mark.parametrize(("size", "found"), [(0.19, False), (0.21, True)])
def test_a_step_is_an_edge_from_a_fifth_of_the_range_on(size: float, found: bool) -> None:
    assert bool(edges(step(size)).any()) == found


@pytest.mark.parametrize(("size", "continued"), [(0.09, False), (0.15, True)])
def test_a_weaker_step_counts_where_it_continues_a_stronger_one(size: float, continued: bool) -> None:
    together = edges(torch.cat([step(0.4), step(size)]))
    assert bool(together[:12].any())
    assert bool(together[24:].any()) == continued


def test_normals_are_unit_and_face_the_camera_where_something_is_seen() -> None:
    camera = orbit(20, 30, radius=0.9, width=64, height=64)
    normals = normal_map(surfaces.sphere(0.8, 3), camera)
    length = normals.norm(dim=2)
    seen = length > 0
    torch.testing.assert_close(length[seen], torch.ones_like(length[seen]))
    assert float(normals[..., 2][seen].min()) > -0.2  # perspective: seen a little from the side
    assert torch.equal(normals[32, 32].round(decimals=1), torch.tensor([0.0, 0, 1], dtype=torch.float64).abs())
    assert 0.3 < float(seen.double().mean()) < 0.9


def test_what_only_one_shows_is_an_error_of_one() -> None:
    away = surfaces.box(0.2, 0.2, 0.2, at=(50, 0, 0))
    assert sharp_normal_error(away, BOX, VIEWS).all == pytest.approx(1)


def test_views_look_from_all_around_at_the_origin() -> None:
    places = torch.tensor([camera.position for camera in sphere_views(22)])
    assert len(places) == 22
    assert float(torch.nn.functional.normalize(places, dim=1).mean(0).norm()) < 0.05


def test_no_views_and_views_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^cameras must have at least one view$"):
        sharp_normal_error(BOX, BOX, [])
    away = surfaces.box(0.1, 0.1, 0.1, at=(90, 90, 90))
    with pytest.raises(ValueError, match=r"^cameras show neither surface$"):
        sharp_normal_error(away, away, VIEWS)
