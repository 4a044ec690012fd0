"""Buildings, stairs, vehicles, toys, chains."""

from __future__ import annotations

import math

import numpy as np
from manifold3d import CrossSection, Manifold

from models.data.solids.draw import Draw
from models.data.solids.parts import (
    Part,
    a,
    bevelled_cylinder,
    box,
    cylinder,
    grid,
    knob,
    mirrored,
    plural,
    polygon,
    post,
    prism,
    ring,
    rod,
    rounded_outline,
    row,
    slab,
    spline,
    torus,
    tube,
    turned,
    turned_shell,
    union,
    wedge,
)


def temple(draw: Draw) -> Part:
    column_height = draw.uniform(0.6, 1.2)
    column = post(draw, draw.uniform(0.05, 0.1), column_height)
    steps = draw.whole(1, 4)
    if draw.chance(0.5):
        count = draw.whole(5, 14)
        radius = 0.75
        floor = [
            cylinder(radius + 0.12 + 0.08 * i, 0.1, draw.segments).translate((0, 0, -0.08 * i)) for i in range(steps)
        ]
        columns = ring(column.shape.translate((radius - 0.05, 0, 0)), count)
        roof = cylinder(radius + 0.15, draw.uniform(0.3, 0.6), draw.segments, top=0.05)
        if draw.chance(0.5):
            roof = (
                Manifold.sphere(radius + 0.15, draw.segments)
                .trim_by_plane((0, 0, 1), 0)
                .scale((1, 1, draw.uniform(0.5, 1)))
            )
        text = f"round temple of {plural('step', steps)}, a ring of {plural(column.text, count)} and a roof"
    else:
        counts = draw.whole(2, 6), draw.whole(2, 4)
        width, depth = 1.4, draw.uniform(0.7, 1.2)
        floor = [
            box((width + 0.25 + 0.16 * i, depth + 0.25 + 0.16 * i, 0.1)).translate((0, 0, -0.08 * i))
            for i in range(steps)
        ]
        columns = grid(column.shape, counts, (width / (counts[0] - 1), depth / (counts[1] - 1)))
        half = wedge(depth + 0.3, width / 2 + 0.15, draw.uniform(0.2, 0.5))
        roof = mirrored(half, (1, 0, 0)) + box((width + 0.3, depth + 0.3, 0.1))
        columns_text = f"{plural('row', counts[0])} of {plural(column.text, counts[1])}"
        text = f"temple of {plural('step', steps)}, {columns_text} and a gable roof"
    low = roof.bounding_box()[2]
    return Part(union([*floor, columns, roof.translate((0, 0, column_height - low - 0.03))]), text)


def house(draw: Draw) -> Part:
    width, depth, height = draw.uniform(0.8, 1.4), draw.uniform(0.8, 1.8), draw.uniform(0.5, 1.2)
    wall = max(0.02, draw.thin())
    shape = box((width, depth, height)) - box((width - 2 * wall, depth - 2 * wall, height)).translate((0, 0, wall))
    half = wedge(depth + 0.2, width / 2 + 0.1, draw.uniform(0.3, 0.7))
    roof = mirrored(half, (1, 0, 0)).translate((0, 0, height / 2 - 0.02))
    count = draw.whole(2, 5)
    window = box((2 * width, 0.5 * depth / count, 0.35 * height))
    shape -= row(window, count, (0, depth / count, 0)).translate((0, 0, 0.05 * height))
    shape -= box((0.25 * width, depth, 0.6 * height)).translate((0, -depth / 2, -0.15 * height))
    text = f"house of a box with thin walls, minus {2 * count} windows and a door, with a gable roof"
    if draw.chance(0.6):
        chimney = post(draw, 0.09, 0.7)
        shape += chimney.shape.translate((0.25 * width, 0.2 * depth, height / 2 + 0.02))
        text += f" and {a(chimney.text)} for a chimney"
    return Part(shape + roof, text)


def stairs(draw: Draw) -> Part:
    count = draw.whole(5, 16)
    tread, rise = 1.8 / count, draw.uniform(0.8, 1.6) / count
    thick = draw.uniform(1.05, 1.4) * rise
    if draw.chance(0.5):
        turn = draw.uniform(180, 500) / count
        step = (
            box((0.7, 0.35, 0.06)).translate((0.4, 0, 0))
            if draw.chance(0.5)
            else wedge(thick, 0.85, 0.25).rotate((90, 0, 0))
        )
        steps = [step.rotate((0, 0, turn * i)).translate((0, 0, 1.8 * i / count)) for i in range(count)]
        steps.append(cylinder(0.12, 2, draw.segments).translate((0, 0, 0.9)))
        text = f"spiral stairs of {count} steps around a cylinder"
        if draw.chance(0.6):
            angle = np.radians(turn) * np.arange(count)
            tops = np.stack([0.68 * np.cos(angle), 0.68 * np.sin(angle), 1.8 * np.arange(count) / count + 0.35], 1)
            steps.append(tube(tops, 0.02, 10))
            steps += [rod(tuple(top - (0, 0, 0.36)), tuple(top), 0.012, 24) for top in tops]
            text += " with a rail on thin rods"
        return Part(union(steps), text)
    width = draw.uniform(0.5, 1.2)
    flight = union(box((1.1 * tread, width, thick)).translate((tread * i, 0, rise * i)) for i in range(count))
    text = f"stairs, a row of {count} boxes"
    if draw.chance(0.6):
        bars = union(rod((tread * i, 0, rise * i), (tread * i, 0, rise * i + 0.5), 0.015, 24) for i in range(count))
        rail = rod((0, 0, 0.5), (tread * (count - 1), 0, rise * (count - 1) + 0.5), 0.03, 32)
        flight += mirrored((bars + rail).translate((0, 0.45 * width, 0)), (0, 1, 0))
        text += " with mirrored rails of thin rods"
    return Part(flight, text)


def tower(draw: Draw) -> Part:
    """Parts of shrinking size on top of each other."""
    levels = draw.whole(3, 6)
    size, at = draw.uniform(0.7, 1.1), 0.0
    shapes, names = [], []
    for _ in range(levels):
        height = draw.uniform(0.15, 0.55)
        part = slab(draw, (size, size, height))
        shapes.append(part.shape.translate((0, 0, at + height / 2)))
        names.append(a(part.text))
        at += height - 0.01
        size *= draw.uniform(0.6, 0.95)
    top = knob(draw, 0.5 * size)
    shapes.append(top.shape.translate((0, 0, at + 0.3 * size)))
    return Part(union(shapes), f"tower of {', '.join(names)} and {a(top.text)} on top")


def car(draw: Draw) -> Part:
    width, body = draw.uniform(0.7, 0.95), draw.uniform(0.25, 0.4)
    front, hood = draw.uniform(-0.7, -0.2), draw.uniform(0.55, 0.95)
    roof = body + draw.uniform(0.25, 0.45)
    side = [
        (-1, 0),
        (1, 0),
        (1, 0.8 * body),
        (hood, body),
        (hood - 0.2, roof),
        (front + 0.25, roof),
        (front, body),
        (-1, 0.8 * body),
    ]
    outline = CrossSection([np.array(side, dtype=np.float64)])
    text = "car of an extruded polygon"
    if draw.chance(0.6):
        outline = rounded_outline(outline, 0.05, draw.segments)
        text = "car of an extruded polygon with round corners"
    shape = outline.extrude(width).rotate((90, 0, 0)).translate((0, width / 2, 0))
    radius = draw.uniform(0.16, 0.24)
    axles = (-0.6, 0.6) if draw.chance(0.7) else (-0.65, 0.3, 0.7)
    wheel = bevelled_cylinder(radius, 0.16, 0.03, draw.segments).rotate((90, 0, 0))
    if draw.chance(0.4):
        wheel = (
            torus(0.75 * radius, 0.25 * radius, draw.segments) + cylinder(0.7 * radius, 0.06, draw.segments)
        ).rotate((90, 0, 0))
        text += " and torus tyres"
    arch = cylinder(1.15 * radius, 0.5, draw.segments).rotate((90, 0, 0))
    for x in axles:
        shape -= mirrored(arch.translate((x, width / 2 + 0.15, 0)), (0, 1, 0))
        shape += mirrored(wheel.translate((x, width / 2 - 0.05, 0)), (0, 1, 0))
        shape += cylinder(0.04, width, 16).rotate((90, 0, 0)).translate((x, 0, 0.02))
    glass = outline.offset(-0.07).extrude(2).rotate((90, 0, 0)).translate((0, 1, 0)).trim_by_plane((0, 0, 1), body)
    if draw.chance(0.7):
        shape -= glass
        text += ", minus its windows"
    return Part(shape, f"{text}, with {len(axles)} mirrored pairs of wheels")


def rocket(draw: Draw) -> Part:
    radius = draw.uniform(0.18, 0.35)
    radii = [radius * draw.uniform(0.6, 1), radius, radius, radius * draw.uniform(0.7, 1), 0.01]
    shapes = [turned(radii, 2, draw.segments)]
    count = draw.whole(3, 6)
    fin = CrossSection([np.array([(0, 0.05), (draw.uniform(0.5, 0.8), -0.2), (0.6, 0.2), (0, 0.8)])])
    thin = draw.thin()
    shapes.append(ring(fin.extrude(thin).rotate((90, 0, 0)).translate((0, thin / 2, 0)), count))
    nozzle = turned_shell([0.5 * radius, 0.9 * radius], 0.25, max(0.015, draw.thin()), 0.05, draw.segments)
    shapes.append(nozzle.rotate((180, 0, 0)).translate((0, 0, 0.04)))
    return Part(
        union(shapes), f"rocket of a revolved profile with a ring of {count} thin fins and a nozzle, a thin shell"
    )


def plane(draw: Draw) -> Part:
    radius, span = draw.uniform(0.1, 0.16), draw.uniform(0.7, 1)
    body = (
        turned([0.02, 0.6 * radius, radius, radius, 0.3 * radius], 1.9, draw.segments)
        .rotate((0, 90, 0))
        .translate((-0.95, 0, 0))
    )
    thin = max(0.015, draw.thin())
    sweep, tip = draw.uniform(-0.2, 0.4), draw.uniform(0.1, 0.35)
    wing = CrossSection([np.array([(-0.1, 0), (0.35, 0), (0.35 - sweep, span), (0.35 - sweep - tip, span)])]).extrude(
        thin
    )
    tail = wing.scale((0.45, 0.4, 1)).translate((-0.85, 0, 0.02))
    fin = wing.scale((0.5, 0.4, 1)).rotate((90, 0, 0)).translate((-0.85, thin / 2, 0))
    shapes = [body, mirrored(wing, (0, 1, 0)), mirrored(tail, (0, 1, 0)), fin]
    text = "plane of a revolved body with thin mirrored wings"
    if draw.chance(0.6):
        engine = rod((-0.175, 0, 0), (0.175, 0, 0), 0.07, draw.segments).translate((0.2 - sweep / 2, span / 2, -0.03))
        shapes.append(mirrored(engine, (0, 1, 0)))
        text += " and engines"
    return Part(union(shapes), text)


def chain(draw: Draw) -> Part:
    """Links through each other, none of which touch."""
    count, tube_ = draw.whole(3, 7), draw.uniform(0.04, 0.07)
    long = draw.uniform(1, 1.4)
    link = torus(0.3, tube_, draw.segments).scale((long, 1, 1))
    text = "tori"
    if draw.chance(0.4):
        corners = spline(
            [
                (0.35, 0, 0),
                (0.2, 0.28, 0),
                (-0.2, 0.28, 0),
                (-0.35, 0, 0),
                (-0.2, -0.28, 0),
                (0.2, -0.28, 0),
                (0.35, 0, 0),
            ],
            36,
        )
        long, link, text = 1.0, tube(corners, tube_, 14), "bent tubes"
    low, *_, high, _, _ = link.bounding_box()
    # The end of one lies in the hole of the other.
    pitch = (high - low) - 4.4 * long * tube_ - 0.02
    links = [link.rotate((90 * (i % 2), 0, 0)).translate((pitch * i, 0, 0)) for i in range(count)]
    return Part(union(links), f"chain of {count} links, {text}")


def fence(draw: Draw) -> Part:
    """Posts and rails: fences, ladders, railings."""
    count = draw.whole(5, 16)
    picket = post(draw, min(0.06, 0.4 / count), draw.uniform(0.7, 1.4))
    height = picket.shape.bounding_box()[5]
    rail = rod((-1, 0, 0), (1, 0, 0), max(0.012, draw.thin() / 2), draw.segments)
    rails = draw.whole(2, 4)
    shapes = [
        row(picket.shape, count, (1.9 / count, 0, 0)),
        row(rail, rails, (0, 0, 0.8 * height / rails)).translate((0, 0, 0.5 * height)),
    ]
    tip = knob(draw, min(0.08, 0.7 / count))
    shapes.append(row(tip.shape, count, (1.9 / count, 0, 0)).translate((0, 0, height)))
    return Part(
        union(shapes), f"fence, a row of {plural(picket.text, count)} with {a(tip.text)} on each and {rails} thin rails"
    )


def tree(draw: Draw) -> Part:
    """A trunk with branches that taper, and leaves or cones."""
    trunk = spline([(0, 0, 0), (draw.uniform(-0.1, 0.1), 0.05, 0.6), (0, draw.uniform(-0.1, 0.1), 1.2)], 14)
    shapes = [tube(trunk, np.linspace(0.13, 0.05, 14), 14)]
    if draw.chance(0.4):
        layers = draw.whole(3, 5)
        for i in range(layers):
            wide = 0.7 * (1 - i / (layers + 1))
            shapes.append(cylinder(wide, 0.6, draw.segments, top=0.02).translate((0, 0, 0.7 + 0.32 * i)))
        return Part(union(shapes), f"fir tree of a bent trunk and {layers} cones")
    count = draw.whole(4, 9)
    leaf = knob(draw, draw.uniform(0.15, 0.3))
    for i in range(count):
        angle, start = 2.4 * i, trunk[4 + i]
        reach, rise = draw.uniform(0.3, 0.7), draw.uniform(0.2, 0.7)
        end = start + np.array([reach * math.cos(angle), reach * math.sin(angle), rise])
        branch = spline([tuple(start), tuple((start + end) / 2 - (0, 0, 0.06)), tuple(end)], 8)
        shapes.append(tube(branch, np.linspace(0.05, 0.02, 8), 10))
        shapes.append(leaf.shape.translate(end))
    return Part(union(shapes), f"tree of a bent trunk and {count} branches with {a(leaf.text)} at each end")


def fountain(draw: Draw) -> Part:
    """Bowls of shrinking size on one column."""
    levels = draw.whole(2, 4)
    column = post(draw, 0.12, 1.9)
    shapes = [column.shape]
    for i in range(levels):
        radius = 0.9 * (1 - i / (levels + 0.5))
        bowl = turned_shell([0.1, 0.8 * radius, radius], 0.25, max(0.015, draw.thin()), 0.05, draw.segments)
        shapes.append(bowl.translate((0, 0, 0.1 + 1.6 * i / levels)))
    foot = polygon(draw, draw.whole(6, 9)).extrude(0.15)
    shapes.append((foot if draw.chance(0.5) else prism(8, 0.7, 0.3)).translate((0, 0, -0.02)))
    return Part(union(shapes), f"fountain of {levels} bowls, thin shells of revolved profiles, on {a(column.text)}")
