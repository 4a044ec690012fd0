"""Vases, cups, bottles, jugs, goblets, tins."""

from __future__ import annotations

import numpy as np

from models.data.solids.draw import Draw
from models.data.solids.parts import (
    Part,
    a,
    box,
    cylinder,
    fitted,
    grid,
    knob,
    mirrored,
    polygon,
    post,
    ring_of_wall,
    row,
    slab,
    spline,
    torus,
    tube,
    turned,
    turned_shell,
    union,
)


def vase(draw: Draw) -> Part:
    height, wall = draw.uniform(0.8, 2), max(draw.thin(), 0.012)
    radii = [draw.uniform(0.25, 0.75) for _ in range(draw.whole(3, 7))]
    shape = turned_shell(radii, height, wall, 2 * wall, draw.segments)
    text = f"{'bowl' if height < 1.1 else 'vase'}, a thin shell of a revolved profile"
    if draw.chance(0.35):
        # Flutes: the outline is deformed as petals are.
        lobes, depth = draw.whole(5, 14), draw.uniform(0.04, 0.12)

        def flute(points: np.ndarray) -> np.ndarray:
            angle = np.arctan2(points[:, 1], points[:, 0])
            points[:, :2] *= (1 + depth * np.cos(lobes * angle))[:, None]
            return points

        shape = shape.warp_batch(flute)
        text += f" with {lobes} flutes"
    elif draw.chance(0.5):
        out = max(radii)
        path = spline(
            [
                (radii[-1] - wall / 2, 0, 0.97 * height),
                (out + 0.2, 0, 0.9 * height),
                (radii[len(radii) // 2] - wall / 2, 0, 0.5 * height),
            ],
            20,
        )
        if len(radii) % 2:  # an odd number has one at half the height, where the handle ends
            handle = tube(path, 0.04, 14)
            shape += mirrored(handle - (turned(radii, height, draw.segments) - shape), (1, 0, 0))
            text += " and mirrored handles"
    return Part(shape, text)


def cup(draw: Draw) -> Part:
    height, radius, wall = draw.uniform(0.7, 1.3), draw.uniform(0.4, 0.6), draw.uniform(0.015, 0.06)
    radii = [radius * draw.uniform(0.6, 1), radius * draw.uniform(0.9, 1.1), radius]
    shape = turned_shell(radii, height, wall, 2 * wall, draw.segments)
    path = spline(
        [
            (radii[2] * 0.98, 0, 0.85 * height),
            (radius + 0.35, 0, 0.75 * height),
            (radius + 0.3, 0, 0.35 * height),
            (radii[1] * 0.9, 0, 0.25 * height),
        ],
        20,
    )
    handle = tube(path, draw.uniform(0.035, 0.06), 16) - (turned(radii, height, draw.segments) - shape)
    text = "cup, a thin shell of a revolved profile, with a bent tube for a handle"
    if draw.chance(0.5):
        saucer = turned_shell([0.3, 0.6, 0.85], 0.12, max(0.02, draw.thin()), 0.03, draw.segments)
        shape += saucer.translate((0, 0, -0.025))
        text += ", on a saucer"
    return Part(shape + handle, text)


def bottle(draw: Draw) -> Part:
    radius, neck = draw.uniform(0.3, 0.5), draw.uniform(0.09, 0.16)
    height, wall = 2.0, draw.uniform(0.012, 0.03)
    radii = [radius, radius, radius * draw.uniform(0.85, 1), radius, neck * draw.uniform(1, 1.6), neck, neck]
    shape = turned_shell(radii, height, wall, 0.05, draw.segments)
    shape += ring_of_wall(neck + 0.03, 0.04, 0.1, draw.segments).translate((0, 0, 1.92))
    text = "bottle, a thin shell of a revolved profile"
    if draw.chance(0.5):
        stopper = knob(draw, 1.3 * neck)
        plug = cylinder(neck, 0.2, draw.segments) + stopper.shape.translate((0, 0, 0.15))
        shape += plug.translate((0, 0, 1.95))
        text += f", with {a(stopper.text)} for a stopper"
    if draw.chance(0.3):
        shape = fitted(shape, (2 * radius, 1.2 * radius, 2))
        text = "flat " + text
    return Part(shape, text)


def goblet(draw: Draw) -> Part:
    bowl, tall, stem = draw.uniform(0.3, 0.5), draw.uniform(0.5, 0.9), draw.uniform(0.4, 0.9)
    cup_radii = [0.08, bowl * draw.uniform(0.7, 1.1), bowl, bowl * draw.uniform(0.7, 1.1)]
    cup_ = turned_shell(cup_radii, tall, max(0.012, draw.thin()), 0.06, draw.segments)
    leg = post(draw, draw.uniform(0.04, 0.09), stem)
    foot = slab(draw, (1.5 * bowl, 1.5 * bowl, 0.06))
    shapes = [cup_.translate((0, 0, stem - 0.04)), leg.shape, foot.shape]
    text = f"goblet, a thin shell of a revolved profile on {a(leg.text)} and {a(foot.text)}"
    if draw.chance(0.4):
        shapes.append(torus(0.08, 0.05, 32).translate((0, 0, stem * draw.uniform(0.3, 0.7))))
        text += " with a torus around it"
    return Part(union(shapes), text)


def teapot(draw: Draw) -> Part:
    radius, height = draw.uniform(0.5, 0.65), draw.uniform(0.6, 1)
    radii = [0.7 * radius, radius, radius * draw.uniform(0.8, 1), 0.55 * radius]
    wall = draw.uniform(0.02, 0.05)
    body = turned_shell(radii, height, wall, 0.05, draw.segments)
    inside = turned(radii, height, draw.segments) - body
    middle = spline(
        [(0.6 * radius, 0, 0.25 * height), (radius + 0.25, 0, 0.45 * height), (radius + 0.4, 0, height)], 18
    )
    wide = np.linspace(0.17, 0.07, 18)
    spout = tube(middle, wide, 16) - inside
    bore = tube(np.concatenate([middle, [middle[-1] + (0.05, 0, 0.3)]]), np.append(0.65 * wide, 0.05), 16)
    grip = spline(
        [
            (-0.5 * radius, 0, 0.9 * height),
            (-radius - 0.3, 0, 0.85 * height),
            (-radius - 0.25, 0, 0.3 * height),
            (-0.8 * radius, 0, 0.2 * height),
        ],
        20,
    )
    handle = tube(grip, 0.045, 16) - inside
    lid = turned([0.6 * radius, 0.5 * radius, 0.15 * radius, 0.05], 0.2, draw.segments).translate((0, 0, height - 0.02))
    button = knob(draw, 0.1)
    shape = union([body, spout]) - bore + handle + lid + button.shape.translate((0, 0, height + 0.22))
    return Part(
        shape,
        f"teapot, a thin shell of a revolved profile with a bent spout, a handle, a lid and {a(button.text)} on it",
    )


def tin(draw: Draw) -> Part:
    """A box or dish with a thin wall, sometimes divided, of any outline."""
    outline = polygon(draw, draw.whole(4, 8))
    height, wall = draw.uniform(0.3, 1.2), max(draw.thin(), 0.012)
    inner = outline.offset(-wall)
    shape = outline.extrude(height) - inner.extrude(height).translate((0, 0, wall))
    text = "open box, a thin shell of an extruded polygon"
    count = draw.whole(0, 3)
    if count:
        shape += row(box((2, wall, 4)), count, (0, 0.25, 0)) ^ outline.extrude(0.8 * height)
        text += f" with {count} thin walls inside" if count > 1 else " with a thin wall inside"
    if draw.chance(0.5):
        foot = post(draw, 0.08, 0.25)
        # Into the floor, not through it.
        shape += grid(foot.shape, (2, 2), (0.6, 0.6)).translate((0, 0, wall / 2 - 0.25))
        text += f" on 4 feet, each {a(foot.text)}"
    return Part(shape, text)
