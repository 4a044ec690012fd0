"""Triangle meshes and point sets as the metrics take them: checked once, in double precision."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from eval.box_tree import BoxTree


@dataclass(frozen=True, eq=False)
class Surface:
    """A triangle mesh: open, intersecting, unoriented and degenerate triangles are welcome.

    Args:
        vertices: floating [V, 3], in any unit of length; kept in fp64. Vertices that no face uses count for nothing.
        faces: integers [F, 3], on the same device.
        name: what messages call the mesh.

    Raises:
        ValueError: no triangles, faces of missing vertices, coordinates that are not finite, or other tensors.
    """

    vertices: Tensor
    faces: Tensor
    name: str = "mesh"

    def __post_init__(self) -> None:
        for kind, given in (("vertices", self.vertices), ("faces", self.faces)):
            if not isinstance(given, Tensor):
                raise ValueError(f"{kind} of {self.name} must be a tensor, got {type(given).__name__}")
            if given.ndim != 2 or given.shape[1] != 3:
                raise ValueError(f"{kind} of {self.name} must be [{kind[0].upper()}, 3], got {list(given.shape)}")
        if not self.vertices.is_floating_point():
            raise ValueError(f"vertices of {self.name} must be floating-point, got {self.vertices.dtype}")
        if self.faces.is_floating_point() or self.faces.dtype == torch.bool:
            raise ValueError(f"faces of {self.name} must be integers, got {self.faces.dtype}")
        if self.vertices.device != self.faces.device:
            raise ValueError(
                f"vertices and faces of {self.name} must be on one device, got {self.vertices.device} and "
                f"{self.faces.device}"
            )
        if not len(self.faces):
            raise ValueError(f"{self.name} must have at least one triangle, got none")
        low, high = (int(end) for end in self.faces.aminmax())
        if low < 0 or high >= len(self.vertices):
            raise ValueError(
                f"faces of {self.name} must be of vertices 0 to {len(self.vertices) - 1}, got {low} to {high}"
            )
        if not bool(self.vertices.isfinite().all()):
            raise ValueError(f"vertices of {self.name} must be finite")
        object.__setattr__(self, "vertices", self.vertices.detach().double())
        object.__setattr__(self, "faces", self.faces.long())

    @cached_property
    def corners(self) -> Tensor:
        """fp64 [F, 3, 3]: triangle, corner, coordinate."""
        return self.vertices[self.faces]

    @cached_property
    def area_vectors(self) -> Tensor:
        """fp64 [F, 3]: along the right-handed normals, as long as the triangles are large."""
        a, b, c = self.corners.unbind(1)
        return torch.linalg.cross(b - a, c - a) / 2

    @cached_property
    def areas(self) -> Tensor:
        """fp64 [F]."""
        return self.area_vectors.norm(dim=1)

    @property
    def area(self) -> float:
        """Of all triangles, on both sides of walls inside too; each triangle counts once."""
        return float(self.areas.sum())

    @cached_property
    def normals(self) -> Tensor:
        """Unit vectors fp64 [F, 3]; zero for triangles without an area."""
        areas = self.areas[:, None]
        return torch.where(areas > 0, self.area_vectors / areas, 0)

    @cached_property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Least and largest coordinates of the triangles, fp64 [3] each."""
        flat = self.corners.flatten(0, 1)
        return flat.amin(0), flat.amax(0)

    @cached_property
    def tree(self) -> BoxTree:
        """Of the triangles, for searches."""
        return BoxTree.of_triangles(self.corners)

    @cached_property
    def tree_on_cpu(self) -> BoxTree:
        """The same on the CPU, for rays."""
        return self.tree if self.vertices.device.type == "cpu" else BoxTree.of_triangles(self.corners.cpu())


def checked_points(name: str, points: Tensor) -> Tensor:
    """The points in fp64.

    Args:
        name: of the argument, for messages.
        points: floating [N, 3].

    Raises:
        ValueError: no points, another shape or dtype, or coordinates that are not finite.
    """
    if not isinstance(points, Tensor) or not points.is_floating_point():
        kind = points.dtype if isinstance(points, Tensor) else type(points).__name__
        raise ValueError(f"{name} must be a floating-point tensor, got {kind}")
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"{name} must be [N, 3], got {list(points.shape)}")
    if not len(points):
        raise ValueError(f"{name} must have at least one point, got none")
    if not bool(points.isfinite().all()):
        raise ValueError(f"{name} must be finite")
    return points.detach().double()


def checked_distances(name: str, distances: Tensor) -> Tensor:
    """The distances in fp64.

    Args:
        name: of the argument, for messages.
        distances: floating [N], not negative.

    Raises:
        ValueError: none, another shape or dtype, or values that are no distances.
    """
    if not isinstance(distances, Tensor) or not distances.is_floating_point():
        kind = distances.dtype if isinstance(distances, Tensor) else type(distances).__name__
        raise ValueError(f"{name} must be a floating-point tensor, got {kind}")
    if distances.ndim != 1 or not len(distances):
        raise ValueError(f"{name} must be [N] with at least one distance, got {list(distances.shape)}")
    if not bool((distances.isfinite() & (distances >= 0)).all()):
        raise ValueError(f"{name} must be finite and not negative")
    return distances.detach().double()
