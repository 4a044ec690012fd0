"""Workloads: which voxels of the latent grid are active, i.e. where the tokens of an attention problem lie.

The grid has `resolution`^3 voxels on the cube [-1, 1]^3; voxel (x, y, z) is the box of side 2 / resolution whose low
corner is (x, y, z) * 2 / resolution - 1. The same tokens come out on every machine: ranking is in float64 on the CPU,
ranked values are rounded to 1e-9 first, and ties go to the lower linear index (x * resolution + y) * resolution + z.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.meshes import Mesh, asset_names, load_mesh

MAX_RESOLUTION = 2048

_DECIMALS = 9
_CHUNK = 2**20  # voxels or surface samples in memory at a time

_GYROID_FREQUENCY = 2.2 * math.pi
_BALL_RADIUS = 0.95
_SPHERE_RADIUS = 0.9
_SHELL_THICKNESS = 1.5  # voxels

SURFACE_REACH = 0.25  # latent voxels: two voxels of the SDF grid, of which 8^3 make one latent voxel
_SAMPLE_SPACING = 0.25  # latent voxels

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Tokens:
    """The active voxels of one sample."""

    name: str  # "gyroid", "sphere", "mesh:<asset>" or "mesh:<file stem>"
    coords: Tensor  # int32 [N, 3] on the CPU, no voxel twice, sorted by linear index
    resolution: int  # latent grid side


def make_tokens(spec: str, tokens: int | None = None, resolution: int | None = None) -> Tokens:
    """The workload that `spec` names: "gyroid", "sphere", "mesh:NAME" of a shipped mesh, or "mesh:PATH" of a file.

    Args:
        spec: name of the workload.
        tokens, resolution: passed on; gyroid and sphere need `tokens`, meshes exactly one of the two.

    Raises:
        ValueError: an unknown name, or what `gyroid`, `sphere` or `mesh` raise.
    """
    kind, _, source = spec.partition(":")
    if kind == "mesh" and source:
        return mesh(source, tokens=tokens, resolution=resolution)
    if spec not in ("gyroid", "sphere"):
        names = ", ".join(f"mesh:{name}" for name in asset_names())
        raise ValueError(f"workload must be gyroid, sphere, {names} or mesh:PATH, got {spec!r}")
    if tokens is None:
        raise ValueError(f"workload {spec} needs tokens")
    return gyroid(tokens, resolution) if spec == "gyroid" else sphere(tokens, resolution)


def gyroid(tokens: int, resolution: int | None = None) -> Tokens:
    """A gyroid sheet in a ball: curved everywhere and folded through the whole volume.

    The `tokens` voxels with least |sin a cos b + sin b cos c + sin c cos a| among those with centre p, |p| < 0.95,
    where (a, b, c) = 2.2 pi p: the trigonometric approximation of Schoen's gyroid (NASA TN D-5541).

    Args:
        tokens: number of voxels.
        resolution: grid side; by default the multiple of 8 nearest to 128 sqrt(tokens / 131072), or the next at which
            the tokens fill less than 0.9 of the ball. The sheet's area grows as the square of the side, so it stays
            about 2.6 voxels thick.

    Raises:
        ValueError: tokens or resolution out of range, or fewer voxels in the ball than tokens.
    """
    _require_in_range("tokens", tokens, MAX_RESOLUTION**3)
    if resolution is None:
        resolution = max(8, 8 * round(16 * math.sqrt(tokens / 131_072)))
        while tokens > 0.9 * math.pi / 6 * (_BALL_RADIUS * resolution) ** 3:
            resolution += 8
    _require_in_range("resolution", resolution, MAX_RESOLUTION)
    centres = _centres(resolution)
    sine, cosine = np.sin(_GYROID_FREQUENCY * centres), np.cos(_GYROID_FREQUENCY * centres)

    def height(x: slice) -> Floats:
        sine_x, cosine_x = sine[x, None, None], cosine[x, None, None]
        field = sine_x * cosine[:, None] + sine[:, None] * cosine + sine * cosine_x
        return np.where(_radius(centres, x) < _BALL_RADIUS, np.abs(field), np.inf)

    return Tokens("gyroid", _coords(_least(height, tokens, resolution), resolution), resolution)


def sphere(tokens: int, resolution: int | None = None) -> Tokens:
    """A spherical shell: the smoothest surface, every block on it about equally full.

    The `tokens` voxels with least | |p| - 0.9 |, p the voxel centre.

    Args:
        tokens: number of voxels.
        resolution: grid side; by default the one at which `tokens` voxels make the shell about 1.5 voxels thick.

    Raises:
        ValueError: tokens or resolution out of range, or fewer voxels than tokens.
    """
    _require_in_range("tokens", tokens, MAX_RESOLUTION**3)
    if resolution is None:
        area = math.pi * _SPHERE_RADIUS**2  # in squared voxels, of a grid of side 1
        resolution = max(round(math.sqrt(tokens / (area * _SHELL_THICKNESS))), math.ceil(tokens ** (1 / 3)))
    _require_in_range("resolution", resolution, MAX_RESOLUTION)
    centres = _centres(resolution)

    def height(x: slice) -> Floats:
        return np.abs(_radius(centres, x) - _SPHERE_RADIUS)

    return Tokens("sphere", _coords(_least(height, tokens, resolution), resolution), resolution)


def mesh(name_or_path: str | Path, tokens: int | None = None, resolution: int | None = None) -> Tokens:
    """The latent voxels at the surface of a mesh, as Direct3D-S2 chooses them for its sparse VAE.

    Active are the voxels whose box lies within 0.25 voxel of the surface: in continuous form, the index of the public
    Direct3D-S2 code at 1024^3 (a latent grid of 128), which takes the SDF voxels with an unsigned distance below
    4 / 1024 in [-1, 1] coordinates, two SDF voxels, and divides them by 8. Distances are to samples of the surface
    (`surface_voxels`).

    Args:
        name_or_path: what `bench.meshes.load_mesh` takes.
        tokens: number of voxels: taken are those nearest to the surface, at the resolution that has at least `tokens`
            active voxels while the next lower one has fewer.
        resolution: grid side, all active voxels taken; e.g. 128 is the latent grid of a 1024^3 SDF.

    Raises:
        ValueError: not exactly one of tokens and resolution, one out of range, or more tokens than voxels at the
            largest resolution. A mesh that cannot be used is a MeshError.
    """
    if tokens is not None and resolution is None:
        _require_in_range("tokens", tokens, MAX_RESOLUTION**3)
        shape = load_mesh(name_or_path)
        resolution, keys, distances = _enough_surface_voxels(shape, tokens)
        keys = keys[np.lexsort((keys, distances))[:tokens]]
    elif resolution is not None and tokens is None:
        _require_in_range("resolution", resolution, MAX_RESOLUTION)
        shape = load_mesh(name_or_path)
        keys, _ = surface_voxels(shape, resolution)
    else:
        raise ValueError("a mesh workload takes exactly one of tokens and resolution")
    return Tokens(f"mesh:{shape.name}", _coords(keys, resolution), resolution)


def surface_voxels(shape: Mesh, resolution: int) -> tuple[Ints, Floats]:
    """Voxels whose box lies within 0.25 voxel of a sample of the mesh's surface.

    Samples lie on rows parallel to each triangle's longest edge, corners included, at most 1/4 voxel apart in a row and
    rows at most 1/8 voxel apart, so no point of the surface is further than 0.18 voxel from a sample.

    Returns:
        Linear indices, int64 [N], rising, and distances between box and nearest sample in voxels, float64 [N].
    """
    triangles = (shape.vertices[shape.faces] + 1) * (resolution / 2)
    found = [_nearest(*_boxes_near(samples, resolution)) for samples, _ in surface_samples(triangles)]
    keys, distances = zip(*found, strict=True)
    return _nearest(np.concatenate(keys), np.concatenate(distances))


def _enough_surface_voxels(shape: Mesh, tokens: int) -> tuple[int, Ints, Floats]:
    """The resolution r with at least `tokens` surface voxels where r - 1 has fewer, and those voxels."""
    below, above = 0, MAX_RESOLUTION + 1
    best: tuple[int, Ints, Floats] | None = None
    guess = 32
    while above - below > 1:
        guess = min(max(guess, below + 1), above - 1)
        keys, distances = surface_voxels(shape, guess)
        if len(keys) >= tokens:
            above, best = guess, (guess, keys, distances)
        else:
            below = guess
        # A surface's voxels grow as the square of the side, nearly: a far guess is not worth the time it takes to test.
        guess = min(round(guess * math.sqrt(tokens / len(keys))), 4 * guess)
    if best is None:
        raise ValueError(f"tokens must be at most {len(keys)} for mesh {shape.name}, got {tokens}")
    return best


def surface_samples(triangles: Floats) -> Iterator[tuple[Floats, Ints]]:
    """Points [P, 3] on triangles [F, 3, 3] in voxel units, as `surface_voxels` says, and the triangle of each [P].

    In chunks of bounded size.
    """
    edges = np.roll(triangles, -1, axis=1) - triangles
    lengths = np.round(_norm(edges), _DECIMALS)  # rounded wherever a count or choice hangs on them
    first = np.argmax(lengths, axis=1)
    face = np.arange(len(triangles))
    a, b, apex = (triangles[face, (first + corner) % 3] for corner in range(3))
    base = lengths[face, first]
    height = _norm(np.cross(b - a, apex - a)) / np.maximum(base, 10.0**-_DECIMALS)
    strips = np.maximum(_count(height, _SAMPLE_SPACING / 2), 1)
    for some in _chunks(strips + 1):
        triangle, row = _runs(strips[some] + 1)
        triangle += some.start
        rise = row / strips[triangle]
        start = a[triangle] + (apex - a)[triangle] * rise[:, None]
        along = (b - a)[triangle] * (1 - rise)[:, None]
        steps = _count(base[triangle] * (1 - rise), _SAMPLE_SPACING)
        for rows in _chunks(steps + 1):
            owner, step = _runs(steps[rows] + 1)
            owner += rows.start
            points = start[owner] + along[owner] * (step / np.maximum(steps[owner], 1))[:, None]
            yield points, triangle[owner]


def _boxes_near(points: Floats, resolution: int) -> tuple[Ints, Floats]:
    """Linear indices and distances of every voxel box within reach of each point [P, 3]; a voxel may come up often."""
    axes = np.ascontiguousarray(points.T)
    cell = np.floor(axes).astype(np.int64)
    inside = axes - cell
    # Per axis, the gap to the previous, the same and the next voxel, and the points for which that one is in question.
    gaps = (inside, np.zeros_like(inside), 1 - inside)
    near = [
        (gap <= SURFACE_REACH + 10.0**-_DECIMALS) & (cell + step >= 0) & (cell + step < resolution)
        for gap, step in zip(gaps, (-1, 0, 1), strict=True)
    ]
    linear = (cell[0] * resolution + cell[1]) * resolution + cell[2]
    keys, distances = [], []
    for i, j in itertools.product(range(3), repeat=2):
        column = np.flatnonzero(near[i][0] & near[j][1])
        for k in range(3):
            rows = column[near[k][2][column]]
            gap = np.stack([gaps[i][0][rows], gaps[j][1][rows], gaps[k][2][rows]], axis=1)
            distance = np.round(_norm(gap), _DECIMALS)
            kept = distance <= SURFACE_REACH
            keys.append(linear[rows[kept]] + ((i - 1) * resolution + j - 1) * resolution + k - 1)
            distances.append(distance[kept])
    return np.concatenate(keys), np.concatenate(distances)


def _nearest(keys: Ints, distances: Floats) -> tuple[Ints, Floats]:
    """Each key once, rising, with the least of its distances."""
    order = np.argsort(keys, kind="stable")
    keys, distances = keys[order], distances[order]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[first], np.minimum.reduceat(distances, first)


def _least(value: Callable[[slice], Floats], tokens: int, resolution: int) -> Ints:
    """Linear indices of the `tokens` voxels of least finite value; `value` gives those of a range of x, [X, R, R]."""
    plane = resolution**2
    depth = max(1, _CHUNK // plane)
    values, keys = np.empty(0), np.empty(0, np.int64)
    bound = math.inf
    for x in range(0, resolution, depth):
        slab = np.round(value(slice(x, x + depth)), _DECIMALS).ravel()
        chosen = np.flatnonzero(np.isfinite(slab) & (slab <= bound))
        values, keys = np.concatenate([values, slab[chosen]]), np.concatenate([keys, chosen + x * plane])
        if len(values) > tokens:
            bound = np.partition(values, tokens - 1)[tokens - 1]
            kept = values <= bound  # voxels that tie with the last one stay until the end
            values, keys = values[kept], keys[kept]
    if len(keys) < tokens:
        raise ValueError(f"tokens must be at most {len(keys)} at resolution {resolution}, got {tokens}")
    return keys[np.lexsort((keys, values))[:tokens]]


def _centres(resolution: int) -> Floats:
    """Voxel centres along one axis of [-1, 1], float64 [R]."""
    return (2 * np.arange(resolution) + 1 - resolution) / resolution


def _radius(centres: Floats, x: slice) -> Floats:
    """Distance of voxel centres from the origin for a range of x, float64 [X, R, R]."""
    squares = centres**2
    return np.sqrt(squares[x, None, None] + squares[:, None] + squares)


def _coords(keys: Ints, resolution: int) -> Tensor:
    """Linear indices in any order to coordinates, int32 [N, 3], sorted."""
    return torch.from_numpy(np.stack(np.unravel_index(np.sort(keys), (resolution,) * 3), axis=1).astype(np.int32))


def _norm(vectors: Floats) -> Floats:
    """Length of vectors [..., 3], summed in a fixed order, which np.linalg.norm does not promise."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    return np.sqrt(x * x + y * y + z * z)


def _count(lengths: Floats, spacing: float) -> Ints:
    """How many steps of at most `spacing` cover each length."""
    return np.ceil(np.round(lengths / spacing, _DECIMALS)).astype(np.int64)


def _runs(counts: Ints) -> tuple[Ints, Ints]:
    """For runs of `counts` elements laid end to end: each element's run and its place in it."""
    run = np.repeat(np.arange(len(counts)), counts)
    return run, np.arange(len(run)) - np.repeat(np.cumsum(counts) - counts, counts)


def _chunks(counts: Ints) -> Iterator[slice]:
    """Consecutive ranges of items whose counts sum to about `_CHUNK`; no item is split."""
    group = np.cumsum(counts) // _CHUNK
    bounds = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(counts)]
    for start, stop in itertools.pairwise(bounds):
        yield slice(start, stop)


def _require_in_range(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise ValueError(f"{name} must be between 1 and {most}, got {value}")
