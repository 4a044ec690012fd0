"""Surfaces with known properties."""

from __future__ import annotations

import torch
import trimesh
from torch import Tensor

from eval.nearest import nearest_on_surface, nearest_point
from eval.sampling import sample_surface
from eval.surface import Surface


def of(mesh: trimesh.Trimesh, name: str = "mesh") -> Surface:
    return Surface(torch.tensor(mesh.vertices), torch.tensor(mesh.faces), name)


def sphere(radius: float = 1.0, subdivisions: int = 4, at: tuple[float, float, float] = (0, 0, 0)) -> Surface:
    mesh = trimesh.creation.icosphere(subdivisions, radius)
    mesh.apply_translation(at)
    return of(mesh)


def box(*extents: float, at: tuple[float, float, float] = (0, 0, 0)) -> Surface:
    mesh = trimesh.creation.box(extents)
    mesh.apply_translation(at)
    return of(mesh)


def triangle() -> Surface:
    return Surface(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]]), "triangle")


def joined(*surfaces: Surface) -> Surface:
    start, faces = 0, []
    for surface in surfaces:
        faces.append(surface.faces + start)
        start += len(surface.vertices)
    return Surface(torch.cat([s.vertices for s in surfaces]), torch.cat(faces))


def flipped(surface: Surface) -> Surface:
    return Surface(surface.vertices, surface.faces.flip(1))


def soup(triangles: int = 60) -> Surface:
    """Random triangles of all sizes, some of them segments and points."""
    corners = torch.randn(triangles, 3, 3) * torch.logspace(-3, 0, triangles)[:, None, None] + torch.randn(
        triangles, 1, 3
    )
    corners[::7, 2] = corners[::7, 0]
    corners[3::14] = corners[3::14, :1]
    return Surface(corners.reshape(-1, 3), torch.arange(3 * triangles).view(-1, 3), "soup")


def rotation() -> Tensor:
    """A random rotation, fp64 [3, 3]."""
    q, r = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    q = q * r.diagonal().sign()
    return q * torch.linalg.det(q).sign()


def between_points(pred: Surface, ref: Surface, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Distances of samples to the other side's samples."""
    a, b = sample_surface(pred, count, seed).points, sample_surface(ref, count, seed + 1).points
    return nearest_point(a, b).distance, nearest_point(b, a).distance


def to_surfaces(pred: Surface, ref: Surface, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Distances of samples to the other surface."""
    a, b = sample_surface(pred, count, seed).points, sample_surface(ref, count, seed + 1).points
    return nearest_on_surface(a, ref).distance, nearest_on_surface(b, pred).distance
