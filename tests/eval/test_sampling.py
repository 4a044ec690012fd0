"""Samples lie on the surface, in proportion to area, the same for the same seed."""

from __future__ import annotations

import math

import pytest
import surfaces
import torch
from scipy import stats

from eval.sampling import sample_sharp_edges, sample_surface
from eval.surface import Surface


def test_triangles_get_samples_by_their_area() -> None:
    surface = surfaces.box(1, 2, 3)
    samples = sample_surface(surface, 20_000, seed=0)
    drawn = samples.face.bincount(minlength=12)
    assert stats.chisquare(drawn, 20_000 * (surface.areas / surface.area)).pvalue > 1e-3


def test_samples_are_uniform_within_a_triangle() -> None:
    points = sample_surface(surfaces.triangle(), 20_000, seed=0).points
    # The part beyond x + y = s has s^2 of the area; that beyond x = t leaves (1 - t)^2.
    assert stats.kstest(points[:, :2].sum(1).square(), "uniform").pvalue > 1e-3
    assert stats.kstest((1 - points[:, 0]).square(), "uniform").pvalue > 1e-3
    assert stats.kstest((1 - points[:, 1]).square(), "uniform").pvalue > 1e-3


def test_a_sample_lies_on_its_triangle_and_has_its_normal() -> None:
    surface = surfaces.sphere(subdivisions=2)
    samples = sample_surface(surface, 500, seed=0)
    height = ((samples.points - surface.corners[samples.face, 0]) * samples.normals).sum(1)
    assert float(height.abs().max()) < 1e-15
    torch.testing.assert_close(samples.normals, surface.normals[samples.face])
    assert samples.points.dtype == samples.normals.dtype == torch.float64


def test_the_seed_decides() -> None:
    a, b, c = (sample_surface(surfaces.sphere(), 50, seed).points for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.gpu
def test_cuda_draws_the_same_points() -> None:
    surface = surfaces.sphere()
    on_gpu = Surface(surface.vertices.cuda(), surface.faces.cuda())
    expected, found = sample_surface(surface, 5000, 3), sample_surface(on_gpu, 5000, 3)
    assert torch.equal(found.face.cpu(), expected.face)
    torch.testing.assert_close(found.points.cpu(), expected.points, atol=1e-14, rtol=0)


def test_triangles_without_an_area_get_none() -> None:
    soup = surfaces.soup()
    drawn = sample_surface(soup, 5000, seed=0).face
    assert bool((soup.areas[drawn] > 0).all())


def test_a_surface_without_an_area_is_refused_by_name() -> None:
    flat = Surface(torch.eye(3), torch.tensor([[0, 1, 1]]), "ref")
    with pytest.raises(ValueError, match=r"^ref must have a surface area"):
        sample_surface(flat, 10, seed=0)


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^count must be positive, got 0$"):
        sample_surface(surfaces.triangle(), 0, seed=0)


def test_sharp_edges_of_a_box_are_its_twelve_by_length() -> None:
    surface = surfaces.box(1, 2, 3)
    samples = sample_sharp_edges(surface, 6000, seed=0)
    relative = samples.points.abs() / torch.tensor([0.5, 1, 1.5])
    at_end = (relative - 1).abs() < 1e-12
    assert bool((at_end.sum(1) >= 2).all())
    along = (~at_end).double().argmax(1).bincount(minlength=3)
    assert stats.chisquare(along, 6000 * torch.tensor([1, 2, 3]) / 6).pvalue > 1e-3
    assert samples.face.unique().tolist() == list(range(12))


def test_sharp_edges_are_found_across_seams() -> None:
    surface = surfaces.box(1, 1, 1)
    apart = Surface(surface.corners.reshape(-1, 3), torch.arange(36).view(-1, 3))
    torch.testing.assert_close(
        sample_sharp_edges(apart, 100, seed=0).points, sample_sharp_edges(surface, 100, seed=0).points
    )


def test_a_smooth_surface_has_no_sharp_edges() -> None:
    assert sample_sharp_edges(surfaces.sphere(), 100, seed=0).points.shape == (0, 3)


def test_the_angle_decides_what_is_sharp() -> None:
    """Between neighbours of an icosahedron's faces it is 41.8 degrees."""
    ball = surfaces.sphere(subdivisions=0)
    angle = math.degrees(math.acos(math.sqrt(5) / 3))
    assert len(sample_sharp_edges(ball, 10, seed=0, degrees=angle - 0.1).points) == 10
    assert len(sample_sharp_edges(ball, 10, seed=0, degrees=angle + 0.1).points) == 0


@pytest.mark.parametrize("degrees", [0, 180, math.nan])
def test_an_angle_that_is_none_is_refused(degrees: float) -> None:
    with pytest.raises(ValueError, match=r"^degrees must be between 0 and 180"):
        sample_sharp_edges(surfaces.triangle(), 10, seed=0, degrees=degrees)
