"""Tables, chairs, shelves, lamps, beds."""

from __future__ import annotations

import math

import numpy as np

from models.data.solids.draw import Draw
from models.data.solids.parts import (
    Part,
    a,
    box,
    cylinder,
    grid,
    knob,
    mirrored,
    plural,
    post,
    ring,
    ring_of_wall,
    rod,
    row,
    slab,
    spline,
    tube,
    turned,
    turned_shell,
    union,
)


def table(draw: Draw) -> Part:
    width, depth, height = draw.uniform(1, 2), draw.uniform(0.8, 1.6), draw.uniform(0.6, 1.6)
    thickness = draw.thin() if draw.chance(0.3) else draw.uniform(0.06, 0.2)
    top = slab(draw, (width, depth, thickness))
    board = top.shape.translate((0, 0, height - thickness / 2))
    leg = post(draw, draw.uniform(0.04, 0.12), height - thickness / 2)
    name = "table" if height > 0.9 else "low table"
    if draw.chance(0.3):
        foot = slab(draw, (0.6 * width, 0.6 * depth, 0.1))
        stem = leg.shape.scale((1.6, 1.6, 1))
        text = f"{name} of {a(top.text)} on {a(leg.text)} and a foot of {a(foot.text)}"
        return Part(union([board, stem, foot.shape.translate((0, 0, 0.05))]), text)
    # Under outlines that are not rectangles, legs at the corners would miss the top.
    reach = 0.78 if "box" in top.text else 0.45
    x, y = reach * width / 2, reach * depth / 2
    count = 4
    if draw.chance(0.35):
        count = draw.whole(3, 6)
        legs = ring(leg.shape.translate((min(x, y), 0, 0)), count)
    else:
        legs = grid(leg.shape, (2, 2), (2 * x, 2 * y))
    shapes = [board, legs]
    text = f"{name} of {a(top.text)} on {plural(leg.text, count)}"
    if count == 4 and draw.chance(0.5):
        rail = draw.thin()
        level = height - thickness - draw.uniform(0.05, 0.5) * height
        shapes += [row(box((2 * x, rail, 0.1)), 2, (0, 2 * y, 0)).translate((0, 0, level))]
        shapes += [row(box((rail, 2 * y, 0.1)), 2, (2 * x, 0, 0)).translate((0, 0, level))]
        text += " with thin rails"
    return Part(union(shapes), text)


def chair(draw: Draw) -> Part:
    width, depth, seat_at, back = (
        draw.uniform(0.8, 1.1),
        draw.uniform(0.8, 1.1),
        draw.uniform(0.7, 1),
        draw.uniform(0.7, 1.2),
    )
    thickness = draw.uniform(0.06, 0.18)
    seat = slab(draw, (width, depth, thickness))
    inset = 0.8 if "box" in seat.text else 0.5
    x, y = inset * width / 2, inset * depth / 2
    leg = post(draw, draw.uniform(0.035, 0.09), seat_at)
    shapes = [seat.shape.translate((0, 0, seat_at)), grid(leg.shape, (2, 2), (2 * x, 2 * y))]
    text = f"chair of {a(seat.text)} on {plural(leg.text, 4)}"
    upright = rod((x, y, seat_at - 0.02), (x, y + 0.15, seat_at + back), 0.04, draw.segments)
    kind = draw.one_of("slats", "bars", "plate", "none")
    if kind == "none":
        shapes.append(row(rod((0, -y, 0.4 * seat_at), (0, y, 0.4 * seat_at), 0.03, draw.segments), 2, (2 * x, 0, 0)))
        return Part(union(shapes), text.replace("chair", "stool") + " with a pair of rails")
    shapes.append(mirrored(upright, (1, 0, 0)))
    tilt = math.degrees(math.atan2(0.15, back))
    middle = (0, y + 0.075, seat_at + back / 2)
    if kind == "slats":
        count = draw.whole(2, 6)
        slat = box((2 * x, draw.thin(), 0.4 * back / count))
        shapes.append(row(slat, count, (0, 0, 0.85 * back / count)).rotate((-tilt, 0, 0)).translate(middle))
        text += f" with a back of {count} thin slats"
    elif kind == "bars":
        count = draw.whole(3, 7)
        bar = rod((0, 0, -back / 2), (0, 0, back / 2), max(0.012, draw.thin() / 2), draw.segments)
        rail = rod((-x, 0, back / 2), (x, 0, back / 2), 0.04, draw.segments)
        bars = row(bar, count, (2 * x / (count + 1), 0, 0)) + rail
        shapes.append(bars.rotate((-tilt, 0, 0)).translate(middle))
        text += f" with a back of {count} rods"
    else:
        plate = slab(draw, (2 * x + 0.06, 0.7 * back, 0.06))
        shapes.append(plate.shape.rotate((90 - tilt, 0, 0)).translate((0, y + 0.09, seat_at + 0.6 * back)))
        text += f" with a back of {a(plate.text)}"
    if draw.chance(0.4):
        path = spline(
            [
                (x, -y, seat_at),
                (x + 0.1, -y, seat_at + 0.3),
                (x + 0.06, 0, seat_at + 0.38),
                (x, y + 0.06, seat_at + 0.4),
            ],
            16,
        )
        shapes.append(mirrored(tube(path, 0.04, 16), (1, 0, 0)))
        text += " and mirrored arms of bent tubes"
    return Part(union(shapes), text)


def shelf(draw: Draw) -> Part:
    width, depth, height = draw.uniform(0.8, 1.8), draw.uniform(0.3, 0.7), draw.uniform(0.9, 2)
    wall = draw.thin() if draw.chance(0.5) else draw.uniform(0.04, 0.08)
    count, columns = draw.whole(1, 5), draw.whole(1, 3)
    shapes = [row(box((wall, depth, height)), columns + 1, ((width - wall) / columns, 0, 0))]
    shapes.append(row(box((width, depth, wall)), count + 2, (0, 0, (height - wall) / (count + 1))))
    text = f"shelf of {count + 2} boards and {columns + 1} walls"
    if wall < 0.04:
        text = text.replace("boards", "thin boards")
    if draw.chance(0.6):
        shapes.append(box((width, draw.thin(), height)).translate((0, depth / 2 - 0.02, 0)))
        text += " with a thin back"
    if draw.chance(0.5):
        door = slab(draw, (width / columns, height / (count + 1), 0.06))
        grip = knob(draw, 0.05)
        front = door.shape.rotate((90, 0, 0)) + grip.shape.translate((0.3 * width / columns, -0.06, 0))
        place = ((width / columns - width) / 2, -depth / 2, (height / (count + 1) - height) / 2)
        shapes.append(front.translate(place))
        text += f" and a door, {a(door.text)} with {a(grip.text)} for a knob"
    if draw.chance(0.5):
        foot = post(draw, 0.06, 0.2)
        shapes.append(grid(foot.shape, (2, 2), (0.85 * width, 0.7 * depth)).translate((0, 0, -height / 2 - 0.19)))
        text += f" on {plural(foot.text, 4)}"
    return Part(union(shapes), text)


def lamp(draw: Draw) -> Part:
    height, base = draw.uniform(1.2, 2), draw.uniform(0.3, 0.5)
    foot = slab(draw, (2 * base, 2 * base, draw.uniform(0.05, 0.2)))
    stem = draw.uniform(0.012, 0.04)
    radius = draw.uniform(0.3, 0.7)
    tall = draw.uniform(0.3, 0.6)
    # A vessel upside down: it hangs by its floor.
    shade = turned_shell([radius * draw.uniform(0.3, 0.9), radius], tall, draw.thin(), draw.thin(), draw.segments)
    shade = shade.rotate((180, 0, 0))
    if draw.chance(0.5):
        reach = draw.uniform(0.3, 0.8)
        path = spline([(0, 0, 0), (0, 0, 0.6 * height), (0.4 * reach, 0, height), (reach, 0, 0.85 * height)], 28)
        shapes = [tube(path, stem, 16), shade.translate((reach, 0, 0.85 * height))]
        text = "bent tube"
    else:
        shapes = [cylinder(stem, height, 24).translate((0, 0, height / 2)), shade.translate((0, 0, height))]
        text = "thin rod"
        if draw.chance(0.5):
            radii = [draw.uniform(0.03, 0.2) for _ in range(6)]
            shapes.append(turned([0.15, *radii, 0.03], 0.6 * height, draw.segments))
            text += " in a turned body"
    return Part(
        union([foot.shape, *shapes]), f"lamp with a shade, a thin shell of a cone, on {a(text)} and {a(foot.text)}"
    )


def bed(draw: Draw) -> Part:
    length, width = 2.0, draw.uniform(0.7, 1.5)
    shapes = [row(box((length, 0.06, 0.16)), 2, (0, width, 0))]
    count = draw.whole(6, 14)
    thin = draw.thin()
    shapes.append(row(box((0.5 * length / count, width, thin)), count, (length / (count + 1), 0, 0)))
    ends = []
    for height in (draw.uniform(0.5, 0.9), draw.uniform(0.3, 0.5)):
        board = slab(draw, (width + 0.1, height, 0.08))
        ends.append(board.shape.rotate((90, 0, 90)).translate((0, 0, 0.25 * height)))
    shapes += [ends[0].translate((-length / 2, 0, 0)), ends[1].translate((length / 2, 0, 0))]
    leg = post(draw, 0.07, 0.5)
    shapes.append(grid(leg.shape, (2, 2), (0.96 * length, 0.96 * width)).translate((0, 0, -0.45)))
    text = f"bed with {count} thin slats on {plural(leg.text, 4)}"
    if draw.chance(0.5):
        mattress = slab(draw, (0.95 * length, 0.95 * width, 0.25))
        shapes.append(mattress.shape.translate((0, 0, 0.12)))
        text += f" and a mattress, {a(mattress.text)}"
    return Part(union(shapes), text)


def cage(draw: Draw) -> Part:
    """Rings and thin rods: baskets, bird cages, stands."""
    radius, height, count = draw.uniform(0.4, 0.8), draw.uniform(0.8, 1.8), draw.whole(6, 20)
    thin = max(0.012, draw.thin())
    rings = draw.whole(2, 4)
    bulge = [draw.uniform(0.7, 1.3) * radius for _ in range(4)]
    path = spline([(r, 0, height * i / 3) for i, r in enumerate(bulge)], 14)
    shapes = [ring(tube(path, thin / 2, 8), count)]
    for level in np.linspace(0, len(path) - 1, rings).round().astype(int):
        hoop = ring_of_wall(path[level, 0] + thin, 2.5 * thin, 2 * thin, draw.segments)
        shapes.append(hoop.translate((0, 0, path[level, 2])))
    floor = slab(draw, (2 * path[0, 0] + thin, 2 * path[0, 0] + thin, 0.05))
    shapes.append(cylinder(path[0, 0] + thin, thin, draw.segments))
    text = f"cage of a ring of {count} thin bent rods and {rings} hoops"
    if draw.chance(0.5):
        shapes.append(floor.shape.translate((0, 0, -0.02)))
        text += f" on {a(floor.text)}"
    return Part(union(shapes), text)
