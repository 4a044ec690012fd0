"""Solids that are no particular object: set operations on random primitives."""

from __future__ import annotations

import numpy as np
from manifold3d import Manifold

from models.data.solids.draw import Draw
from models.data.solids.parts import (
    Part,
    Vector,
    a,
    box,
    cylinder,
    fitted,
    knob,
    mirrored,
    polygon,
    post,
    prism,
    ring,
    row,
    slab,
    spline,
    torus,
    tube,
    turned,
)


def primitive(draw: Draw, size: float) -> Part:
    """Any one shape, about this large, around the origin."""
    kind = draw.one_of("slab", "knob", "post", "torus", "ellipsoid", "revolved", "tube", "tapered", "dodecahedron")
    match kind:
        case "slab":
            return slab(draw, (size * draw.uniform(0.4, 1), size * draw.uniform(0.4, 1), size * draw.uniform(0.3, 1)))
        case "knob":
            return knob(draw, size / 2)
        case "post":
            part = post(draw, size * draw.uniform(0.1, 0.3), size)
            return Part(part.shape.translate((0, 0, -size / 2)), part.text)
        case "torus":
            thick = draw.uniform(0.05, 0.18) * size
            return Part(torus(size / 2 - thick, thick, draw.segments), kind)
        case "ellipsoid":
            axes = (size * draw.uniform(0.5, 1), size * draw.uniform(0.4, 1), size)
            return Part(fitted(Manifold.sphere(1, draw.segments), axes), kind)
        case "revolved":
            radii = [draw.uniform(0.1, 0.5) * size for _ in range(draw.whole(3, 6))]
            return Part(turned(radii, size, draw.segments).translate((0, 0, -size / 2)), "revolved profile")
        case "tube":
            points: list[Vector] = [
                (-size / 2 + size * i / 3, draw.uniform(-0.3, 0.3) * size, draw.uniform(-0.3, 0.3) * size)
                for i in range(4)
            ]
            return Part(tube(spline(points, 24), draw.uniform(0.04, 0.12) * size, 16), "bent tube")
        case "tapered":
            outline = polygon(draw, draw.whole(3, 8))
            shape = outline.extrude(1, 16, draw.uniform(-90, 90), (draw.uniform(0.3, 0.9),) * 2)
            return Part(fitted(shape, (size, size, size * draw.uniform(0.4, 1))), "twisted tapered polygon")
        case _:
            # A dual of the icosahedron: where twelve half spaces meet.
            golden = (1 + 5**0.5) / 2
            shape = box((2 * size,) * 3)
            for normal in [(0, s, t * golden) for s in (-1, 1) for t in (-1, 1)]:
                for shift in range(3):
                    shape = shape.trim_by_plane(np.roll(np.array(normal, dtype=np.float64), shift), -0.45 * size)
            return Part(shape, kind)


def posed(draw: Draw, part: Part) -> Manifold:
    """In any direction."""
    return part.shape.rotate((draw.uniform(0, 360), draw.uniform(0, 360), draw.uniform(0, 360)))


def surface_point(draw: Draw, shape: Manifold) -> Vector:
    """A corner of its triangles."""
    x, y, z = shape.to_mesh64().vert_properties[draw.whole(0, shape.num_vert() - 1), :3].tolist()
    return x, y, z


def most_is_left(before: Manifold, after: Manifold) -> bool:
    return bool(after.volume() > 0.25 * before.volume())


def composition(draw: Draw) -> Part:
    """Primitives joined where their surfaces are, cut by others, or kept where others are."""
    part = primitive(draw, 1.2)
    shape, text = posed(draw, part) if draw.chance(0.4) else part.shape, part.text
    for _ in range(draw.whole(1, 4)):
        other = primitive(draw, draw.uniform(0.5, 1.0))
        tool = posed(draw, other) if draw.chance(0.5) else other.shape
        place = surface_point(draw, shape)
        operation = draw.one_of("plus", "plus", "minus", "intersected with")
        if operation == "intersected with":
            # What is kept reaches past the middle, or little would be.
            changed = shape ^ tool.scale((1.8, 1.8, 1.8)).translate(np.array(place) * 0.25)
        else:
            moved = tool.translate(np.array(place) * 0.9)
            changed = shape + moved if operation == "plus" else shape - moved
        if most_is_left(shape, changed):
            shape, text = changed, f"{text}, {operation} {a(other.text)}"
    return Part(shape, text)


def mirrored_composition(draw: Draw) -> Part:
    part = composition(draw)
    low, *_ = part.shape.bounding_box()
    shape = part.shape.translate((-low - draw.uniform(0.1, 0.4), 0, 0))
    return Part(mirrored(shape, (1, 0, 0)), f"{part.text}, mirrored")


def rosette(draw: Draw) -> Part:
    """One primitive again and again around a hub."""
    petal, hub = primitive(draw, 0.8), slab(draw, (1.0, 1.0, draw.uniform(0.1, 0.5)))
    count = draw.whole(3, 12)
    shape = posed(draw, petal).translate((0.45, 0, 0))
    shape = ring(shape, count) + hub.shape
    if draw.chance(0.5):
        shape -= cylinder(0.15, 4, draw.segments)
        return Part(shape, f"{hub.text} with a ring of {count} copies of {a(petal.text)}, minus a cylinder")
    return Part(shape, f"{hub.text} with a ring of {count} copies of {a(petal.text)}")


def frieze(draw: Draw) -> Part:
    """One primitive again and again on a plate, or cut from it."""
    count = draw.whole(3, 8)
    motif = primitive(draw, 2.0 / count)
    plate = slab(draw, (2, draw.uniform(0.4, 1.0), draw.uniform(0.1, 0.3)))
    tools = row(posed(draw, motif), count, (1.8 / count, 0, 0)).translate((0, 0, plate.shape.bounding_box()[5]))
    if draw.chance(0.4):
        return Part(plate.shape - tools, f"{plate.text}, minus a row of {count} copies of {a(motif.text)}")
    return Part(plate.shape + tools, f"{plate.text} with a row of {count} copies of {a(motif.text)}")


def cutter(draw: Draw, shape: Manifold) -> Part:
    """Something to take from a solid, at a random place of its surface; it goes through what is thin."""
    size = draw.uniform(0.2, 0.6)
    kind = draw.one_of("cylinder", "box", "sphere", "cone", "torus", "hexagonal prism")
    match kind:
        case "cylinder":
            tool = cylinder(0.4 * size, 3, draw.segments)
        case "box":
            tool = box((size, 0.6 * size, 3))
        case "sphere":
            tool = Manifold.sphere(0.6 * size, draw.segments)
        case "cone":
            tool = cylinder(0.6 * size, 1.2 * size, draw.segments, top=0.0)
        case "torus":
            tool = torus(size, 0.15 * size, draw.segments)
        case _:
            tool = prism(6, 0.5 * size, 3)
    turn = draw.one_of((0, 0, 0), (90, 0, 0), (0, 90, 0))
    return Part(tool.rotate(turn).translate(surface_point(draw, shape)), kind)
