"""Train the stand-in encoder of points, and the projection of image features into its space.

    apt-get download sweethome3d-furniture
    OMP_NUM_THREADS=1 python -m scripts.train_point_standin sweethome3d-furniture_1.8-1_all.deb --cache out/standin

The same seed, machine and versions give the same weights. One core takes 13 minutes to render and 12 to train.
`python -m scripts.judge_point_standin` says how good they are, on furniture held out by name.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from eval.encoders.catalogue import STANDIN_POINTS
from eval.encoders.grouping import normalise
from eval.encoders.point_standin import PointStandIn, PointStandInConfig
from eval.encoders.standin import DIM, load_standin
from models.data.dataset.sources import list_assets
from models.data.dataset.splits import Split
from scripts.point_standin_shapes import Shape, drop_copies, load_shapes, split

WEIGHTS: Final = Path("eval/encoders/weights/standin-points.safetensors")
SOLIDS, STEPS, BATCH = 1400, 900, 64
LEARNING_RATE, WARM_UP, WEIGHT_DECAY = 1e-3, 50, 0.05
DROPOUT = 0.2  # of image features
# A quarter of the clouds appear once more, as negatives of their own image: blurred by a grid of so many cells, as bad
# reconstructions are.
COARSE_CELLS = (12, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("furniture", type=Path, help="the package, or a folder of its .sh3f files")
    parser.add_argument("--cache", type=Path, required=True, help="folder for clouds and features of renders")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()
    training, _ = shapes_of(arguments.furniture, arguments.cache)
    encoder, projection = train(training, arguments.steps, arguments.seed)
    state = {
        **encoder.state_dict(),
        **{f"image_projection.{key}": value for key, value in projection.state_dict().items()},
    }
    provenance = {
        "name": STANDIN_POINTS.name,
        "commit": subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip(),
        "data": f"sweethome3d-furniture 1.8-1, without held-out names, and random solids 0 to {SOLIDS - 1}",
        "shapes": len(training),
        "seed": arguments.seed,
        "steps": arguments.steps,
        "torch": torch.__version__,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    half = {key: value.detach().half().contiguous() for key, value in state.items()}
    save_file(half, arguments.out, {"provenance": json.dumps(provenance)})
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.2f} MB", provenance)


def shapes_of(furniture: Path, cache: Path) -> tuple[list[Shape], list[Shape]]:
    """Training shapes, and held-out ones: one of each name."""
    assets = [
        *list_assets(f"sweethome3d-furniture:{furniture}", cache),
        *list_assets(f"solids:{SOLIDS}", cache),
    ]
    shapes = load_shapes(assets, load_standin(), cache, lambda name, done, of: print(f"{done}/{of} {name}", flush=True))
    splits = {asset.key: split(asset) for asset in assets}
    test = [shape for shape in shapes if splits[shape.key] == Split.test]
    kept = drop_copies([shape for shape in shapes if splits[shape.key] == Split.train], test)
    by_name = {shape.group: shape for shape in reversed(test)}
    return kept, sorted(by_name.values(), key=lambda shape: shape.key)


def train(shapes: list[Shape], steps: int, seed: int) -> tuple[PointStandIn, nn.Linear]:
    """The encoder, and what projects image features of length 1 into its space.

    Each step compares some clouds with one view of every training shape: image features are cheap, they are made once.
    """
    torch.manual_seed(seed)
    encoder = PointStandIn(PointStandInConfig())
    projection = nn.Linear(DIM, encoder.config.dim)
    scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    parameters = [*encoder.parameters(), *projection.parameters()]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in parameters if p.ndim < 2] + [scale], "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    numbers = {name: number for number, name in enumerate(dict.fromkeys(shape.group for shape in shapes))}
    groups = torch.tensor([numbers[shape.group] for shape in shapes])
    points = torch.stack([shape.points for shape in shapes])
    queue = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        if len(queue) < BATCH:
            queue = torch.randperm(len(shapes))
        chosen, queue = queue[:BATCH], queue[BATCH:]
        views = torch.stack([shape.views[int(torch.randint(len(shape.views), ()))] for shape in shapes])
        images = F.normalize(projection(F.dropout(F.normalize(views, dim=1), DROPOUT)), dim=1)
        clouds = augmented(points[chosen])
        coarse = coarsened(clouds[: BATCH // 4])
        embedded = F.normalize(encoder.embed(*2 * (normalise(torch.cat([clouds, coarse])),)), dim=1)
        loss = contrast(embedded, images, chosen, groups, scale.exp().clamp(max=100))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if step % 25 == 0:
            print(f"step {step} loss {loss.item():.3f} scale {scale.exp().item():.1f}", flush=True)
    return encoder.requires_grad_(False), projection.requires_grad_(False)


def augmented(points: Tensor) -> Tensor:
    """Other points of clouds [B, POINTS, 3], turned about y, their axes scaled up to a tenth, with a little noise."""
    batch, available, _ = points.shape
    drawn = torch.rand(batch, available).topk(STANDIN_POINTS.clouds.points, dim=1).indices
    points = points.gather(1, drawn[..., None].expand(-1, -1, 3))
    sine, cosine = (lambda angle: (angle.sin(), angle.cos()))(2 * math.pi * torch.rand(batch))
    zero, one = torch.zeros(batch), torch.ones(batch)
    turn = torch.stack([cosine, zero, sine, zero, one, zero, -sine, zero, cosine], 1).view(batch, 3, 3)
    points = points * (0.9 + 0.2 * torch.rand(batch, 1, 3))
    return points @ turn.mT + 0.003 * torch.randn_like(points)


def coarsened(points: Tensor) -> Tensor:
    """Points [B, N, 3] moved anywhere in their cells of a grid."""
    low, high = COARSE_CELLS
    cell = 1.9 / (low + (high - low) * torch.rand(len(points), 1, 1))
    return ((points / cell).round() + torch.rand_like(points) - 0.5) * cell


def contrast(embedded: Tensor, images: Tensor, chosen: Tensor, groups: Tensor, scale: Tensor) -> Tensor:
    """Cross entropy of finding the own image among all, and the own cloud among those of the batch.

    Args:
        embedded: [B + C, E], of clouds, then of the first C once more, coarsened: never the right answer. images:
            [n, E]. chosen: int64 [B], the clouds' images. groups: int64 [n]; others of the own group count nowhere.
    """
    logits = scale * embedded @ images.T
    own = F.one_hot(chosen, len(images)).bool()
    alike = (groups[chosen][:, None] == groups) & ~own
    to_images = F.cross_entropy(logits[: len(chosen)].masked_fill(alike, -torch.inf), chosen)
    columns = logits[:, chosen].T
    blocked = torch.zeros_like(columns, dtype=torch.bool)
    blocked[:, : len(chosen)] = alike[:, chosen]
    coarse = groups[chosen[: len(embedded) - len(chosen)]]
    # A coarsened cloud tells its own image from the fine one, not from variants of the same name.
    blocked[:, len(chosen) :] = (groups[chosen][:, None] == coarse) & ~torch.eye(len(chosen), len(coarse)).bool()
    to_clouds = F.cross_entropy(columns.masked_fill(blocked, -torch.inf), torch.arange(len(chosen)))
    return (to_images + to_clouds) / 2


if __name__ == "__main__":
    main()
