"""`ssabench selftest`: whether weights of a point encoder do what is published of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import DeviceOption, PointEncoderWeightsOption, TowerWeightsOption, resolve_device
from cli.output import console, progress_bar


def selftest(
    encoder: Annotated[str, typer.Argument(metavar="ENCODER", help="As of `ssabench similarity`.", show_default=False)],
    weights: PointEncoderWeightsOption,
    data: Annotated[
        Path,
        typer.Option(
            help="Folder of ModelNet40 or Objaverse-LVIS as Uni3D or OpenShape publish it.", show_default=False
        ),
    ],
    templates: Annotated[
        Path, typer.Option(help="data/templates.json of baaivision/Uni3D or salesforce/ULIP.", show_default=False)
    ],
    tower_weights: TowerWeightsOption = None,
    training: Annotated[
        str, typer.Option(help="What the checkpoint was trained with, where several are published.")
    ] = "ensembled",
    device: DeviceOption = None,
) -> None:
    """Classify labelled point clouds without training, and compare with the accuracy that the authors print.

    It tells whether weights, towers, axes, colours and normalisation are what the authors used, before a similarity
    is believed. Exit code 1 if top-1 or top-5 is off by more than a percentage point.

    \b
    ssabench selftest uni3d-g --weights uni3d-g.pt --data modelnet40 --templates templates.json
    """
    from rich.table import Table

    from eval.encoders.catalogue import point_encoder_spec
    from eval.encoders.checkpoint import load_point_encoder
    from eval.encoders.clip import load_clip
    from eval.encoders.labelled import read_modelnet40, read_objaverse_lvis
    from eval.encoders.selftest import published_accuracy, read_templates
    from eval.encoders.selftest import selftest as run

    spec = point_encoder_spec(encoder)
    where = resolve_device(device)
    if not data.is_dir():
        raise ValueError(f"--data must be a folder, got {data}")
    clouds = (read_modelnet40 if (data / "test_pc.npy").exists() else read_objaverse_lvis)(data)
    published_accuracy(encoder, clouds.dataset, training)  # before anything is loaded in vain
    texts = read_templates(templates)
    loaded = load_point_encoder(encoder, weights, where)
    towers = load_clip(spec.tower, tower_weights, where)
    with progress_bar() as progress:
        total = len(clouds.labels)
        found = run(
            loaded, towers, clouds, texts, training=training, progress=lambda done: progress("clouds", done, total)
        )
    table = Table("accuracy, %", "here", "published")
    for name in ("top1", "top5"):
        table.add_row(name, f"{getattr(found, name):.1f}", f"{getattr(found.published, name):.1f}")
    console().print(table)
    print(f"{clouds.dataset}, {found.clouds} clouds; published: {found.published.source}")
    if not found.passed:
        print(f"not as published: more than {found.tolerance:g} points off")
        raise typer.Exit(1)
    print("as published")
