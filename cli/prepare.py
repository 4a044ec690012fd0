"""`ssabench prepare`: meshes to a dataset."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import resolve_device
from cli.output import console, progress_bar

if TYPE_CHECKING:
    from models.data.dataset.prepare import Prepared


def prepare(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Where the meshes are: see above.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the dataset.", show_default=False)],
    resolution: Annotated[
        str, typer.Option(help="Of the sparse distance fields, 16 to 2048; several joined by commas.")
    ] = "256",
    views: Annotated[
        str,
        typer.Option(
            help="Renders of each asset: none, a number of turntable views, paper (Direct3D-S2's 45) or trellis2 (4)."
        ),
    ] = "none",
    image_size: Annotated[int, typer.Option(help="Pixels along a side of a render.")] = 512,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes of one thread. 0 works in this one, without --time-limit. "
            "Default: 1; with --ray one for each CPU or GPU.",
            show_default=False,
        ),
    ] = None,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray", help="Work on the Ray cluster that RAY_ADDRESS names, else on one of this machine's own."
        ),
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda. Default: cuda where there is one.", show_default=False)
    ] = None,
    shard_size: Annotated[int, typer.Option(help="Samples in a shard.")] = 64,
    split: Annotated[str, typer.Option(help="Percent of train, val and test.")] = "90,5,5",
    limit: Annotated[
        int | None, typer.Option(help="Only so many assets, the same ones each time.", show_default=False)
    ] = None,
    max_faces: Annotated[int, typer.Option(help="An asset with more is a failure.")] = 10_000_000,
    time_limit: Annotated[float, typer.Option(help="Seconds for an asset; one that takes longer is a failure.")] = 600,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew; by default an interrupted run goes on.")
    ] = False,
) -> None:
    """Prepare meshes for training: sparse signed distance fields and renders, in shards with a manifest.

    SOURCE is one of:

    \b
    FOLDER                       glb, gltf, obj, off, ply, stl in it and below
    sweethome3d-furniture:PATH   the .deb of Debian, or a folder of .sh3f files
    objaverse:LIST               .json, .json.gz or .csv of uid and path
    shapenet:FOLDER              SYNSET/MODEL/models/model_normalized.obj
    solids:COUNT                 random solids, made up

    What cannot be prepared, or is listed and not on this machine, is in OUT/manifest.jsonl with the reason, and the
    rest goes on. The bytes of the shards depend on the source and the options, not on workers or interruptions. Python
    reads the result with models.data.dataset.open_dataset; readers of WebDataset read it too.

    \b
    ssabench prepare meshes/ out/meshes --resolution 256,512 --workers 8
    ssabench prepare sweethome3d-furniture:furniture.deb out/furniture --views 4
    ssabench prepare solids:1000 out/solids --resolution 128 --ray
    """
    from models.data.dataset.prepare import prepare as run
    from models.data.dataset.settings import Settings

    where = resolve_device(device)
    if where not in ("cpu", "cuda"):
        raise ValueError(f"--device takes cpu or cuda here, got {where}; CUDA_VISIBLE_DEVICES chooses GPUs")
    settings = Settings(
        resolutions=tuple(sorted(_numbers(resolution, "--resolution"))),
        views=views,
        image_size=image_size,
        shard_size=shard_size,
        split=_shares(split),
        max_faces=max_faces,
        device="cuda" if where == "cuda" else "cpu",
    )
    with progress_bar() as progress:
        done = run(
            source,
            out,
            settings,
            workers=workers,
            ray=ray,
            time_limit=time_limit,
            limit=limit,
            restart=restart,
            progress=progress,
        )
    _print(done)
    print(f"dataset: {out}")


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"{option} takes whole numbers joined by commas, got {text!r}") from error


def _shares(text: str) -> tuple[float, float, float]:
    parts = _numbers(text, "--split")
    if len(parts) != 3 or min(parts) < 0 or sum(parts) != 100:
        raise ValueError(f"--split takes three percentages that sum to 100, such as 90,5,5, got {text!r}")
    return parts[0] / 100, parts[1] / 100, parts[2] / 100


def _print(done: Prepared) -> None:
    """The whole dataset; the speed of this run."""
    from rich.markup import escape
    from rich.table import Table

    status = Counter(entry.status for entry in done.entries)
    reasons = Counter(entry.reason or "" for entry in done.entries if entry.status == "failed")
    voxels = sum(sum(entry.voxels.values()) for entry in done.entries)
    seconds = [entry.seconds for entry in done.entries if entry.seconds is not None]
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("samples", f"{status['ok']:,}")
    table.add_row("duplicates", f"{status['duplicate']:,}")
    table.add_row("failed", f"{status['failed']:,}")
    for reason, count in reasons.most_common():
        table.add_row(escape(f"  {reason}"), f"{count:,}")
    table.add_row("voxels", f"{voxels:,}")
    if seconds:
        table.add_row("seconds an asset, mean of a worker", f"{sum(seconds) / len(seconds):.2f}")
    if done.now:
        table.add_row("assets a minute, this run", f"{done.now / done.seconds * 60:.1f}")
    else:
        table.add_row("this run", "nothing was left to do")
    console().print(table)
