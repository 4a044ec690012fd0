"""Surface features: what a mesh's surface looks like from each of its voxels."""

from __future__ import annotations

import itertools
import math

import numpy as np

from bench.meshes import Mesh
from bench.workloads import SURFACE_REACH, Floats, Ints, Tokens, surface_samples

FEATURES = 6

# A voxel of a mesh workload has a sample within SURFACE_REACH of its box, so one this near to its centre.
_REACH = math.sqrt(3) / 2 + SURFACE_REACH + 1e-6


def surface_features(shape: Mesh, tokens: Tokens) -> Floats:
    """Offset from the voxel's centre to the nearest sample of the surface, and the unit normal of the face it lies on.

    Args:
        shape: the mesh that `tokens` were made of.

    Returns:
        float64 [N, 6] in the order of ``tokens.coords``; offsets in voxels, at most 1.12 long. Normals point where the
        face's winding says; they are zero on a face without area.

    Raises:
        ValueError: a voxel that is not at the surface.
    """
    side = tokens.resolution
    coords = tokens.coords.numpy().astype(np.int64)
    keys = _linear(coords, side)
    order = np.argsort(keys)
    keys = keys[order]
    triangles = (shape.vertices[shape.faces] + 1) * (side / 2)
    normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), np.finfo(np.float64).tiny)

    nearest = np.full(len(keys), np.inf)
    features = np.zeros((len(keys), FEATURES))
    for points, faces in surface_samples(triangles):
        cell = np.floor(points).astype(np.int64)
        for step in itertools.product((-1, 0, 1), repeat=3):
            voxel = cell + step
            offset = points - voxel - 0.5
            distance = np.sqrt((offset**2).sum(axis=1))
            near = np.flatnonzero((distance <= _REACH) & (voxel >= 0).all(axis=1) & (voxel < side).all(axis=1))
            wanted = _linear(voxel[near], side)
            row = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
            closer = (keys[row] == wanted) & (distance[near] < nearest[row])
            row, near = row[closer], near[closer]
            # Where a voxel comes up more than once, the last assignment stays: the nearest sample's.
            farthest_first = np.argsort(-distance[near], kind="stable")
            row, near = row[farthest_first], near[farthest_first]
            nearest[row] = distance[near]
            features[row, :3] = offset[near]
            features[row, 3:] = normals[faces[near]]
    if not np.isfinite(nearest).all():
        raise ValueError(f"tokens must lie at the surface of mesh {shape.name}")
    unsorted = np.empty_like(features)
    unsorted[order] = features
    return unsorted


def _linear(coords: Ints, side: int) -> Ints:
    """Linear indices of voxels [N, 3]."""
    return (coords[:, 0] * side + coords[:, 1]) * side + coords[:, 2]
