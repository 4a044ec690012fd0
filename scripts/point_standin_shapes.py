"""What the stand-in encoder of points is trained and tested on: clouds of shapes beside features of their renders.

Furniture of Debian's sweethome3d-furniture and this project's random solids. Which furniture is held out follows from
its name alone (`models.data.dataset.splits`), so variants of a piece stay together; what else lies near a held-out
shape is dropped from training (`drop_copies`). Everything about a shape is drawn from its key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from eval.encoders.grouping import normalise
from eval.encoders.standin import StandInEncoder
from eval.sampling import sample_surface
from eval.surface import Surface
from models.data.cameras import bounding_radius, orbit
from models.data.dataset.sources import Asset
from models.data.dataset.splits import Split, split_of
from models.data.mesh_file import MeshError
from models.data.render import render
from models.data.textured import TexturedMesh

SHARES = (0.8, 0.0, 0.2)
POINTS = 4096  # of each stored cloud; training draws fewer of them
SIZE = 260  # pixels, as large as the encoder of images sees them
# Mean distance between two clouds, their farthest points at 1, below which they are one shape; 512 points on one
# surface are about 0.04 apart.
COPY = 0.06
_COPY_POINTS = 512


@dataclass(frozen=True)
class Shape:
    """A shape without its mesh."""

    key: str
    group: str  # what is split together
    points: Tensor  # fp32 [POINTS, 3], y up
    views: Tensor  # fp32 [views, 1280], features of renders


def split(asset: Asset) -> Split:
    """Random solids are all for training: those of other seeds are held out."""
    return Split.train if asset.category == "solid" else split_of(asset.group, SHARES)


def load_shapes(
    assets: Sequence[Asset], encoder: StandInEncoder, cache: Path, progress: Callable[[str, int, int], None]
) -> list[Shape]:
    """The shapes of all assets whose mesh can be used, kept in a file of the folder `cache`."""
    file = cache / f"shapes-{hashlib.sha256(repr((POINTS, SIZE, assets)).encode()).hexdigest()[:16]}.pt"
    if not file.exists():
        shapes = []
        for done, asset in enumerate(assets):
            progress(asset.key, done, len(assets))
            try:
                shapes.append(_shape(asset, encoder))
            except (MeshError, ValueError) as error:
                print(f"left out: {asset.key}: {error}", flush=True)
        cache.mkdir(parents=True, exist_ok=True)
        torch.save([(shape.key, shape.group, shape.points, shape.views) for shape in shapes], file)
    return [Shape(*fields) for fields in torch.load(file, weights_only=True)]


def drop_copies(training: Sequence[Shape], held_out: Sequence[Shape]) -> list[Shape]:
    """The training shapes that are nearer than `COPY` to no held-out one, whatever their names and turns about y."""
    others = torch.stack([_thinned(shape.points) for shape in held_out])
    return [shape for shape in training if _distance(_thinned(shape.points), others) >= COPY]


def mesh_surface(mesh: TexturedMesh) -> Surface:
    """Its triangles."""
    return Surface(mesh.vertices, mesh.faces, mesh.name)


def _shape(asset: Asset, encoder: StandInEncoder) -> Shape:
    if asset.geometry is None:
        raise MeshError(asset.missing)
    generator = torch.Generator().manual_seed(int(hashlib.sha256(asset.key.encode()).hexdigest()[:12], 16))
    mesh, solid = asset.geometry.load(), asset.category == "solid"
    if solid:  # they have no colour of their own
        color = tuple((0.1 + 0.8 * torch.rand(3, generator=generator)).tolist())
        mesh = replace(mesh, materials=(replace(mesh.materials[0], factor=color),))
    points = sample_surface(mesh_surface(mesh), POINTS, int(torch.randint(2**31, (1,), generator=generator)))
    images = _views(mesh, 2 if solid else 3, generator)
    return Shape(asset.key, asset.group, points.points.float(), encoder.embed_images(images))


def _views(mesh: TexturedMesh, count: int, generator: torch.Generator) -> list[Image.Image]:
    """Evenly around the shape from a random azimuth on, elevations 5 to 35; the first one smooth at its edges."""
    first, *elevations = torch.rand(count + 1, generator=generator).tolist()
    images = []
    for view, elevation in enumerate(elevations):
        azimuth = 360 * (first + view) / count
        camera = orbit(5 + 30 * elevation, azimuth, radius=bounding_radius(mesh.vertices), width=SIZE, height=SIZE)
        rgb = render(mesh, camera, supersample=2 if view == 0 else 1).rgb
        images.append(Image.fromarray((rgb * 255).round().to(torch.uint8).numpy()))
    return images


def _thinned(points: Tensor) -> Tensor:
    return normalise(points[:_COPY_POINTS])


def _distance(points: Tensor, others: Tensor) -> float:
    """To the nearest of other clouds [n, P, 3], over quarter turns: mean distance of nearest points, the larger one."""
    x, y, z = points.unbind(1)
    best = torch.inf
    for turned in (points, torch.stack([z, y, -x], 1), torch.stack([-x, y, -z], 1), torch.stack([-z, y, x], 1)):
        near = others[((turned.std(0) - others.std(1)).abs() < COPY).all(1)]  # no copy spreads differently
        if len(near):
            distances = torch.cdist(turned.expand(len(near), -1, -1), near)
            sides = distances.amin(2).mean(1), distances.amin(1).mean(1)
            best = min(best, float(torch.maximum(*sides).min()))
    return best
