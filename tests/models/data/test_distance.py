"""Distances to triangles of any shape; the kernel for a GPU agrees with the code compiled for a CPU."""

from __future__ import annotations

import numpy as np
import pytest
import shapes
import torch
from torch import Tensor

from models.data.distance import triangle_distance
from models.data.triton_distance import fill_distances


def soup() -> Tensor:
    """Random triangles of all sizes, some of them segments and points."""
    corners = torch.randn(60, 3, 3, dtype=torch.float64) * torch.logspace(-3, 1, 60, dtype=torch.float64)[:, None, None]
    corners[::5, 2] = corners[::5, 0]  # a segment, there and back
    corners[1::5, 2] = 0.25 * corners[1::5, 0] + 0.75 * corners[1::5, 1]  # a segment through all three corners
    corners[2::15] = corners[2::15, :1]  # a point
    return corners


def pairs(corners: Tensor, points: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    """Points [3, Q] and pairs of them with triangles, in random order."""
    triangle = torch.arange(len(corners)).repeat_interleave(points)
    scale = corners.abs().amax((1, 2))[triangle]
    order = torch.randperm(len(triangle))
    return torch.randn(3, len(triangle), dtype=corners.dtype) * scale, order, triangle[order]


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton interprets kernels only where there is no GPU")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_kernel_agrees_with_compiled_code(dtype: torch.dtype, tolerance: float) -> None:
    corners = soup().to(dtype)
    points, point, triangle = pairs(corners)
    compiled = triangle_distance(points, corners, point, triangle)
    interpreted = torch.full_like(compiled, torch.nan)
    fill_distances(points, corners, point, triangle, interpreted)
    assert compiled.dtype == dtype
    scale = corners.abs().amax((1, 2))[triangle]
    assert float(((compiled - interpreted).abs() / scale).max()) < tolerance


def test_distances_of_triangles_with_an_area() -> None:
    corners = torch.randn(50, 3, 3, dtype=torch.float64)
    points, point, triangle = pairs(corners)
    found = triangle_distance(points, corners, point, triangle)
    for t in range(50):
        at = triangle == t
        each = shapes.triangle_distances(points[:, point[at]].T.numpy(), corners[t][None].numpy())[:, 0]
        np.testing.assert_allclose(found[at], each, atol=1e-12)


@pytest.mark.parametrize(
    ("point", "distance"),
    [
        ((0.25, 0.25, 2.0), 2.0),  # over the face
        ((0.25, 0.25, 0.0), 0.0),  # on it
        ((0.5, -3.0, 4.0), 5.0),  # beyond an edge
        ((-3.0, -4.0, 0.0), 5.0),  # beyond a corner
        ((1.0, 1.0, 0.0), 0.5**0.5),  # beyond the slanted edge
        ((1.0, 0.0, 0.0), 0.0),  # at a corner
    ],
)
def test_every_feature_of_a_triangle(point: tuple[float, float, float], distance: float) -> None:
    corners = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]], dtype=torch.float64)
    points = torch.tensor(point, dtype=torch.float64)[:, None]
    only = torch.zeros(1, dtype=torch.int64)
    assert float(triangle_distance(points, corners, only, only)) == pytest.approx(distance, abs=1e-15)


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu() -> None:
    corners = soup()
    pair = pairs(corners)
    points, point, triangle = (tensor.cuda() for tensor in pair)
    on_gpu = triangle_distance(points, corners.cuda(), point, triangle).cpu()
    expected = triangle_distance(pair[0], corners, *pair[1:])
    torch.testing.assert_close(on_gpu, expected, atol=1e-11, rtol=1e-11)
