"""`ssabench train`: models on prepared datasets."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from cli.options import VAE_WEIGHTS, DeviceOption, resolve_device
from cli.output import progress_bar

app = typer.Typer(no_args_is_help=True, help="Train models on prepared datasets.")


@app.callback()
def group() -> None:
    """Train models on prepared datasets."""


@app.command("vae")
def vae(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="TOML: see below.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the run. One that is there goes on.", show_default=False)],
    minutes: Annotated[
        float | None, typer.Option(help="Stop after so many, with a checkpoint.", show_default=False, min=0)
    ] = None,
    init: Annotated[
        Path | None, typer.Option(help=f"Weights that a new run begins with. {VAE_WEIGHTS}", show_default=False)
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Train an SS-VAE: sparse distance fields to latents an eighth as fine, and back.

    CONFIG names the datasets (of `ssabench prepare`) and what differs from the published sizes; models/vae/configs has
    examples. The run's folder holds metrics.jsonl, TensorBoard's files where that is installed, checkpoints, and a
    table and pictures of each validation. A run that was cut off, even by kill -9, goes on after its last checkpoint
    with the numbers that it would have had.

    With --init a new run begins with given weights, of a checkpoint the averaged ones, and with nothing else of theirs:
    steps, rate, optimiser and average are new. A run that began with them goes on as without --init; any other refuses.

    \b
    ssabench train vae models/vae/configs/small.toml --out runs/vae
    ssabench train vae finer.toml --init runs/vae/checkpoints/step-00020000.safetensors --out runs/finer
    torchrun --nproc-per-node 8 -m cli train vae CONFIG --out runs/vae
    """
    import torch

    from models.training.config import read_config
    from models.training.processes import is_main
    from models.training.trainer import train
    from models.vae.task import VAETask, VAETrainingConfig

    task = VAETask(read_config(config, VAETrainingConfig), init)
    with progress_bar() as bar:

        def progress(step: int, steps: int, numbers: dict[str, float]) -> None:
            if is_main():
                bar(", ".join(f"{name} {value:.4g}" for name, value in numbers.items()), step, steps)

        reached = train(
            task,
            out,
            torch.device(resolve_device(device)),
            minutes=math.inf if minutes is None else minutes,
            progress=progress,
        )
    if is_main():
        print(f"run: {out}, step {reached} of {task.config.training.steps}")
