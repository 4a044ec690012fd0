"""`ssabench encode`: fields of a dataset to latents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import DEFAULT_VAE, DeviceOption, VAEWeightsOption, resolve_device
from cli.output import progress_bar


def encode(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="Of `ssabench prepare`.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the latents.", show_default=False)],
    weights: VAEWeightsOption = DEFAULT_VAE,
    resolution: Annotated[int, typer.Option(help="Of the fields to encode.")] = 512,
    device: DeviceOption = None,
) -> None:
    """Encode a dataset with an SS-VAE: the latents that a diffusion model learns to make.

    OUT has a shard for each of the dataset's, and manifest.jsonl with a line a sample. Run again after an interruption
    it keeps the shards that are whole.

    \b
    ssabench encode data/furniture data/furniture-latents
    ssabench encode data/furniture data/furniture-latents --weights runs/vae/checkpoints/step-00020000.safetensors
    """
    import torch

    from models.vae.files import load_vae
    from models.vae.latents import encode_dataset

    with progress_bar() as progress:
        found = encode_dataset(
            load_vae(weights), dataset, out, resolution, torch.device(resolve_device(device)), progress
        )
    print(f"latents: {out}, {len(found)} samples, {sum(entry.latents for entry in found):,} latents")
