"""What can be seen from outside, and what share of a surface cannot."""

from __future__ import annotations

import pytest
import surfaces
import torch

from eval.rays import interior_share, sample_outer_surface, seen_from_outside, sphere_directions
from eval.sampling import sample_surface
from eval.surface import Surface


@pytest.mark.parametrize(
    "surface", [surfaces.sphere(), surfaces.box(1, 2, 3), surfaces.triangle(), surfaces.flipped(surfaces.sphere())]
)
def test_all_of_a_convex_surface_is_seen(surface: Surface) -> None:
    assert interior_share(surface, 2000) == 0


def test_a_shell_inside_is_not_seen() -> None:
    both = surfaces.joined(surfaces.sphere(1.0), surfaces.sphere(0.9))
    assert interior_share(both, 5000) == pytest.approx(0.81 / 1.81, abs=0.03)


def test_an_opening_shows_what_is_inside() -> None:
    hull = surfaces.box(1, 1, 1)
    opened = Surface(hull.vertices, hull.faces[2:])
    core = surfaces.box(0.5, 0.5, 0.5)
    samples = sample_surface(surfaces.joined(core, opened), 3000, seed=0)
    seen = seen_from_outside(samples, surfaces.joined(core, opened))
    assert 0.1 < float(seen[samples.face < 12].double().mean()) < 0.9
    assert bool(seen[samples.face >= 12].all())


def test_coinciding_triangles_do_not_hide_each_other() -> None:
    ball = surfaces.sphere(subdivisions=2)
    assert interior_share(surfaces.joined(ball, surfaces.flipped(ball)), 1000) == 0


def test_samples_of_the_outside_are_as_many_as_asked_for_and_on_it() -> None:
    both = surfaces.joined(surfaces.sphere(1.0), surfaces.sphere(0.9))
    samples = sample_outer_surface(both, 3000, seed=0)
    assert len(samples.points) == len(samples.face) == len(samples.normals) == 3000
    assert float(samples.points.norm(dim=1).min()) > 0.95
    # Not one octant more than another.
    octant = ((samples.points > 0).long() * torch.tensor([1, 2, 4])).sum(1).bincount(minlength=8)
    assert int(octant.max()) < 1.3 * int(octant.min())


@pytest.mark.parametrize("count", [1, 7, 500])
def test_little_that_is_seen_is_found_all_the_same(count: int) -> None:
    """A tenth of the area, around balls that are hidden."""
    hidden = [surfaces.sphere(0.4 + 0.001 * i, 2) for i in range(25)]
    surface = surfaces.joined(surfaces.box(1, 1, 1), *hidden)
    samples = sample_outer_surface(surface, count, seed=0)
    assert len(samples.points) == count
    assert bool((samples.face < 12).all())


def test_what_is_never_seen_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.rays.seen_from_outside", lambda samples, surface: torch.zeros(len(samples.face)).bool())
    with pytest.raises(ValueError, match=r"^triangle is hardly seen from outside: 0 of \d+ samples$"):
        sample_outer_surface(surfaces.triangle(), 5, seed=0)
    with pytest.raises(ValueError, match=r"^count must be positive, got 0$"):
        sample_outer_surface(surfaces.triangle(), 0, seed=0)


def test_directions_are_unit_vectors_spread_evenly() -> None:
    directions = sphere_directions(128)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(128, dtype=torch.float64))
    assert float(directions.mean(0).norm()) < 0.01
    assert float((directions @ directions.T - 2 * torch.eye(128)).amax()) < 0.985
    assert float(directions.abs().min()) > 1e-6


def test_no_directions_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^directions must be positive, got 0$"):
        seen_from_outside(sample_surface(surfaces.triangle(), 1, seed=0), surfaces.triangle(), 0)
