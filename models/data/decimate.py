"""Fewer triangles for a surface, by quadric error metrics (Garland and Heckbert, 1997).

libigl does the work: it makes only those collapses of edges that leave a manifold a manifold. Faster simplifiers
(fast-simplification, meshoptimizer) opened most of the closed surfaces on which they were tried.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.data.isosurface import Surface

LEAST_FACES = 4


def decimate(vertices: Tensor, faces: Tensor, target_faces: int) -> Surface:
    """At most `target_faces` triangles if the surface's topology allows, else as few as it does.

    Open borders stay borders, closed surfaces stay closed, with their number of handles and components. Works on the
    CPU, removing about 40,000 faces a second; a surface that is small enough already comes back as it is.

    Args:
        vertices: floating [V, 3]. faces: int64 [F, 3], an oriented manifold, with or without a border: what
            `isosurface` makes.

    Returns:
        The surface on the device of `vertices`; its normals are means of the faces' normals, weighted by area.

    Raises:
        ValueError: no manifold, faces of missing vertices, coordinates that are not finite, or a target below 4.
        ModuleNotFoundError: libigl is not installed; the extra `decimate` has it.
    """
    try:
        import igl
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("decimate needs libigl: pip install 'ssabench[decimate]'", name="igl") from error

    _validate(vertices, faces, target_faces)
    # The library reads around the vertices of faces, and goes astray at one where two surfaces touch.
    if len(faces) and not bool(igl.is_vertex_manifold(faces.cpu().numpy()).all()):
        raise ValueError("faces must be a manifold: around some vertex they form more than one fan")
    if len(faces) > target_faces:
        moved, kept, _, _ = igl.qslim(vertices.detach().cpu().double().numpy(), faces.cpu().numpy(), target_faces)
        vertices, faces = (torch.from_numpy(array.copy(order="C")).to(vertices.device) for array in (moved, kept))
    return Surface(vertices.float(), faces, vertex_normals(vertices, faces).float())


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """[V, 3], unit: means of the normals of the faces at a vertex, weighted by area; zero where there is no face."""
    a, b, c = vertices[faces].unbind(1)
    doubled = torch.linalg.cross(b - a, c - a)
    total = torch.zeros_like(vertices).index_add_(0, faces.reshape(-1), doubled.repeat_interleave(3, 0))
    return total / total.norm(dim=1, keepdim=True).clamp(min=torch.finfo(total.dtype).tiny)


def _validate(vertices: Tensor, faces: Tensor, target_faces: int) -> None:
    if target_faces < LEAST_FACES:
        raise ValueError(f"target_faces must be at least {LEAST_FACES}, got {target_faces}")
    for name, given, letter in (("vertices", vertices, "V"), ("faces", faces, "F")):
        if given.dim() != 2 or given.shape[1] != 3:
            raise ValueError(f"{name} must have shape [{letter}, 3], got {list(given.shape)}")
    if not bool(vertices.isfinite().all()):
        raise ValueError("vertices must be finite")
    if not len(faces):
        return
    low, high = (int(end) for end in faces.aminmax())
    if low < 0 or high >= len(vertices):
        raise ValueError(f"faces must name vertices from 0 to {len(vertices) - 1}, got {low} to {high}")
    directed = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    name_of_edge = directed[:, 0] * len(vertices) + directed[:, 1]
    if bool((directed[:, 0] == directed[:, 1]).any()) or len(name_of_edge.unique()) < len(name_of_edge):
        raise ValueError("faces must be an oriented manifold: some edge is there twice in the same direction")
