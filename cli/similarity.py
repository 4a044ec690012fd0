"""`ssabench similarity`: do shapes match their images or captions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.options import DeviceOption, TowerWeightsOption, resolve_device
from cli.output import console, progress_bar


def similarity(
    shapes: Annotated[
        list[Path], typer.Argument(metavar="SHAPE", help="Mesh files, or folders of them.", show_default=False)
    ],
    queries: Annotated[
        Path,
        typer.Option(
            "--with",
            help="A folder of images with the shapes' names, or a .json file of captions by name.",
            show_default=False,
        ),
    ],
    encoder: Annotated[str, typer.Option(help="Point encoder: see below.", show_default=False)],
    out: Annotated[Path, typer.Option(help="JSON to write: scores and where they come from.", show_default=False)],
    weights: Annotated[
        Path | None,
        typer.Option(help="The point encoder's published file; standin-points comes with its own.", show_default=False),
    ] = None,
    tower_weights: TowerWeightsOption = None,
    points: Annotated[
        int | None,
        typer.Option(help="Of each shape. Default: as many as the encoder was trained on.", show_default=False),
    ] = None,
    outer: Annotated[
        bool, typer.Option("--outer", help="Points of what is seen from outside only: walls inside lower scores.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the points.")] = 0,
    device: DeviceOption = None,
) -> None:
    """Cosine between each shape and its image or caption, by a published point encoder and the CLIP towers it is
    aligned with: ULIP-2, Uni3D and OpenShape of Direct3D-S2's table.

    ENCODER is uni3d-ti, -s, -b, -l or -g; ulip2-10k-xyzrgb or ulip2-8k-xyz; openshape-pointbert-vitg14-rgb, -vitl14-rgb
    or -vitb32-rgb. Where none can be had, standin-points (pip install 'ssabench[standin]') compares shapes with images,
    for models of your own: its values compare with no published ones.

    Weights are loaded strictly: another variant's file is refused by name. Values of different papers differ by several
    times, so OUT has all that two must share to be compared: hashes of weights, points, sampling, colours, axes,
    normalisation and what became of transparency. Shapes are uncoloured.

    \b
    ssabench similarity results/ --with prompts/ --encoder uni3d-g --weights uni3d-g.pt --out uni3d.json
    ssabench similarity chair.obj --with captions.json --encoder uni3d-b --weights uni3d-b.pt --out text.json
    ssabench similarity results/ --with prompts/ --encoder standin-points --out standin.json
    """
    from rich.markup import escape
    from rich.table import Table

    from eval.encoders.assets import Shell, cloud_of_file, read_captions, read_images, sampling
    from eval.encoders.catalogue import point_encoder_spec
    from eval.encoders.checkpoint import load_point_encoder
    from eval.encoders.similarity import image_shape_similarity, text_shape_similarity
    from eval.encoders.towers import load_towers
    from eval.matching import find_meshes
    from models.files import write_whole

    spec = point_encoder_spec(encoder)
    where = resolve_device(device)
    count = spec.clouds.points if points is None else points
    shell: Shell = "outer surface" if outer else "all surfaces"
    found = find_meshes(shapes)
    texts = read_captions(queries, found) if queries.suffix == ".json" else None
    images = read_images(queries, found) if texts is None else {}
    loaded = load_point_encoder(encoder, weights, where)
    towers = load_towers(spec.tower, tower_weights, where)
    clouds = {}
    with progress_bar() as progress:
        for done, (name, path) in enumerate(found.items()):
            progress(name, done, len(found))
            clouds[name] = cloud_of_file(path, count, seed, shell)
        progress("encode", len(found), len(found))
        how = sampling(count, seed, shell)
        if texts is None:
            scores = image_shape_similarity(loaded, towers, clouds, images, how)
        else:
            scores = text_shape_similarity(loaded, towers, clouds, texts, how)
    write_whole(out, [scores.model_dump_json(indent=2), "\n"])
    table = Table("shape", "cosine")
    for name, cosine in sorted(scores.cosines.items(), key=lambda item: item[1]):
        table.add_row(escape(name), f"{cosine:.4f}")
    table.add_row(f"mean of {len(scores.cosines)}", f"{scores.mean:.4f}")
    console().print(table)
    print(f"scores: {out}")
