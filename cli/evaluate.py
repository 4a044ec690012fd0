"""`ssabench evaluate`: meshes scored against references by a protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import DeviceOption, resolve_device
from cli.output import console, progress_bar

if TYPE_CHECKING:
    from PIL.Image import Image

    from eval.encoders.lpips import LPIPS
    from eval.job import Job
    from eval.normal_frechet import ImageFeatures
    from eval.protocols.protocol import Protocol
    from eval.similarity_columns import Judge
    from reports.markup import Table


@dataclass(frozen=True)
class Beside:
    """What is judged beside the protocol's own metrics."""

    judges: Sequence[Judge] = ()
    images: Mapping[str, Image] = field(default_factory=dict)  # by asset, for the judges
    normals: ImageFeatures | None = None  # of normal maps
    lpips: LPIPS | None = None  # of normal maps, too


WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, help="Processes. Default: one for each core; one on a GPU.", show_default=False),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with a run that was stopped; what failed is tried again.")
]


def evaluate(
    preds: Annotated[
        list[str],
        typer.Argument(
            metavar="PRED",
            help="Mesh files, or folders of them, one for each method; NAME=PATH names a method.",
            show_default=False,
        ),
    ],
    ref: Annotated[
        Path,
        typer.Argument(metavar="REF", help="The reference: a file, or a folder with equal names.", show_default=False),
    ],
    protocol: Annotated[
        str,
        typer.Option(
            help="direct3d-s2, trellis2, dora, 3dshape2vecset, roundtrip, or a TOML file of your own.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of rows, tables, pictures and page.", show_default=False)],
    workers: WorkersOption = None,
    time_limit: Annotated[
        float, typer.Option(min=1, help="Seconds for one mesh; one that takes longer has failed.")
    ] = 600,
    device: DeviceOption = None,
    resume: ResumeOption = False,
    similarity: Annotated[
        list[str] | None,
        typer.Option(
            help="Also the similarity to images, by an encoder of `ssabench similarity`; repeat for several.",
            metavar="ENCODER[=WEIGHTS]",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of condition images with the assets' names, for --similarity.", show_default=False),
    ] = None,
    tower_weights: Annotated[
        list[str] | None,
        typer.Option(
            help="File of an encoder's CLIP towers. Default: open_clip's cache or download.",
            metavar="ENCODER=FILE",
            show_default=False,
        ),
    ] = None,
    normal_frechet: Annotated[
        str | None,
        typer.Option(
            help="Also compare normal maps of the whole set (direct3d-s2), by `standin` or by `inception=FILE`.",
            metavar="ENCODER[=WEIGHTS]",
            show_default=False,
        ),
    ] = None,
    lpips: Annotated[
        str | None,
        typer.Option(
            help="Also LPIPS of normal maps (trellis2), by the weights of two files.",
            metavar="VGG16,LINEAR",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Score meshes against references by a published protocol, and compare methods.

    Files are matched by name, without the suffix (glb, gltf, obj, off, ply, stl), in folders and the folders below. A
    mesh that is missing, empty, not finite, too slow or crashes its process has failed: it counts with the worst score
    of each metric and is listed with its reason. An asset whose reference cannot be used counts for no method.

    Protocols fix normalisation, samples, metrics and thresholds; they are data in eval/protocols, with their sources
    and what the papers leave open. A metric that cannot run here is listed, never estimated.

    --similarity adds a column for each encoder: the cosine between a shape and its image, as `ssabench similarity`
    takes it by default. A failed asset counts as the opposite of its image, -1. OUT/similarity has the provenance.

    --normal-frechet takes the paired views of Normal-FID. inception=FILE is Normal-FID, by the published weights of
    pytorch-fid (pt_inception-2015-12-05-6726825d.pth). standin needs no file but the extra of that name: it orders
    methods, and is named by its features.

    --lpips takes torchvision's vgg16-397923af.pth and lpips/weights/v0.1/vgg.pth of the package lpips, with a comma
    between. A failed asset counts with the largest distance that these weights allow. OUT/lpips.json has their hashes.

    OUT gets rows.jsonl (with versions and hashes of files), results.csv, summary.csv, comparisons.csv (paired tests),
    report.md, tables/*.tex, pictures, and index.html: one page with thumbnails and errors on the surface.

    \b
    ssabench evaluate ours baseline references --protocol direct3d-s2 --out out/evaluation
    ssabench evaluate ours=run7/meshes references --protocol trellis2 --workers 8 --out out/trellis2
    ssabench evaluate chair.obj chair.glb --protocol dora --out out/chair
    ssabench evaluate ours refs --protocol direct3d-s2 --images prompts --similarity standin-points --out out/sim
    ssabench evaluate ours refs --protocol direct3d-s2 --normal-frechet standin --out out/normals
    """
    from eval.job import Job
    from eval.matching import match
    from eval.protocols.protocol import load_protocol

    chosen = load_protocol(protocol)
    found = match(preds, ref)
    jobs = [Job(one.asset, method, pred, one.ref) for one in found.matches for method, pred in one.preds.items()]
    beside = _beside(similarity or [], images, tower_weights or [], normal_frechet, lpips, chosen, jobs, device)
    for path in found.unmatched:
        console().print(f"left out: {path}: no reference of this name", markup=False)
    run_and_report(
        jobs, chosen, out, workers=workers, device=device, time_limit=time_limit, resume=resume, beside=beside
    )


def run_and_report(
    jobs: list[Job],
    protocol: Protocol,
    out: Path,
    *,
    workers: int | None,
    device: str | None,
    time_limit: float,
    resume: bool,
    title: str | None = None,
    published: Table | None = None,
    beside: Beside | None = None,
) -> None:
    """Evaluate, print the means and what failed, and write the report, with published numbers beside where given."""
    from eval.aggregate import aggregate
    from eval.evaluate import cores
    from eval.evaluate import evaluate as run
    from eval.lpips_column import with_lpips
    from eval.normal_frechet import normal_frechet
    from eval.similarity_columns import with_similarity
    from models.files import write_whole
    from reports.evaluation import (
        comparison_table,
        failure_table,
        normals_table,
        not_run_table,
        render_evaluation,
        summary_table,
    )

    where, beside = resolve_device(device), beside or Beside()
    with progress_bar() as progress:
        rows = run(
            jobs,
            protocol,
            out,
            workers=workers or (cores() if where == "cpu" else 1),
            device=where,
            time_limit=time_limit,
            resume=resume,
            progress=progress,
        )
        sets = []
        if beside.normals is not None:
            sets = normal_frechet(rows, protocol, beside.normals, device=where, progress=progress)
            write_whole(out / "normals.jsonl", [f"{one.model_dump_json()}\n" for one in sets])
        if beside.lpips is not None:
            rows, protocol = with_lpips(rows, protocol, beside.lpips, device=where, progress=progress)
            write_whole(out / "lpips.json", [json.dumps(beside.lpips.provenance, indent=2), "\n"])
        if beside.judges:
            more = with_similarity(rows, protocol, beside.judges, beside.images, progress=progress)
            rows, protocol = more.rows, more.protocol
            for (encoder, method), scores in more.scores.items():
                file = out / "similarity" / f"{encoder}-{method}.json"
                write_whole(file, [scores.model_dump_json(indent=2), "\n"])
    found = aggregate(rows, protocol)
    _print(summary_table(found))
    if sets:
        _print(normals_table(sets))
    if found.comparisons:
        _print(comparison_table(found))
    for table in (failure_table(found), not_run_table(protocol, sets)):
        for row in table.rows:
            console().print(": ".join(cell.text for cell in row), markup=False)
    print(render_evaluation(rows, protocol, out, title=title, published=published, normals=sets))


def _beside(
    similarity: list[str],
    images: Path | None,
    tower_weights: list[str],
    normals: str | None,
    lpips: str | None,
    protocol: Protocol,
    jobs: Sequence[Job],
    device: str | None,
) -> Beside:
    """Everything loaded and checked, before hours of work are done in vain."""
    from eval.encoders.assets import read_images
    from eval.encoders.catalogue import point_encoder_spec
    from eval.encoders.checkpoint import load_point_encoder
    from eval.encoders.towers import load_towers
    from eval.normal_frechet import normal_views
    from eval.similarity_columns import Judge

    where = resolve_device(device)
    if bool(similarity) != (images is not None):
        raise ValueError("--similarity and --images belong together: encoders, and the images to compare with")
    weights = [(name, Path(path) if path else None) for name, _, path in (text.partition("=") for text in similarity)]
    towers = {name: Path(path) for name, _, path in (text.partition("=") for text in tower_weights)}
    if unknown := sorted(towers.keys() - dict(weights).keys()):
        raise ValueError(f"--tower-weights takes ENCODER=FILE with an encoder of --similarity, got {unknown[0]!r}")
    if len(dict(weights)) < len(weights):
        raise ValueError("--similarity must name every encoder once")
    specs = [point_encoder_spec(name) for name, _ in weights]
    shown = read_images(images, {job.asset: job for job in jobs}) if images is not None else {}
    if normals is not None:
        normal_views(protocol)
    return Beside(
        judges=[
            Judge(load_point_encoder(name, path, where), load_towers(spec.tower, towers.get(name), where))
            for (name, path), spec in zip(weights, specs, strict=True)
        ],
        images=shown,
        normals=None if normals is None else _image_encoder(normals, where),
        lpips=None if lpips is None else _lpips(lpips, protocol, where),
    )


def _lpips(text: str, protocol: Protocol, device: str) -> LPIPS:
    """Of --lpips."""
    from eval.encoders.lpips import load_lpips
    from eval.lpips_column import lpips_metric

    lpips_metric(protocol)
    backbone, comma, linear = text.partition(",")
    if not (comma and backbone and linear):
        raise ValueError(f"--lpips takes two files with a comma between, of VGG16 and of LPIPS, got {text!r}")
    return load_lpips(Path(backbone), Path(linear), device)


def _image_encoder(text: str, device: str) -> ImageFeatures:
    """Of --normal-frechet."""
    from eval.encoders.inception import URL, load_inception
    from eval.encoders.standin import load_standin

    name, _, path = text.partition("=")
    if name == "inception" and path:
        return load_inception(Path(path), device)
    if text == "standin":
        return load_standin(device)
    raise ValueError(f"--normal-frechet takes standin, or inception=FILE with the weights of {URL}, got {text!r}")


def _print(table: Table) -> None:
    from rich.markup import escape
    from rich.table import Table as Grid

    grid = Grid()
    for column, title in enumerate(table.header):
        grid.add_column(escape(title), justify="left" if table.is_text(column) else "right")
    for row in table.rows:
        grid.add_row(*(escape(f"{cell.text} ({cell.note})" if cell.note else cell.text) for cell in row))
    console().print(grid)
