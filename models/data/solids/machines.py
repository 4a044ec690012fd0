"""Machine parts: flanges, gears, brackets, heat sinks, bolts, pipes, springs, fans, motors."""

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
    helix,
    knob,
    mirrored,
    plural,
    polygon,
    prism,
    ring,
    ring_of_wall,
    rounded_outline,
    row,
    slab,
    spline,
    torus,
    tube,
    union,
    wedge,
)


def flange(draw: Draw) -> Part:
    radius, height, neck = draw.uniform(0.7, 1), draw.uniform(0.1, 0.3), draw.uniform(0.3, 0.5)
    tall = draw.uniform(0.3, 1.2)
    segments = draw.segments
    bevelled = draw.chance(0.6)
    plate = (
        bevelled_cylinder(radius, height, 0.2 * height, segments) if bevelled else cylinder(radius, height, segments)
    )
    count = draw.whole(4, 10)
    hole = cylinder(draw.uniform(0.04, 0.09), 1, 24).translate(((radius + neck) / 2, 0, 0))
    disc = "cylinder with a bevel" if bevelled else "cylinder"
    text = f"flange of a {disc} and a neck, minus a bore, minus a ring of {count} cylinders"
    bore = cylinder(neck - max(draw.thin(), 0.02) if draw.chance(0.5) else 0.6 * neck, 4, segments)
    shape = plate + cylinder(neck, tall, segments, top=neck * draw.uniform(0.8, 1)).translate((0, 0, tall / 2))
    if draw.chance(0.5):
        ribs = draw.whole(3, 8)
        rib = wedge(draw.thin(), radius - neck - 0.02, 0.7 * tall).translate((neck - 0.03, 0, height / 2 - 0.01))
        shape += ring(rib, ribs)
        text += f", with a ring of {ribs} thin ribs"
        hole = hole.rotate((0, 0, 180 / ribs))
    return Part(shape - bore - ring(hole, count), text)


def gear(draw: Draw) -> Part:
    count, radius, height = draw.whole(8, 36), 0.8, draw.uniform(0.12, 0.6)
    pitch = 2 * math.pi * radius / count
    depth = min(0.18, 0.8 * pitch)
    half = np.array([0.3, 0.12]) * pitch
    tooth = CrossSection(
        [np.array([(0.7, -half[0]), (radius + depth, -half[1]), (radius + depth, half[1]), (0.7, half[0])])]
    )
    teeth = [tooth.rotate(360 * i / count) for i in range(count)]
    outline = CrossSection.circle(radius, 4 * count)
    for each in teeth:
        outline += each
    hub = draw.uniform(0.18, 0.3)
    text = f"gear with {count} teeth"
    if draw.chance(0.6):
        holes = draw.whole(3, 7)
        size = min(0.17, 0.9 * 0.47 * math.sin(math.pi / holes))
        for i in range(holes):
            outline -= CrossSection.circle(size, 32).translate((0.47, 0)).rotate(360 * i / holes)
        text += f", minus a ring of {holes} cylinders"
    twist = draw.uniform(10, 40) if draw.chance(0.4) else 0.0
    shape = outline.extrude(height, 12 if twist else 0, twist).translate((0, 0, -height / 2))
    if twist:
        text = "helical " + text
    shape += cylinder(hub, height * draw.uniform(1, 2), draw.segments)
    bore = prism(6, 0.6 * hub, 4) if draw.chance(0.3) else cylinder(0.6 * hub, 4, draw.segments)
    return Part(shape - bore, text + ", minus a bore")


def bracket(draw: Draw) -> Part:
    width, length, height, wall = (
        draw.uniform(0.6, 1.4),
        draw.uniform(0.8, 1.6),
        draw.uniform(0.7, 1.4),
        draw.uniform(0.06, 0.2),
    )
    thin = draw.chance(0.3)
    wall = draw.thin() if thin else wall

    def plate(reach: float) -> tuple[Manifold, int]:
        corner = draw.uniform(0.02, 0.2)
        outline = rounded_outline(CrossSection.square((2 * reach, width), True), corner, draw.segments)
        count = draw.whole(1, 3)
        drill = cylinder(draw.uniform(0.05, 0.1), 1, draw.segments)
        holes = grid(drill, (1, count), (0.0, width / (count + 0.5))).translate((0.7 * reach, 0, 0))
        half = outline.extrude(wall).trim_by_plane((1, 0, 0), 0)
        return half - holes, count

    foot, first = plate(length)
    arm, second = plate(height)
    # The arm stands on the foot's edge, wall inside wall.
    upright = arm.rotate((0, -90, 0)).translate((wall, 0, 0))
    shape = foot + upright
    text = f"{'thin ' if thin else ''}bracket of two plates with round corners, minus {first + second} cylinders"
    if draw.chance(0.7):
        reach = draw.uniform(0.3, 0.55)
        gusset = wedge(max(draw.thin(), 0.02), reach * length, reach * height).translate((0.5 * wall, 0, 0.5 * wall))
        count = draw.whole(1, 3)
        shape += row(gusset, count, (0, 0.8 * width / count, 0))
        text += f", with a row of {count} triangular fins" if count > 1 else ", with a triangular fin"
    if draw.chance(0.4):
        shape = mirrored(shape.translate((0.02 - length, 0, 0)), (1, 0, 0))
        text += ", mirrored"
    return Part(shape, text)


def heat_sink(draw: Draw) -> Part:
    size = (draw.uniform(1, 2), draw.uniform(1, 2), draw.uniform(0.1, 0.3))
    base = slab(draw, size)
    tall, thin = draw.uniform(0.3, 1), draw.thin()
    if draw.chance(0.5):
        count = draw.whole(5, 24)
        fin = box((thin, 2 * size[1], tall))
        text = f"heat sink of {a(base.text)} with a row of {count} thin fins"
        fins = row(fin, count, (size[0] / count, 0, 0))
    else:
        counts = draw.whole(3, 9), draw.whole(3, 9)
        pin = draw.one_of(
            cylinder(0.03, tall, 16), box((0.05, 0.05, tall)), cylinder(0.06, tall, 16, top=0.02), prism(6, 0.04, tall)
        )
        text = f"heat sink of {a(base.text)} with {counts[0]} rows of {counts[1]} pins"
        fins = grid(pin, counts, (size[0] / counts[0], size[1] / counts[1]))
    # Fins end where the outline of the base does.
    above = base.shape.project().extrude(tall + size[2]).translate((0, 0, -size[2] / 2))
    return Part(base.shape + (fins.translate((0, 0, tall / 2 + 0.4 * size[2])) ^ above), text)


def bolt(draw: Draw) -> Part:
    radius, length, head = draw.uniform(0.2, 0.35), draw.uniform(0.8, 1.7), draw.uniform(0.2, 0.4)
    segments = draw.segments
    top = draw.one_of("hexagonal", "square", "round", "domed")
    if top == "round":
        cap = bevelled_cylinder(1.8 * radius, head, 0.2 * head, segments) - prism(6, 0.8 * radius, head).translate(
            (0, 0, 0.6 * head)
        )
        text = "bolt with a round head, minus a hexagonal prism"
    elif top == "domed":
        cap = (
            Manifold.sphere(2 * radius, segments).scale((1, 1, head / (2 * radius))).trim_by_plane((0, 0, 1), -head / 2)
        )
        cap -= box((4 * radius, 0.25 * radius, head)).translate((0, 0, 0.9 * head))
        text = "screw with a domed head, minus a box"
    else:
        cap = prism(6 if top == "hexagonal" else 4, 1.9 * radius, head)
        cap ^= bevelled_cylinder(1.85 * radius, head, 0.25 * head, segments)
        text = f"bolt with {a(top)} head with a bevel"
    shaft = cylinder(radius, length, segments).translate((0, 0, -length / 2))
    if draw.chance(0.5):
        turns = draw.whole(5, 12)
        thread = tube(helix(radius, 0.75 * length, turns, 16), 0.02 + 0.1 * length / turns, 8)
        shaft += thread.translate((0, 0, -0.95 * length))
        text += " and a thread"
    if draw.chance(0.5):
        shaft += cylinder(0.02 * radius, 0.5 * radius, segments, top=radius).translate((0, 0, -length - 0.24 * radius))
        text += " and a conical point"
    return Part(cap.translate((0, 0, 0.45 * head)) + shaft, text)


def pipe(draw: Draw) -> Part:
    points = [(0.0, 0.0, 0.0)]
    for _ in range(draw.whole(2, 4)):
        axis = draw.whole(0, 2)
        step = [draw.uniform(-0.25, 0.25) for _ in range(3)]
        step[axis] += draw.uniform(0.5, 0.8) * (1 if axis != 1 else draw.one_of(-1, 1))
        x, y, z = points[-1]
        points.append((x + step[0], y + step[1], z + step[2]))
    path = spline(points, 30)
    radius = draw.uniform(0.1, 0.2)
    wall = min(max(draw.thin(), 0.012), 0.4 * radius)
    segments = max(12, draw.segments // 3)
    outer, inner = tube(path, radius, segments), tube(path, radius - wall, segments)
    shapes = []
    bores = []
    flanges = draw.chance(0.6)
    for end, before in ((0, 1), (-1, -2)):
        direction = path[end] - path[before]
        yaw = math.degrees(math.atan2(direction[1], direction[0]))
        pitch = math.degrees(math.acos(direction[2] / np.linalg.norm(direction)))
        collar = cylinder(1.7 * radius, 0.07, draw.segments) if flanges else cylinder(1.15 * radius, 0.1, draw.segments)
        shapes.append(collar.rotate((0, pitch, yaw)).translate(path[end]))
        # Opens the ball that closes the tube's end.
        bores.append(cylinder(radius - wall, 2.5 * radius, draw.segments).rotate((0, pitch, yaw)).translate(path[end]))
        cut = (
            cylinder(3 * radius, 2 * radius, 12)
            .translate((0, 0, radius + 0.035))
            .rotate((0, pitch, yaw))
            .translate(path[end])
        )
        bores.append(cut)
    text = f"pipe, a bent tube with a thin wall and {'flanges' if flanges else 'collars'} at both ends"
    return Part(union([outer, *shapes]) - union([inner, *bores]), text)


def spring(draw: Draw) -> Part:
    turns, radius, height = draw.whole(3, 10), draw.uniform(0.4, 0.7), draw.uniform(1, 2)
    wire = draw.uniform(0.25, 0.45) * min(0.25, height / turns)
    path = helix(radius, height, turns, 24)
    taper = draw.uniform(0.4, 1)
    if draw.chance(0.4):
        path[:, :2] *= np.linspace(1, taper, len(path))[:, None]
    shapes = [tube(path, wire, 12)]
    text = f"spring, a tube in a helix of {turns} turns"
    if draw.chance(0.5):
        end = slab(draw, (2 * radius + 0.4, 2 * radius + 0.4, 0.12))
        shapes += [end.shape, end.shape.translate((0, 0, height))]
        text += f" between {plural(end.text, 2)}"
    return Part(union(shapes), text)


def fan(draw: Draw) -> Part:
    hub, reach, count, deep = (
        draw.uniform(0.12, 0.3),
        draw.uniform(0.7, 0.95),
        draw.whole(2, 12),
        draw.uniform(0.15, 0.4),
    )
    thin = max(draw.thin(), 0.012)
    width = min(draw.uniform(0.3, 0.6), 5 / count)
    # A plate that is turned at its root and less so at its tip.
    blade = CrossSection.square((width, thin), True).extrude(
        reach, 24, draw.uniform(-50, 50), (draw.uniform(0.5, 1.3), 1.0)
    )
    blade = blade.rotate((0, 0, draw.uniform(20, 60))).rotate((0, 90, 0)).rotate((90, 0, 0)).rotate((0, 0, 90))
    shapes = [ring(blade, count), bevelled_cylinder(hub, deep, 0.1 * deep, draw.segments)]
    text = f"fan of a hub with a ring of {count} thin twisted blades"
    if draw.chance(0.4):
        shapes.append(ring_of_wall(reach + 0.04, 0.07, 1.2 * deep, draw.segments))
        text += " in a ring"
    if draw.chance(0.5):
        nose = knob(draw, hub)
        shapes.append(nose.shape.translate((0, 0, deep / 2)))
        text += f" with {a(nose.text)} for a nose"
    return Part(union(shapes), text)


def motor(draw: Draw) -> Part:
    radius, length = draw.uniform(0.4, 0.6), draw.uniform(1, 1.6)
    count = draw.whole(8, 30)
    fin = box((0.24, draw.thin(), 0.8 * length)).translate((radius + 0.06, 0, 0))
    foot = box((0.35, 0.15, length / 4)).translate((0.8 * radius, -radius - 0.02, 0))
    shapes = [
        bevelled_cylinder(radius, length, 0.15 * radius, draw.segments),
        ring(fin, count),
        cylinder(0.12, 0.6, draw.segments).translate((0, 0, length / 2 + 0.25)),
        mirrored(row(foot, 2, (0, 0, 0.5 * length)), (1, 0, 0)),
    ]
    housing = slab(draw, (0.5, 0.5, 0.3))
    shapes.append(housing.shape.rotate((90, 0, 0)).translate((0, radius + 0.1, 0)))
    text = f"motor of a cylinder with a bevel, a ring of {count} thin fins, {a(housing.text)} on top"
    return Part(union(shapes).rotate((90, 0, 0)), f"{text}, mirrored feet and a shaft")


def cover(draw: Draw) -> Part:
    """A plate of a random outline with holes and a rim, as castings have."""
    outline = polygon(draw, draw.whole(4, 9))
    height = draw.uniform(0.08, 0.35)
    shape = outline.extrude(height)
    text = "cover of an extruded polygon"
    if draw.chance(0.6):
        wall = max(0.015, draw.thin())
        shape -= outline.offset(-wall - 0.03).extrude(height).translate((0, 0, max(0.02, draw.thin())))
        text = "tray of an extruded polygon, a thin shell"
    count = draw.whole(3, 8)
    hole = draw.one_of(cylinder(0.08, 4, draw.segments), prism(6, 0.09, 4), box((0.12, 0.06, 4)))
    shape -= ring(hole.translate((0.32, 0, 0)), count)
    text += f", minus a ring of {count} holes"
    if draw.chance(0.5):
        shape = shape + torus(0.18, 0.05, draw.segments).translate((0, 0, 0.01)) - cylinder(0.14, 4, draw.segments)
        text += ", with a torus around a bore"
    return Part(shape, text)
