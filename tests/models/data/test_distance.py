"""Distances to triangles of any shape; the tensor operations used on a GPU agree with the code compiled for a CPU."""

from __future__ import annotations

import numpy as np
import pytest
import shapes
import torch
from torch import Tensor

from models.data.distance import tensor_distance, triangle_distance


def soup() -> Tensor:
    """Random triangles of all sizes, some of them segments and points."""
    corners = torch.randn(60, 3, 3, dtype=torch.float64) * torch.logspace(-3, 1, 60, dtype=torch.float64)[:, None, None]
    corners[::5, 2] = corners[::5, 0]  # a segment, there and back
    corners[1::5, 2] = 0.25 * corners[1::5, 0] + 0.75 * corners[1::5, 1]  # a segment through all three corners
    corners[2::15] = corners[2::15, :1]  # a point
    return corners


def pairs(corners: Tensor, points: int = 40) -> tuple[Tensor, Tensor]:
    triangle = torch.arange(len(corners)).repeat_interleave(points)
    scale = corners.abs().amax((1, 2))[triangle]
    return torch.randn(3, len(triangle), dtype=corners.dtype) * scale, triangle


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_tensor_operations_agree_with_compiled_code(dtype: torch.dtype, tolerance: float) -> None:
    corners = soup().to(dtype)
    points, triangle = pairs(corners)
    compiled = triangle_distance(points, corners, triangle)
    tensors = tensor_distance(points, corners.permute(1, 2, 0)[:, :, triangle])
    assert compiled.dtype == tensors.dtype == dtype
    scale = corners.abs().amax((1, 2))[triangle]
    assert float(((compiled - tensors).abs() / scale).max()) < tolerance


def test_distances_of_triangles_with_an_area() -> None:
    corners = torch.randn(50, 3, 3, dtype=torch.float64)
    points, triangle = pairs(corners)
    each = [
        shapes.triangle_distances(points[:, triangle == t].T.numpy(), corners[t][None].numpy())[:, 0] for t in range(50)
    ]
    np.testing.assert_allclose(triangle_distance(points, corners, triangle), np.concatenate(each), atol=1e-12)


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
    for found in (
        triangle_distance(points, corners, torch.zeros(1, dtype=torch.int64)),
        tensor_distance(points, corners.permute(1, 2, 0)),
    ):
        assert float(found) == pytest.approx(distance, abs=1e-15)


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu() -> None:
    corners = soup()
    points, triangle = pairs(corners)
    on_gpu = triangle_distance(points.cuda(), corners.cuda(), triangle.cuda()).cpu()
    torch.testing.assert_close(on_gpu, triangle_distance(points, corners, triangle), atol=1e-11, rtol=1e-11)
