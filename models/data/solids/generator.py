"""Random solids: an object or a composition, then what makes it unlike its kind."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from manifold3d import Error, Manifold
from numpy.typing import NDArray

from models.data.mesh_file import fit_into_cube
from models.data.solids import compositions, furniture, machines, structures, vessels
from models.data.solids.draw import SIZE, Draw
from models.data.solids.parts import Part, a, union

FACES = (20, 200_000)
# Shares of the bounding box that a solid fills at least, and of the solid that a piece does.
_LEAST_VOLUME = 1e-3
_LEAST_PIECE = 1e-3
# Edges shorter than this share of the nominal size are needles that set operations leave.
_NEEDLE = 1e-5

Kind = Callable[[Draw], Part]
# How often each group is drawn, and its kinds, each as often as the others.
KINDS: tuple[tuple[float, tuple[Kind, ...]], ...] = (
    (0.2, (furniture.table, furniture.chair, furniture.shelf, furniture.lamp, furniture.bed, furniture.cage)),
    (
        0.25,
        (
            machines.flange,
            machines.gear,
            machines.bracket,
            machines.heat_sink,
            machines.bolt,
            machines.pipe,
            machines.spring,
            machines.fan,
            machines.motor,
            machines.cover,
        ),
    ),
    (0.15, (vessels.vase, vessels.cup, vessels.bottle, vessels.goblet, vessels.teapot, vessels.tin)),
    (
        0.2,
        (
            structures.temple,
            structures.house,
            structures.stairs,
            structures.tower,
            structures.car,
            structures.rocket,
            structures.plane,
            structures.chain,
            structures.fence,
            structures.tree,
            structures.fountain,
        ),
    ),
    (
        0.2,
        (
            compositions.composition,
            compositions.mirrored_composition,
            compositions.rosette,
            compositions.frieze,
        ),
    ),
)


@dataclass(frozen=True, eq=False)
class Solid:
    """A closed surface without cavities, in the axes of glTF (y up)."""

    vertices: NDArray[np.float64]  # [V, 3] in [-0.95, 0.95], the longest side 1.9 long
    faces: NDArray[np.int64]  # [F, 3], anticlockwise seen from outside
    description: str  # a caption; ends in "in N pieces" where the solid is not connected


def random_solid(seed: int) -> Solid:
    """The solid of a seed; the same on every run with the same versions of numpy, scipy and manifold3d.

    Raises:
        ValueError: a negative seed.
    """
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    attempt = 0
    while (solid := _attempt(Draw(seed, attempt))) is None:
        attempt += 1
    return solid


def _attempt(draw: Draw) -> Solid | None:
    """None: set operations left too little, or too many faces."""
    bounds = np.cumsum([weight for weight, _ in KINDS])
    _, kinds = KINDS[int(np.searchsorted(bounds, draw.uniform(0, float(bounds[-1]))))]
    part = _varied(draw, draw.one_of(*kinds)(draw))
    shape, pieces = _tidied(part.shape)
    if shape.status() != Error.NoError or shape.is_empty():
        return None
    low, high = np.split(np.array(shape.bounding_box()), 2)
    if shape.volume() < _LEAST_VOLUME * np.prod(high - low):
        return None
    while shape.num_tri() < FACES[0]:
        shape = shape.refine(2)
    if shape.num_tri() > FACES[1]:
        return None
    mesh = shape.to_mesh64()
    vertices, faces, _ = fit_into_cube(mesh.vert_properties[:, :3], mesh.tri_verts.astype(np.int64), part.text)
    return Solid(vertices, faces, part.text + (f", in {pieces} pieces" if pieces > 1 else ""))


def _varied(draw: Draw, part: Part) -> Part:
    shape, text = part.shape, part.text
    if draw.chance(0.3):
        tool = compositions.cutter(draw, shape)
        if compositions.most_is_left(shape, cut := shape - tool.shape):
            shape, text = cut, f"{text}, minus {a(tool.text)}"
    if draw.chance(0.08):
        low, high = np.split(np.array(shape.bounding_box()), 2)
        ball = Manifold.sphere(draw.uniform(0.6, 0.75) * float((high - low).max()), 96)
        shape, text = shape ^ ball.translate((low + high) / 2), f"{text}, intersected with a sphere"
    if draw.chance(0.15):
        shape = shape.scale([draw.uniform(0.6, 1.4) for _ in range(3)])
        text += ", stretched"
    # Manifold's z up becomes y up; objects stand and face any of four sides, some lie about.
    shape = shape.rotate((0, 0, 90 * draw.whole(0, 3))).rotate((-90, 0, 0))
    if draw.chance(0.2):
        shape, text = shape.rotate([draw.uniform(-180, 180) for _ in range(3)]), f"{text}, tilted"
    elif draw.chance(0.3):
        shape, text = shape.rotate((0, draw.uniform(-45, 45), 0)), f"{text}, turned"
    return Part(shape, text)


def _tidied(shape: Manifold) -> tuple[Manifold, int]:
    """Without needles, crumbs and closed cavities; and the number of pieces."""
    # The walls of a cavity enclose a negative volume.
    pieces = [piece for piece in shape.simplify(_NEEDLE * SIZE).decompose() if piece.volume() > 0]
    total = math.fsum(piece.volume() for piece in pieces)
    pieces = [piece for piece in pieces if piece.volume() > _LEAST_PIECE * total]
    joined = union(pieces)
    return joined, len(joined.decompose())
