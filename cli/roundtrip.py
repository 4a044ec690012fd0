"""`ssabench roundtrip`: what a sparse signed distance field keeps of a mesh."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.evaluate import ResumeOption, WorkersOption, run_and_report
from cli.options import VAE_WEIGHTS, DeviceOption

# The grid ends at 1 - 2 / resolution, and a shape that is fitted into the cube reaches 0.95.
LEAST_RESOLUTION = 64


def roundtrip(
    meshes: Annotated[
        list[Path],
        typer.Argument(metavar="MESH", help="Mesh files, or folders of them.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of rows, tables, pictures and page.", show_default=False)],
    resolution: Annotated[str, typer.Option(help="Grid points along an axis, separated by commas.")] = "256,512,1024",
    vae: Annotated[
        Path | None, typer.Option(help=f"Weights {VAE_WEIGHTS[0].lower()}{VAE_WEIGHTS[1:]}", show_default=False)
    ] = None,
    workers: WorkersOption = None,
    time_limit: Annotated[
        float, typer.Option(min=1, help="Seconds for one mesh at one resolution; what takes longer has failed.")
    ] = 1800,
    device: DeviceOption = None,
    resume: ResumeOption = False,
) -> None:
    """Turn meshes into sparse signed distance fields and back, and score what returns against the originals.

    It is the best that a model on such fields can do. Each mesh is fitted into the cube [-1, 1] as Direct3D-S2 does;
    distances are to the surface. The field keeps what encloses a volume: sheets become two grid steps thick, walls
    inside are lost, which the original's side of the scores counts as error.

    With --vae every mesh also goes through the latents of an SS-VAE: mesh, field, latents, field, mesh. Both are
    methods of the report, which has the rows of the paper beside them.

    A mesh at 256 takes 3 to 10 s on one core, at 512 about 4 times as long; at 1024 use a GPU.

    \b
    ssabench roundtrip chair.obj lamp.glb --resolution 256 --out out/roundtrip
    ssabench roundtrip meshes --resolution 256,512,1024 --device cuda --out out/roundtrip
    ssabench roundtrip meshes --vae small --device cuda --out out/vae
    """
    from eval.job import Job, RoundTrip
    from eval.matching import find_meshes
    from eval.protocols.protocol import load_protocol

    resolutions = _resolutions(resolution)
    ways = {str(size): RoundTrip(size) for size in resolutions}
    title, published = "Round trip: what a resolution can hold", None
    if vae is not None:
        from models.vae.files import load_vae
        from reports.reconstruction import published_reconstruction

        if any(size % 8 for size in resolutions):
            raise ValueError(f"--resolution must be multiples of 8 with --vae, got {resolution!r}")
        load_vae(vae)  # what is wrong with it is said once, not for every mesh
        ways = {
            f"{name} {size}": RoundTrip(size, weights)
            for size in resolutions
            for name, weights in (("field", None), ("VAE", vae))
        }
        title, published = "Round trip through an SS-VAE, beside the field alone", published_reconstruction()
    jobs = [
        Job(asset, method, how, path) for asset, path in find_meshes(meshes).items() for method, how in ways.items()
    ]
    run_and_report(
        jobs,
        load_protocol("roundtrip"),
        out,
        workers=workers,
        device=device,
        time_limit=time_limit,
        resume=resume,
        title=title,
        published=published,
    )


def _resolutions(text: str) -> list[int]:
    from models.data.sdf import RESOLUTIONS

    low, high = LEAST_RESOLUTION, RESOLUTIONS[1]
    values = [part.strip() for part in text.split(",")]
    if not all(value.isdecimal() and low <= int(value) <= high for value in values) or len(set(values)) < len(values):
        raise ValueError(f"--resolution takes different numbers from {low} to {high}, such as 256,512, got {text!r}")
    return [int(value) for value in values]
