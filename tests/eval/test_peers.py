"""The same numbers as other implementations: `pip install -e '.[peers]'`."""

from __future__ import annotations

import numpy as np
import pytest
import surfaces
import torch
import trimesh
from scipy.spatial.distance import cdist, directed_hausdorff

from eval.chamfer import chamfer
from eval.emd import earth_mover
from eval.fscore import fscores
from eval.hausdorff import hausdorff
from eval.nearest import nearest_on_surface, nearest_point
from eval.rays import inside
from eval.topology import topology

RADII = [0.02, 0.1, 0.5]


def clouds(count: int = 2000) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 3, dtype=torch.float64), 1.1 * torch.randn(count + 500, 3, dtype=torch.float64)


def both_ways(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return nearest_point(a, b).distance, nearest_point(b, a).distance


def mesh() -> trimesh.Trimesh:
    return trimesh.creation.torus(1, 0.4, major_sections=40, minor_sections=20)


def test_scipy_agrees_on_points() -> None:
    a, b = clouds(300)
    pairs = cdist(a, b)
    distances = both_ways(a, b)
    assert chamfer(*distances).sum_l1 == pytest.approx(pairs.min(1).mean() + pairs.min(0).mean(), rel=1e-12)
    expected = max(directed_hausdorff(a, b)[0], directed_hausdorff(b, a)[0])
    assert hausdorff(*distances).distance == pytest.approx(expected, rel=1e-12)


def test_trimesh_agrees_on_closedness_and_volume() -> None:
    ring = mesh()
    found = topology(surfaces.of(ring))
    assert (found.watertight, found.euler) == (ring.is_watertight, ring.euler_number)
    low, high = torch.tensor(ring.bounds)
    points = low + torch.rand(20_000, 3) * (high - low)
    share = float(inside(points, surfaces.of(ring))[0].double().mean())
    assert share * float((high - low).prod()) == pytest.approx(ring.volume, rel=0.03)


@pytest.mark.peers
def test_open3d_agrees_on_points() -> None:
    open3d = pytest.importorskip("open3d", reason="needs the extra peers")
    geometry = open3d.t.geometry
    a, b = clouds()
    pair = [geometry.PointCloud(open3d.core.Tensor(x.float().numpy())) for x in (a, b)]
    metrics = [geometry.Metric.ChamferDistance, geometry.Metric.HausdorffDistance, geometry.Metric.FScore]
    expected = pair[0].compute_metrics(pair[1], metrics, geometry.MetricParameters(fscore_radius=RADII)).numpy()
    distances = both_ways(a, b)
    ours = [
        chamfer(*distances).sum_l1,
        hausdorff(*distances).distance,
        *(100 * f.fscore for f in fscores(*distances, RADII, strict=True)),
    ]
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


@pytest.mark.peers
def test_open3d_agrees_on_distances_to_a_surface() -> None:
    open3d = pytest.importorskip("open3d", reason="needs the extra peers")
    ring, queries = mesh(), torch.randn(5000, 3)
    scene = open3d.t.geometry.RaycastingScene()
    scene.add_triangles(ring.vertices.astype(np.float32), ring.faces.astype(np.uint32))
    expected = scene.compute_distance(open3d.core.Tensor(queries.numpy())).numpy()
    np.testing.assert_allclose(nearest_on_surface(queries, surfaces.of(ring)).distance, expected, atol=2e-6)
    within = scene.compute_occupancy(open3d.core.Tensor(queries.numpy())).numpy() > 0.5
    assert np.array_equal(inside(queries, surfaces.of(ring))[0], within)


@pytest.mark.peers
def test_point_cloud_utils_agrees_on_points() -> None:
    peer = pytest.importorskip("point_cloud_utils", reason="needs the extra peers")
    a, b = clouds()
    distances = both_ways(a, b)
    # Its Chamfer distance is the sum of means of distances that are not squared.
    assert chamfer(*distances).sum_l1 == pytest.approx(float(peer.chamfer_distance(a.numpy(), b.numpy())), rel=1e-9)
    assert hausdorff(*distances).distance == pytest.approx(peer.hausdorff_distance(a.numpy(), b.numpy()), rel=1e-9)


@pytest.mark.peers
def test_point_cloud_utils_agrees_on_distances_to_a_surface() -> None:
    peer = pytest.importorskip("point_cloud_utils", reason="needs the extra peers")
    ring, queries = mesh(), torch.randn(5000, 3, dtype=torch.float64)
    expected, *_ = peer.closest_points_on_mesh(queries.numpy(), np.asarray(ring.vertices), np.asarray(ring.faces))
    np.testing.assert_allclose(nearest_on_surface(queries, surfaces.of(ring)).distance, expected, atol=2e-6)


@pytest.mark.peers
def test_point_cloud_utils_comes_near_the_earth_movers_distance() -> None:
    peer = pytest.importorskip("point_cloud_utils", reason="needs the extra peers")
    a, b = torch.rand(200, 3, dtype=torch.float64), torch.rand(200, 3, dtype=torch.float64)
    regularised, _ = peer.earth_movers_distance(a.numpy(), b.numpy(), eps=1e-3, max_iters=2000)
    assert earth_mover(a, b).distance == pytest.approx(float(regularised), rel=0.02)
