"""Judge what an SS-VAE decodes for the artefacts that users of sparse decoders report: holes, walls inside, grids.

    python scripts/judge_decoding.py meshes/ --resolution 256,512 > decoding.jsonl

One JSON object for each mesh and resolution, the decoded surface beside the field's own:

    open_edges          edges without two triangles, decoded / of the field
    components          pieces, decoded / of the field
    stray_percent       of the decoded surface, farther than three grid steps from the field's: walls inside, bubbles,
                        and whatever else is not of the mesh
    missing_percent     of the field's surface, farther than three grid steps from the decoded one
    error_at_faces      mean error of the band's points at faces of the latents' blocks, where a grid would show, and
    error_within        of the others, in grid steps
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from time_fields import device_name, meshes
from torch import Tensor

from eval.nearest import nearest_on_surface
from eval.sampling import sample_surface
from eval.surface import Surface
from eval.topology import topology
from models.data import isosurface as marching
from models.data.sdf import SparseSDF, sparse_sdf
from models.vae.batch import Fields, fields_of, inputs_of, targets_of
from models.vae.config import FACTOR
from models.vae.decoding import decode
from models.vae.files import load_vae
from models.vae.model import SparseVAE

_FAR = 3.0  # grid steps: one more than an open sheet is thick


def surface_of(field: SparseSDF, name: str) -> Surface:
    found = marching.isosurface(field)
    return Surface(found.vertices, found.faces, name)


def percent_far(surface: Surface, other: Surface, limit: float, points: int) -> float:
    """Of a surface, farther than the limit from another."""
    distance = nearest_on_surface(sample_surface(surface, points, 0).points, other).distance
    return round(100 * float((distance > limit).double().mean()), 3)


def errors(decoded: Tensor, field: SparseSDF) -> dict[str, float]:
    targets = targets_of(Fields([field], [torch.zeros_like(field.values, dtype=torch.bool)]))
    error = (decoded - targets.values.feats).abs()[:, 0] * (field.tau * field.resolution / 2)
    place = targets.values.coords[:, 1:] % FACTOR
    at_face = ((place == 0) | (place == FACTOR - 1)).any(1)
    chosen = {"error_at_faces": targets.band & at_face, "error_within": targets.band & ~at_face}
    return {name: round(float(error[mask].mean()), 4) for name, mask in chosen.items()}


@torch.no_grad()
def measure(vae: SparseVAE, field: SparseSDF, points: int) -> dict[str, Any]:
    decoded = decode(vae, vae.encode(inputs_of([field])).mean)
    ours = surface_of(fields_of(decoded, field.resolution, field.tau)[0], "what is decoded")
    theirs = surface_of(field, "the field")
    pieces = topology(ours), topology(theirs)
    far = _FAR * 2 / field.resolution
    return {
        "open_edges": [found.boundary_edges + found.nonmanifold_edges for found in pieces],
        "components": [found.components for found in pieces],
        "stray_percent": percent_far(ours, theirs, far, points),
        "missing_percent": percent_far(theirs, ours, far, points),
        **errors(decoded.feats, field),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of mesh files")
    parser.add_argument("--weights", type=Path, default=Path("small"), help="as `ssabench reconstruct` takes them")
    parser.add_argument("--resolution", default="256", help="multiples of 8 (default: 256)")
    parser.add_argument("--points", type=int, default=100_000, help="on each surface")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    vae = load_vae(arguments.weights).to(device)
    for name, vertices, faces in meshes(sorted(arguments.folder.iterdir())):
        for resolution in map(int, arguments.resolution.split(",")):
            field = sparse_sdf(vertices.to(device), faces.to(device), resolution, device=device)
            row = {"mesh": name, "resolution": resolution, **measure(vae, field, arguments.points)}
            print(json.dumps({**row, "device": device_name(device)}), flush=True)


if __name__ == "__main__":
    main()
