"""Whether a mesh is closed, and of how many pieces it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eval.surface import Surface
from models.data.components import connected_components


@dataclass(frozen=True)
class Topology:
    """Counts of a mesh: vertices at equal positions are one, triangles of fewer than three of these are left out."""

    vertices: int
    edges: int
    faces: int
    degenerate_faces: int  # left out
    boundary_edges: int  # of one triangle
    nonmanifold_edges: int  # of more than two triangles
    misoriented_edges: int  # of two triangles that run along it in the same direction
    components: int  # pieces joined by edges

    @property
    def watertight(self) -> bool:
        """Every edge has exactly two triangles, as in trimesh's `is_watertight`."""
        return self.faces > 0 and self.boundary_edges == 0 and self.nonmanifold_edges == 0

    @property
    def oriented(self) -> bool:
        """Neighbouring triangles face the same side."""
        return self.misoriented_edges == 0 and self.nonmanifold_edges == 0

    @property
    def euler(self) -> int:
        """Euler characteristic, vertices - edges + faces: 2 for each closed piece without handles, 2 less a handle."""
        return self.vertices - self.edges + self.faces

    @property
    def genus(self) -> int | None:
        """Handles of all pieces together; None unless watertight and oriented."""
        return self.components - self.euler // 2 if self.watertight and self.oriented else None


def topology(surface: Surface) -> Topology:
    """Counts from positions of vertices: where a file has a vertex twice, as at seams of texture, it is one."""
    _, merged = surface.vertices.unique(dim=0, return_inverse=True)
    faces = merged[surface.faces]
    proper = (faces != faces.roll(1, 1)).all(1)
    degenerate, faces = int((~proper).sum()), faces[proper]
    halves = torch.cat([faces[:, [i, j]] for i, j in ((0, 1), (1, 2), (2, 0))])
    edges, member, count = halves.sort(1).values.unique(dim=0, return_inverse=True, return_counts=True)
    along = torch.zeros_like(count).index_add_(0, member, (halves[:, 0] < halves[:, 1]).long())
    return Topology(
        vertices=len(faces.unique()),
        edges=len(edges),
        faces=len(faces),
        degenerate_faces=degenerate,
        boundary_edges=int((count == 1).sum()),
        nonmanifold_edges=int((count > 2).sum()),
        misoriented_edges=int(((count == 2) & (along != 1)).sum()),
        components=_components(member, len(faces), len(edges)),
    )


def _components(edge: Tensor, faces: int, edges: int) -> int:
    """Pieces of triangles, from the edge of every side, int64 [3 faces], first sides first."""
    face = torch.arange(faces, device=edge.device).repeat(3)
    label = connected_components(torch.stack([face, edge + faces]), faces + edges)
    return len(label[:faces].unique())
