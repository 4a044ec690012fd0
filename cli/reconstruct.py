"""`ssabench reconstruct`: a mesh through an SS-VAE and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import DEFAULT_VAE, DeviceOption, VAEWeightsOption, resolve_device
from cli.output import console, progress_bar

if TYPE_CHECKING:
    from torch import Tensor

    from eval.protocols.protocol import Protocol

_FORMATS = (".glb", ".obj", ".off", ".ply", ".stl")


def reconstruct(
    mesh: Annotated[Path, typer.Argument(metavar="MESH", help="Mesh file.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Mesh to write: glb, obj, off, ply or stl.", show_default=False)
    ],
    weights: VAEWeightsOption = DEFAULT_VAE,
    resolution: Annotated[int, typer.Option(help="Of the field, a multiple of 8.")] = 512,
    max_latents: Annotated[
        int, typer.Option(help="Decoded at once: fewer need less memory, and more time.", min=1)
    ] = 32_768,
    device: DeviceOption = None,
) -> None:
    """Encode a mesh with an SS-VAE, decode it, and score what returns.

    The mesh is fitted into the cube [-1, 1] as Direct3D-S2 does, and written so. Scores of the protocol `roundtrip`
    stand beside those of the field alone: the ceiling of what a model on such fields can reach. Beside OUT a picture
    of the same name, a JPEG, shows original, result and the result's error on its surface.

    \b
    ssabench reconstruct chair.obj --resolution 1024 -o chair.glb
    ssabench reconstruct chair.obj --weights runs/vae/checkpoints/step-00020000.safetensors -o chair.glb
    """
    import torch

    from eval.job import fitted, read_surface
    from eval.pictures import heat_map, save, side_by_side, thumbnail
    from eval.protocols.protocol import load_protocol
    from eval.scoring import Pair
    from eval.surface import Surface
    from models.data.isosurface import isosurface
    from models.data.sdf import sparse_sdf
    from models.vae.files import load_vae
    from models.vae.reconstruction import reconstruct as run

    if out.suffix.lower() not in _FORMATS:
        raise ValueError(f"--out must end in one of {', '.join(_FORMATS)}, got {out}")
    if resolution % 8:
        raise ValueError(f"--resolution must be a multiple of 8, got {resolution}")
    where = torch.device(resolve_device(device))
    vae = load_vae(weights).to(where)
    protocol = load_protocol("roundtrip")
    steps = ["field", "encode and decode", "score"]
    with progress_bar() as progress:
        progress(steps[0], 0, len(steps))
        given = fitted(read_surface(mesh, "mesh", str(where)))
        field = sparse_sdf(given.vertices, given.faces, resolution, device=where)
        progress(steps[1], 1, len(steps))
        found, latents = run(vae, field, max_latents=max_latents)
        if not len(found.faces):
            raise ValueError(f"the model decodes {mesh} to no surface; are {weights} the weights of a trained one?")
        _write(out, found.vertices, found.faces)
        progress(steps[2], 2, len(steps))
        decoded = Surface(found.vertices, found.faces, "reconstruction")
        ceiling = isosurface(field)
        scores = {
            name: Pair(surface, given, protocol).scores()
            for name, surface in [
                ("reconstruction", decoded),
                ("field alone", Surface(ceiling.vertices, ceiling.faces, "field")),
            ]
        }
        picture = out.with_suffix(".jpg")
        save(side_by_side([thumbnail(given, given), thumbnail(decoded, given), heat_map(decoded, given)]), picture)
    print(f"{len(field.coords):,} grid points, {latents:,} latents")
    _print(scores, protocol)
    print(f"mesh: {out}\npicture: {picture}")


def _write(path: Path, vertices: Tensor, faces: Tensor) -> None:
    import trimesh

    from models.files import write_whole

    mesh = trimesh.Trimesh(vertices.cpu().numpy(), faces.cpu().numpy(), process=False)
    data = mesh.export(file_type=path.suffix.lower().lstrip("."))
    write_whole(path, [data])


def _print(scores: dict[str, dict[str, float]], protocol: Protocol) -> None:
    from rich.table import Table

    table = Table()
    table.add_column("")
    for name in scores:
        table.add_column(name, justify="right")
    for metric in protocol.scored:
        table.add_row(metric.label, *(f"{found[metric.key]:.4g}" for found in scores.values()))
    console().print(table)
