"""What is no surface, no set of points and no list of distances is refused by name."""

from __future__ import annotations

import math

import pytest
import surfaces
import torch

from eval.surface import Surface, checked_distances, checked_points

POINTS = torch.eye(3)
FACES = torch.tensor([[0, 1, 2]])


@pytest.mark.parametrize(
    ("vertices", "faces", "message"),
    [
        (POINTS, FACES[:0], "^pred must have at least one triangle, got none$"),
        (POINTS[:0], FACES, "^faces of pred must be of vertices 0 to -1, got 0 to 2$"),
        (POINTS, FACES + 1, "^faces of pred must be of vertices 0 to 2, got 1 to 3$"),
        (POINTS, FACES - 1, "got -1 to 1$"),
        (POINTS * math.nan, FACES, "^vertices of pred must be finite$"),
        (POINTS / 0, FACES, "^vertices of pred must be finite$"),
        (POINTS[:, :2], FACES, r"^vertices of pred must be \[V, 3\], got \[3, 2\]$"),
        (POINTS, FACES[0], r"^faces of pred must be \[F, 3\], got \[3\]$"),
        (POINTS, FACES.float(), "^faces of pred must be integers, got torch.float32$"),
        (POINTS.long(), FACES, "^vertices of pred must be floating-point, got torch.int64$"),
        (POINTS.numpy(), FACES, "^vertices of pred must be a tensor, got ndarray$"),
    ],
)
def test_no_surface(vertices: torch.Tensor, faces: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Surface(vertices, faces, "pred")


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (POINTS[:0], "^ref must have at least one point, got none$"),
        (POINTS * math.inf, "^ref must be finite$"),
        (POINTS[0], r"^ref must be \[N, 3\], got \[3\]$"),
        (POINTS.int(), "^ref must be a floating-point tensor, got torch.int32$"),
        ([[0.0, 0.0, 0.0]], "^ref must be a floating-point tensor, got list$"),
    ],
)
def test_no_points(points: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_points("ref", points)


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf], [-1.0], [[1.0]]])
def test_no_distances(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"^pred_to_ref must be"):
        checked_distances("pred_to_ref", torch.tensor(values))


def test_a_triangle_has_the_properties_of_one() -> None:
    triangle = surfaces.triangle()
    assert triangle.vertices.dtype == torch.float64
    assert triangle.area == 0.5
    assert triangle.normals.tolist() == [[0, 0, 1]]
    assert [end.tolist() for end in triangle.bounds] == [[0, 0, 0], [1, 1, 0]]


def test_triangles_without_an_area_have_no_normal() -> None:
    soup = surfaces.soup()
    lengths = soup.normals.norm(dim=1)
    assert bool((lengths[::7] == 0).all())
    torch.testing.assert_close(lengths[soup.areas > 0], torch.ones_like(lengths[soup.areas > 0]))


def test_vertices_that_no_triangle_uses_do_not_widen_the_bounds() -> None:
    triangle = surfaces.triangle()
    stray = Surface(torch.cat([triangle.vertices, torch.full((1, 3), 9.0, dtype=torch.float64)]), triangle.faces)
    assert stray.bounds[1].tolist() == [1, 1, 0]
