"""Parts of solids: primitives, soft edges, arrays.

Axes while a solid is built: z up. Lengths are in units of a cube [-1, 1]^3 that the solid roughly fills.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from manifold3d import CrossSection, JoinType, Manifold, OpType
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline, PchipInterpolator

from models.data.solids.draw import Draw

Vector = tuple[float, float, float]
Pair = tuple[float, float]
_CORNERS = [(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]
_POLYGONS = {3: "triangular", 4: "square", 5: "pentagonal", 6: "hexagonal", 8: "octagonal"}


@dataclass(frozen=True)
class Part:
    shape: Manifold
    text: str  # a noun phrase without article, as in "bevelled box"


# Solids of one kind, centred at the origin unless they say otherwise.


def box(size: Vector) -> Manifold:
    return Manifold.cube(size, True)


def bevelled_box(size: Vector, bevel: float) -> Manifold:
    half = np.array(size) / 2
    inner = half - bevel
    points = [np.where(np.arange(3) == axis, half, inner) * corner for corner in _CORNERS for axis in range(3)]
    return Manifold.hull_points(np.array(points))


def rounded_box(size: Vector, radius: float, segments: int) -> Manifold:
    ball = Manifold.sphere(radius, segments)
    inner = np.array(size) / 2 - radius
    return Manifold.batch_hull([ball.translate(inner * corner) for corner in _CORNERS])


def cylinder(radius: float, height: float, segments: int, top: float | None = None) -> Manifold:
    """With another radius at the top, a truncated cone; with zero there, a cone."""
    return Manifold.cylinder(height, radius, radius if top is None else top, segments, True)


def rounded_cylinder(radius: float, height: float, edge: float, segments: int) -> Manifold:
    outline = CrossSection.square((2 * (radius - edge), height - 2 * edge), True)
    return outline.offset(edge, JoinType.Round, circular_segments=segments).revolve(segments)


def bevelled_cylinder(radius: float, height: float, bevel: float, segments: int) -> Manifold:
    middle = cylinder(radius, height - 2 * bevel, segments)
    return (middle + cylinder(radius - bevel, height, segments)).hull()


def torus(radius: float, tube: float, segments: int) -> Manifold:
    """`radius` is that of the middle of the tube."""
    return CrossSection.circle(tube, max(8, segments // 2)).translate((radius, 0)).revolve(segments)


def prism(sides: int, radius: float, height: float) -> Manifold:
    return Manifold.cylinder(height, radius, radius, sides, True)


def wedge(width: float, length: float, height: float) -> Manifold:
    """A triangular prism: its right angle at the origin, `length` along x, `height` along z, `width` about y."""
    outline = CrossSection([np.array([(0.0, 0.0), (length, 0.0), (0.0, height)])])
    return outline.extrude(width).rotate((90, 0, 0)).translate((0, width / 2, 0))


def ring_of_wall(radius: float, wall: float, height: float, segments: int) -> Manifold:
    return cylinder(radius, height, segments) - cylinder(radius - wall, 2 * height, segments)


# Outlines.


def polygon(draw: Draw, corners: int) -> CrossSection:
    """A random polygon around the origin, as large as a unit circle at most; its corners sometimes rounded."""
    angles = (np.arange(corners) + [draw.uniform(-0.3, 0.3) for _ in range(corners)]) * 2 * math.pi / corners
    radii = np.array([draw.uniform(0.5, 1) for _ in range(corners)])
    outline = CrossSection([np.stack([np.cos(angles) * radii, np.sin(angles) * radii], 1)])
    return rounded_outline(outline, draw.uniform(0.03, 0.12), draw.segments) if draw.chance(0.5) else outline


def rounded_outline(outline: CrossSection, radius: float, segments: int) -> CrossSection:
    inner = outline.offset(-radius, JoinType.Miter)
    return inner.offset(radius, JoinType.Round, circular_segments=segments)


def spline(points: Sequence[Vector], count: int) -> NDArray[np.float64]:
    """[count, 3] along a smooth curve through the points."""
    return np.asarray(CubicSpline(np.arange(len(points)), np.array(points))(np.linspace(0, len(points) - 1, count)))


def profile(radii: Sequence[float], height: float, count: int = 40) -> NDArray[np.float64]:
    """[count, 2], radius and height: a smooth line through radii at equal steps of height, without bulges between."""
    at = np.linspace(0, 1, count)
    return np.stack([PchipInterpolator(np.linspace(0, 1, len(radii)), radii)(at), at * height], 1)


def turned(radii: Sequence[float], height: float, segments: int) -> Manifold:
    """The solid under a profile, revolved; from z = 0 up."""
    line = profile(radii, height)
    return CrossSection([np.concatenate([[(0, 0)], line, [(0, height)]])]).revolve(segments)


def turned_shell(radii: Sequence[float], height: float, wall: float, floor: float, segments: int) -> Manifold:
    """A vessel of that profile, open above; from z = 0 up."""
    line = profile(radii, height)
    inner = np.stack([(line[:, 0] - wall).clip(min=wall / 4), line[:, 1]], 1)[line[:, 1] >= floor][::-1]
    outline = np.concatenate([[(0, 0)], line, inner, [(0, inner[-1, 1])]])
    return CrossSection([outline]).revolve(segments)


def tube(path: NDArray[np.float64], radius: float | NDArray[np.float64], segments: int) -> Manifold:
    """Swept along the path [P, 3] by a ball, whose radius may change: [P]."""
    balls = [
        Manifold.sphere(float(r), segments).translate(point)
        for point, r in zip(path, np.broadcast_to(radius, len(path)), strict=True)
    ]
    return union(Manifold.batch_hull(pair) for pair in itertools.pairwise(balls))


def helix(radius: float, height: float, turns: float, per_turn: int = 20) -> NDArray[np.float64]:
    """[P, 3], from z = 0 up."""
    at = np.linspace(0, 1, round(turns * per_turn) + 1)
    angle = 2 * math.pi * turns * at
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height * at], 1)


# Combinations.


def union(shapes: Iterable[Manifold]) -> Manifold:
    return Manifold.batch_boolean(list(shapes), OpType.Add)


def row(shape: Manifold, count: int, step: Vector) -> Manifold:
    """Copies at equal steps, around where the shape is."""
    places = (np.arange(count) - (count - 1) / 2)[:, None] * np.array(step)
    return union(shape.translate(place) for place in places)


def grid(shape: Manifold, counts: tuple[int, int], steps: Pair) -> Manifold:
    return row(row(shape, counts[0], (steps[0], 0, 0)), counts[1], (0, steps[1], 0))


def ring(shape: Manifold, count: int) -> Manifold:
    """Copies turned about the z axis."""
    return union(shape.rotate((0, 0, 360 * i / count)) for i in range(count))


def mirrored(shape: Manifold, normal: Vector) -> Manifold:
    """With its mirror image on the other side of the plane through the origin."""
    return shape + shape.mirror(normal)


def fitted(shape: Manifold, size: Vector) -> Manifold:
    """Centred at the origin, and stretched to this size."""
    low, high = np.split(np.array(shape.bounding_box()), 2)
    return shape.translate(-(low + high) / 2).scale(np.array(size) / (high - low))


# Parts that may stand in for each other.


def slab(draw: Draw, size: Vector) -> Part:
    """A part of exactly this size, flat above and below, around the origin."""
    edge = draw.uniform(0.1, 0.4) * min(size)
    segments = draw.segments
    round_radius = min(size[0], size[1]) / 2
    kind = draw.one_of(
        "box", "bevelled box", "rounded box", "cylinder", "bevelled cylinder", "prism", "polygon", "plate"
    )
    match kind:
        case "box":
            return Part(box(size), kind)
        case "bevelled box":
            return Part(bevelled_box(size, edge), "box with a bevel")
        case "rounded box":
            return Part(rounded_box(size, edge, max(12, segments // 2)), kind)
        case "cylinder":
            return Part(fitted(cylinder(1, 1, segments), size), kind)
        case "bevelled cylinder":
            edge = min(edge, 0.4 * round_radius)
            return Part(fitted(bevelled_cylinder(round_radius, size[2], edge, segments), size), "cylinder with a bevel")
        case "prism":
            sides = draw.one_of(5, 6, 8)
            return Part(fitted(prism(sides, 1, 1), size), f"{_POLYGONS[sides]} prism")
        case "polygon":
            return Part(fitted(polygon(draw, draw.whole(5, 9)).extrude(1), size), "extruded polygon")
        case _:
            outline = rounded_outline(
                CrossSection.square(size[:2], True), draw.uniform(0.1, 0.45) * min(size[:2]), segments
            )
            return Part(fitted(outline.extrude(1), size), "plate with round corners")


def post(draw: Draw, radius: float, height: float) -> Part:
    """An upright part from z = 0 up, at most of this radius."""
    segments = draw.segments
    kind = draw.one_of("rod", "square rod", "cone", "turned rod", "prism", "twisted rod")
    match kind:
        case "rod":
            return Part(cylinder(radius, height, segments).translate((0, 0, height / 2)), "cylinder")
        case "square rod":
            return Part(box((1.4 * radius, 1.4 * radius, height)).translate((0, 0, height / 2)), kind)
        case "cone":
            shape = cylinder(draw.uniform(0.35, 0.7) * radius, height, segments, top=radius)
            return Part(shape.translate((0, 0, height / 2)), "tapered rod")
        case "turned rod":
            radii = [radius * draw.uniform(0.4, 1) for _ in range(draw.whole(5, 9))]
            return Part(turned([radius, *radii, radius], height, segments), kind)
        case "prism":
            sides = draw.one_of(3, 5, 6, 8)
            return Part(prism(sides, radius, height).translate((0, 0, height / 2)), f"{_POLYGONS[sides]} prism")
        case _:
            outline = rounded_outline(CrossSection.square((1.5 * radius, 1.5 * radius), True), 0.2 * radius, 16)
            return Part(outline.extrude(height, 24, draw.uniform(60, 270)), kind)


def knob(draw: Draw, radius: float) -> Part:
    """A part in a ball of this radius around the origin, and through its middle."""
    segments = draw.segments
    kind = draw.one_of("sphere", "torus", "cone", "rounded box", "octahedron", "disc")
    match kind:
        case "sphere":
            return Part(Manifold.sphere(radius, segments), kind)
        case "torus":
            return Part(
                torus(0.68 * radius, 0.32 * radius, segments) + cylinder(0.68 * radius, 0.2 * radius, segments), kind
            )
        case "cone":
            return Part(cylinder(0.75 * radius, 1.3 * radius, segments, top=0.0), kind)
        case "rounded box":
            return Part(rounded_box((1.15 * radius,) * 3, 0.3 * radius, max(12, segments // 2)), kind)
        case "octahedron":
            return Part(Manifold.sphere(radius, 4), kind)
        case _:
            return Part(rounded_cylinder(0.9 * radius, 0.7 * radius, 0.2 * radius, segments), kind)


def rod(start: Vector, end: Vector, radius: float, segments: int) -> Manifold:
    """A straight round rod with round ends."""
    return tube(np.array([start, end]), radius, max(8, segments // 2))


def plural(text: str, count: int) -> str:
    """ "4 turned rods"; what follows the noun stays: "4 boxes with a bevel"."""
    if count == 1:
        return a(text)
    head, *rest = text.split(" with ", 1)
    ending = "es" if head.endswith(("x", "s", "ch")) else "s"
    return " with ".join([f"{count} {head}{ending}", *rest])


def a(text: str) -> str:
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"
