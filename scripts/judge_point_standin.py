"""How good the stand-in encoder of points is, on furniture whose names it never saw, beside chance and no learning.

    OMP_NUM_THREADS=1 python -m scripts.judge_point_standin sweethome3d-furniture_1.8-1_all.deb --cache out/standin

Retrieval: each cloud among four `rendered_views` of every held-out object; objects are ranked by their most alike view.
The baselines know what no encoder is told, the views' elevation and the shapes' fronts: they get the clouds'
silhouettes from eight azimuths, those of the views among them or all between, and count the best one. They compare
histograms of distances between pairs of cells (D2 of Osada et al., 2002, in images), or the overlap itself.
Ranking: an object, and the same through a signed distance field at 64, 32 and 16, all compared with its first view.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from eval.encoders.catalogue import STANDIN_POINTS
from eval.encoders.checkpoint import LoadedPointEncoder, load_point_encoder
from eval.encoders.clouds import prepare
from eval.encoders.point_encoder import embed_clouds
from eval.encoders.similarity import cosine_matrix
from eval.encoders.standin import rendered_views
from eval.encoders.standin_tower import load_standin_tower
from eval.sampling import sample_surface
from eval.surface import Surface
from models.data.cameras import orbit
from models.data.dataset.sources import list_assets
from models.data.isosurface import isosurface
from models.data.sdf import sparse_sdf
from scripts.point_standin_shapes import mesh_surface
from scripts.train_point_standin import shapes_of

VIEWS, AZIMUTHS, ELEVATION = 4, 8, 20.0
GRID = 24  # cells along a silhouette's longer side
RESOLUTIONS = (64, 32, 16)
Likeness = Callable[[Tensor, Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("furniture", type=Path, help="the package, or a folder of its .sh3f files")
    parser.add_argument("--cache", type=Path, required=True, help="as of scripts.train_point_standin")
    parser.add_argument("--ranked", type=int, default=32, help="objects to coarsen")
    parser.add_argument("--weights", type=Path, help="default: the packaged ones")
    arguments = parser.parse_args()
    _, shapes = shapes_of(arguments.furniture, arguments.cache)
    assets = {
        asset.key: asset for asset in list_assets(f"sweethome3d-furniture:{arguments.furniture}", arguments.cache)
    }
    geometries = [assets[shape.key].geometry for shape in shapes]
    meshes = [geometry.load() for geometry in geometries if geometry is not None]
    views = [rendered_views(mesh, VIEWS, elevation=ELEVATION) for mesh in meshes]
    encoder, tower = load_point_encoder(STANDIN_POINTS.name, arguments.weights), load_standin_tower()
    images = tower.embed_images([view for of_shape in views for view in of_shape])
    clouds = embedded(encoder, [shape.points for shape in shapes])
    sides, between = (
        [[silhouette(projected(shape.points, turn + off)) for turn in range(AZIMUTHS)] for shape in shapes]
        for off in (0, 0.5)
    )
    seen = [[silhouette(covered(view)) for view in of_shape] for of_shape in views]
    found = {
        "chance": {"top1": 1 / len(shapes), "top5": 5 / len(shapes)},
        "D2 of silhouettes": accuracy(compared(sides, seen, d2_likeness)),
        "overlap of silhouettes": accuracy(compared(sides, seen, overlap)),
        "D2 of silhouettes, azimuths between": accuracy(compared(between, seen, d2_likeness)),
        "overlap of silhouettes, azimuths between": accuracy(compared(between, seen, overlap)),
        STANDIN_POINTS.name: accuracy(cosine_matrix(clouds, images).view(len(shapes), -1, VIEWS).amax(2)),
    }
    print(json.dumps({"held-out objects": len(shapes), **found}, indent=2), flush=True)
    first = images[::VIEWS]
    coarse = coarsened_scores(encoder, [mesh_surface(mesh) for mesh in meshes[: arguments.ranked]], first)
    print(json.dumps(coarse, indent=2))


def embedded(encoder: LoadedPointEncoder, points: Sequence[Tensor]) -> Tensor:
    policy = encoder.spec.clouds
    return embed_clouds(encoder.encoder, [prepare(cloud[: policy.points], None, policy) for cloud in points])


def accuracy(likeness: Tensor) -> dict[str, float]:
    """Of likeness [n, n] of clouds to objects: shares of clouds whose object is first, and among the first five."""
    own = likeness.diagonal()[:, None]
    rank = (likeness >= own).sum(1)  # ties count against
    return {"top1": float((rank <= 1).float().mean()), "top5": float((rank <= 5).float().mean())}


def coarsened_scores(encoder: LoadedPointEncoder, surfaces: Sequence[Surface], images: Tensor) -> dict[str, object]:
    """Mean cosine with the image, of originals and of what is left of them at each resolution."""
    scores = {"original": _cosines(encoder, surfaces, images)}
    for resolution in RESOLUTIONS:
        through = [isosurface(sparse_sdf(s.vertices, s.faces, resolution)) for s in surfaces]
        coarse = [Surface(found.vertices, found.faces, "coarse") for found in through]
        scores[str(resolution)] = _cosines(encoder, coarse, images)
    below = {name: float((values < scores["original"]).float().mean()) for name, values in scores.items()}
    return {"mean cosine": {name: float(v.mean()) for name, v in scores.items()}, "share below the original": below}


def _cosines(encoder: LoadedPointEncoder, surfaces: Sequence[Surface], images: Tensor) -> Tensor:
    points = [sample_surface(surface, STANDIN_POINTS.clouds.points, seed=0).points.float() for surface in surfaces]
    return cosine_matrix(embedded(encoder, points), images[: len(surfaces)]).diagonal()


def projected(points: Tensor, turn: float) -> Tensor:
    """Image coordinates [N, 2] of a cloud, y up."""
    camera = orbit(ELEVATION, 360 * turn / AZIMUTHS, radius=float(points.norm(dim=1).max()))
    seen = points.double() @ camera.world_to_camera()[:3, :3].T + camera.world_to_camera()[:3, 3]
    return seen[:, :2] / -seen[:, 2:]


def covered(image: Image.Image) -> Tensor:
    """Coordinates [N, 2] of the pixels that are not white, y up."""
    row, column = torch.from_numpy((np.asarray(image) < 250).any(2)).nonzero().double().unbind(1)
    return torch.stack([column, -row], 1)


def silhouette(places: Tensor) -> Tensor:
    """bool [GRID, GRID], the places [N, 2] moved into a corner, their longer side filling the grid."""
    low, high = places.amin(0), places.amax(0)
    cells = ((places - low) / (high - low).amax().clamp(min=1e-9) * (GRID - 1e-6)).long()
    grid = torch.zeros(GRID, GRID, dtype=torch.bool)
    grid[cells[:, 1], cells[:, 0]] = True
    return grid


def compared(sides: Sequence[Sequence[Tensor]], seen: Sequence[Sequence[Tensor]], likeness: Likeness) -> Tensor:
    """[n, n]: the best of all sides of a cloud against all views of an object."""
    a, b = (torch.stack([torch.stack(list(grids)) for grids in all_grids]) for all_grids in (sides, seen))
    values = likeness(a.flatten(0, 1), b.flatten(0, 1))
    return values.view(len(sides), AZIMUTHS, len(seen), VIEWS).amax((1, 3))


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union [n, m] of grids [n, G, G] and [m, G, G]."""
    a, b = a.flatten(1).float(), b.flatten(1).float()
    both = a @ b.T
    return both / (a.sum(1)[:, None] + b.sum(1) - both)


def d2_likeness(a: Tensor, b: Tensor) -> Tensor:
    """Minus the L1 distance [n, m] of histograms of distances between cells."""
    return -torch.cdist(d2(a), d2(b), p=1)


def d2(grids: Tensor) -> Tensor:
    """Shares [n, GRID] of all pairs of cells of a silhouette by their distance."""
    at = torch.cartesian_prod(torch.arange(GRID), torch.arange(GRID)).float()
    bins = F.one_hot((torch.cdist(at, at) / 2**0.5).long().clamp(max=GRID - 1), GRID).float()
    flat = grids.flatten(1).float()
    counts = torch.stack([((flat @ bins[..., bin]) * flat).sum(1) for bin in range(GRID)], 1)
    return counts / counts.sum(1, keepdim=True)


if __name__ == "__main__":
    main()
