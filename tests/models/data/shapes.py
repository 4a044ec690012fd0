"""Triangle meshes with known distances, and slow but plain ways to compute distances and sides."""

from __future__ import annotations

import numpy as np
import torch
import trimesh
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from models.data.sdf import SparseSDF

Array = NDArray[np.float64]
Mesh = tuple[Array, NDArray[np.int64]]


def sphere(radius: float = 0.7, subdivisions: int = 2, at: tuple[float, float, float] = (0, 0, 0)) -> Mesh:
    mesh = trimesh.creation.icosphere(subdivisions, radius)
    return np.asarray(mesh.vertices) + at, np.asarray(mesh.faces)


def torus(major: float = 0.6, minor: float = 0.25) -> Mesh:
    mesh = trimesh.creation.torus(major, minor, major_sections=16, minor_sections=8)
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def box(*extents: float, at: tuple[float, float, float] = (0, 0, 0)) -> Mesh:
    mesh = trimesh.creation.box(extents)
    return np.asarray(mesh.vertices) + at, np.asarray(mesh.faces)


def square(side: float = 1.0, cells: int = 1, at: tuple[float, float, float] = (0, 0, 0)) -> Mesh:
    """An open sheet normal to z."""
    ticks = np.linspace(-side / 2, side / 2, cells + 1)
    x, y = np.meshgrid(ticks, ticks, indexing="ij")
    corner = np.arange((cells + 1) ** 2).reshape(cells + 1, cells + 1)
    a, b, c, d = corner[:-1, :-1].ravel(), corner[1:, :-1].ravel(), corner[1:, 1:].ravel(), corner[:-1, 1:].ravel()
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    return np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], 1) + at, faces


def joined(*meshes: Mesh) -> Mesh:
    first = np.cumsum([0, *(len(vertices) for vertices, _ in meshes)])
    faces = [faces + start for (_, faces), start in zip(meshes, first[:-1], strict=True)]
    return np.concatenate([vertices for vertices, _ in meshes]), np.concatenate(faces)


def rotation(seed: int) -> Array:
    """A random rotation, [3, 3]."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def moved(mesh: Mesh, turn: Array | None = None, shift: tuple[float, float, float] = (0, 0, 0)) -> Mesh:
    vertices, faces = mesh
    return (vertices if turn is None else vertices @ turn.T) + shift, faces


def box_distance(points: Array, *extents: float) -> Array:
    """Signed distance to a box around the origin."""
    beyond = np.abs(points) - np.array(extents) / 2
    return np.linalg.norm(beyond.clip(min=0), axis=-1) + beyond.max(-1).clip(max=0)


def grid_points(resolution: int) -> Array:
    """[R^3, 3], sorted by x, then y, then z."""
    ticks = 2 * np.arange(resolution) / resolution - 1
    return np.stack(np.meshgrid(ticks, ticks, ticks, indexing="ij"), -1).reshape(-1, 3)


def triangle_distances(points: Array, triangles: Array) -> Array:
    """[P, T]: from every point to every triangle with an area; by projection to its plane and its three edges."""
    a, b, c = triangles.transpose(1, 0, 2)
    normal = np.cross(b - a, c - a)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    height = np.einsum("ptk,tk->pt", points[:, None] - a, normal)
    over = np.ones(height.shape, dtype=bool)
    edges = np.full(height.shape, np.inf)
    for start, end in ((a, b), (b, c), (c, a)):
        offset, side = points[:, None] - start, end - start
        over &= np.einsum("ptk,tk->pt", offset, np.cross(normal, side)) >= 0
        t = (np.einsum("ptk,tk->pt", offset, side) / (side**2).sum(1)).clip(0, 1)
        edges = np.minimum(edges, np.linalg.norm(offset - t[..., None] * side, axis=2))
    return np.where(over, np.abs(height), edges)


def distance(points: Array, mesh: Mesh, within: float = 0.2) -> Array:
    """[P]: to the nearest triangle; infinity where that is certainly farther than `within`."""
    triangles = mesh[0][mesh[1]]
    middle = triangles.mean(1)
    radius = np.linalg.norm(triangles - middle[:, None], axis=2).max()
    near = np.nonzero(cKDTree(middle).query(points)[0] <= within + radius)[0]
    nearest = np.full(len(points), np.inf)
    for part in np.array_split(near, 1 + len(near) * len(triangles) // 200_000):
        nearest[part] = triangle_distances(points[part], triangles).min(1)
    return nearest


def winding_number(points: Array, mesh: Mesh) -> Array:
    """[P]: how often a closed oriented mesh goes around each point, by solid angles (van Oosterom, Strackee 1983)."""
    total = np.zeros(len(points))
    for triangle in mesh[0][mesh[1]]:
        a, b, c = triangle[:, None] - points
        la, lb, lc = (np.linalg.norm(side, axis=1) for side in (a, b, c))
        volume = np.einsum("pk,pk->p", a, np.cross(b, c))
        dots = [np.einsum("pk,pk->p", *pair) for pair in ((a, b), (b, c), (c, a))]
        total += np.arctan2(volume, la * lb * lc + dots[0] * lc + dots[1] * la + dots[2] * lb)
    return total / (2 * np.pi)


def values_at(field: SparseSDF, fill: float = np.nan) -> Array:
    """The field on the whole grid, [R^3], with `fill` beyond the band."""
    dense = torch.full((field.resolution,) * 3, fill, dtype=torch.float64)
    dense[field.coords.long().unbind(1)] = field.values.double()
    return dense.reshape(-1).numpy()
