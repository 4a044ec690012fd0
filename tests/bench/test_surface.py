"""Surface features, on surfaces whose nearest points are known."""

from __future__ import annotations

import numpy as np
import pytest

from bench.meshes import Mesh, load_mesh
from bench.surface import surface_features
from bench.workloads import Tokens, make_tokens, mesh


def test_features_of_a_plane_are_its_height_and_its_normal() -> None:
    corners = np.array([[-0.95, -0.95, 0.0], [0.95, -0.95, 0.0], [0.95, 0.95, 0.0], [-0.95, 0.95, 0.0]])
    plane = Mesh(corners, np.array([[0, 1, 2], [0, 2, 3]]), "plane")
    grid = np.stack(np.meshgrid(range(2, 14), range(2, 14), (7, 8), indexing="ij"), axis=-1).reshape(-1, 3)
    order = np.random.default_rng(0).permutation(len(grid))
    tokens = Tokens("mesh:plane", make_tokens("sphere", 8, 8).coords.new_tensor(grid[order]), 16)
    features = surface_features(plane, tokens)
    # The plane lies between voxels 7 and 8; samples lie within 0.18 voxel of every point of it.
    np.testing.assert_allclose(features[:, 2], np.where(grid[order][:, 2] == 7, 0.5, -0.5), atol=1e-9)
    assert np.linalg.norm(features[:, :2], axis=1).max() <= 0.18
    np.testing.assert_allclose(features[:, 3:], np.tile([0.0, 0.0, 1.0], (len(grid), 1)), atol=1e-12)


def test_every_voxel_of_a_mesh_workload_has_features_of_the_nearest_sample() -> None:
    deer, tokens = load_mesh("deer"), mesh("deer", tokens=500)
    features = surface_features(deer, tokens)
    assert features.shape == (500, 6)
    np.testing.assert_allclose(np.linalg.norm(features[:, 3:], axis=1), 1.0, atol=1e-9)
    offsets, centres = features[:, :3], tokens.coords.numpy() + 0.5
    assert np.linalg.norm(offsets, axis=1).max() <= np.sqrt(3) / 2 + 0.25
    # No vertex of the mesh is nearer than the nearest sample: vertices are samples.
    vertices = (deer.vertices + 1) * (tokens.resolution / 2)
    nearest = np.linalg.norm(vertices[None] - centres[:, None], axis=2).min(axis=1)
    assert (np.linalg.norm(offsets, axis=1) <= nearest + 1e-9).all()


def test_a_voxel_away_from_the_surface_is_refused() -> None:
    with pytest.raises(ValueError, match="tokens must lie at the surface of mesh deer"):
        surface_features(load_mesh("deer"), make_tokens("gyroid", 100))
