"""What rays through a surface tell: which points are inside, and which parts of the surface can be seen from outside.

Rays are traced on the CPU, on all cores, wherever the surface is; results return to its device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from eval.nearest import in_threads
from eval.sampling import Samples, draw_samples, sample_surface
from eval.surface import Surface, checked_points

# Of a point's rays: three can be outvoted by none.
_VOTES = 3
# Directions in which a point of the surface looks for a way out.
DIRECTIONS = 128
# Of the diagonal of the bounding box: a ray leaves its own triangle, and any twin of it, before it meets others.
_START = 1e-7
# Below such a share of samples in sight, drawing until there are enough would take too long; and how many tell.
_LEAST_SHARE, _TELLING = 1e-3, 10_000


def sphere_directions(count: int) -> Tensor:
    """Unit vectors fp64 [count, 3], evenly spread (a Fibonacci lattice), none along an axis, in mixed order."""
    rank = torch.arange(count, dtype=torch.float64)
    z = 1 - (2 * rank + 1) / count
    azimuth = rank * (math.pi * (3 - math.sqrt(5)))
    radius = (1 - z**2).sqrt()
    lattice = torch.stack([radius * azimuth.cos(), radius * azimuth.sin(), z], 1)
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
    return lattice[torch.randperm(count, generator=generator)] @ turn


def inside(points: Tensor, surface: Surface) -> tuple[Tensor, Tensor]:
    """Which points a surface goes around, and where the answer is in doubt.

    A point is inside where the winding number is not zero: it is the sum of signed crossings along a ray. So parts of a
    mesh may overlap, where parity would take the overlap out, and a cavity is outside if its triangles face into it.
    The majority of three rays decides; they agree where the mesh is closed and consistently oriented.

    Args:
        points: floating [N, 3], on the surface's device.

    Returns:
        bool [N]: inside; bool [N]: the rays disagree.

    Raises:
        ValueError: no points, another shape or dtype, or coordinates that are not finite.
    """
    from eval.compiled_search import windings  # numba takes a while to import

    points = checked_points("points", points)
    tree = surface.tree_on_cpu
    winding = torch.empty(len(points), _VOTES, dtype=torch.int64)
    origins, directions = points.cpu().contiguous().numpy(), sphere_directions(_VOTES).numpy()
    triangles, low, high = tree.items.numpy(), tree.low.numpy(), tree.high.numpy()

    def share(part: slice) -> None:
        windings(origins[part], directions, triangles, low, high, tree.leaf, winding.numpy()[part])

    in_threads(share, len(points))
    votes = (winding != 0).sum(1).to(points.device)
    return votes > _VOTES // 2, (votes > 0) & (votes < _VOTES)


def seen_from_outside(samples: Samples, surface: Surface, directions: int = DIRECTIONS) -> Tensor:
    """Which samples of a surface have a free line to infinity, on either side of their triangle: bool [N].

    Raises:
        ValueError: fewer than one direction.
    """
    from eval.compiled_search import sees_outside

    if directions < 1:
        raise ValueError(f"directions must be positive, got {directions}")
    tree = surface.tree_on_cpu
    place = torch.empty_like(tree.order)
    place[tree.order] = torch.arange(len(place))
    own = place[samples.face.cpu()].numpy()
    low, high = surface.bounds
    start = _START * float((high - low).norm())
    free = torch.empty(len(own), dtype=torch.bool)
    origins, rays = samples.points.cpu().contiguous().numpy(), sphere_directions(directions).numpy()
    triangles, lows, highs = tree.items.numpy(), tree.low.numpy(), tree.high.numpy()

    def share(part: slice) -> None:
        sees_outside(origins[part], own[part], rays, triangles, lows, highs, tree.leaf, start, free.numpy()[part])

    in_threads(share, len(own))
    return free.to(samples.face.device)


def interior_share(surface: Surface, count: int = 20_000, seed: int = 0) -> float:
    """Share of the surface's area, 0..1, that cannot be seen from outside; standard error at most 0.5 / sqrt(count).

    Walls inside a mesh draw samples away from what is seen, and change the scores of shape encoders. Here rays go from
    samples into `DIRECTIONS` directions, so that small triangles count as they should; TRELLIS.2 looks from 100 views
    at depth maps, and a flood fill would also reach what no straight line does.
    """
    return 1 - float(seen_from_outside(sample_surface(surface, count, seed), surface).double().mean())


def sample_outer_surface(surface: Surface, count: int, seed: int) -> Samples:
    """Independent points, uniform by area over what can be seen from outside.

    Raises:
        ValueError: fewer than one point, or a surface of which hardly anything is seen.
    """
    if count < 1:
        raise ValueError(f"count must be positive, got {count}")
    generator = torch.Generator().manual_seed(seed)
    parts: list[Samples] = []
    drawn = found = 0
    while found < count:
        # As many as the share seen so far suggests, and some more.
        wanted = (count - found) * (drawn + 1) / (found + 1)
        candidates = draw_samples(surface, min(math.ceil(1.05 * wanted), 4 * count) + 256, generator)
        part = candidates.select(seen_from_outside(candidates, surface))
        parts.append(part)
        drawn, found = drawn + len(candidates.face), found + len(part.face)
        if drawn > _TELLING and found < _LEAST_SHARE * drawn:
            raise ValueError(f"{surface.name} is hardly seen from outside: {found} of {drawn} samples")
    joined = Samples(*(torch.cat([getattr(p, field) for p in parts]) for field in ("points", "face", "normals")))
    return joined.select(torch.arange(count, device=joined.face.device))
