"""Time an SS-VAE: fields to latents and back.

    python scripts/time_vae.py > vae.jsonl   # a bumpy sphere, the published sizes and the small ones
    python scripts/time_vae.py chair.obj car.glb --resolution 512,1024 --config models/vae/configs/small.toml

Weights are random: neither time nor memory depends on them. Each call begins with coordinates, so that sorting and maps
of neighbours are part of it. One JSON object a line: grid points, latents; for encoding, for decoding within
`--max-latents`, and for decoding in one piece milliseconds (medians of calls after a first one, whose time stands
apart: it compiles) and the peak of allocated memory on a GPU, weights and inputs included; and the machine. fp32 is
what `ssabench reconstruct` runs in, bf16 is autocast as in training. What does not fit into memory says so.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from time_fields import device_name, meshes

from models.data.sdf import SparseSDF, sparse_sdf
from models.sparse.tensor import SparseTensor
from models.training.config import read_config
from models.vae.batch import inputs_of
from models.vae.decoding import decode
from models.vae.model import SparseVAE
from models.vae.task import VAETrainingConfig

CONFIGS = [Path(f"models/vae/configs/{name}.toml") for name in ("published", "small")]


def measured(run: Callable[[], Any], device: torch.device, repeats: int) -> dict[str, Any]:
    """Milliseconds and peak memory of calls whose results are dropped."""
    gpu = device.type == "cuda"
    found = []
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    try:
        for _ in range(1 + repeats):
            if gpu:
                torch.cuda.synchronize(device)
            start = time.perf_counter()
            run()
            if gpu:
                torch.cuda.synchronize(device)
            found.append(1000 * (time.perf_counter() - start))
    except torch.OutOfMemoryError:
        return {"failed": "out of memory"}
    return {
        "ms": round(statistics.median(found[1:]), 2),
        "first_ms": round(found[0], 2),
        "peak_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 2) if gpu else None,
    }


@torch.no_grad()
def measure(vae: SparseVAE, field: SparseSDF, bf16: bool, max_latents: int, repeats: int) -> dict[str, Any]:
    device = field.coords.device
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        mean = vae.encode(inputs_of([field])).mean
        coords, feats = mean.coords[:, 1:].clone(), mean.feats
        latents = len(coords)
        del mean  # and the maps that belong to its voxels

        def decoding(most: int) -> Callable[[], SparseTensor]:
            return lambda: decode(vae, SparseTensor.from_coords(coords, feats), max_latents=most)

        return {
            "precision": "bf16" if bf16 else "fp32",
            "latents": latents,
            "encode": measured(lambda: vae.encode(inputs_of([field])), device, repeats),
            "decode": measured(decoding(max_latents), device, repeats) | {"max_latents": max_latents},
            "decode_in_one_piece": measured(decoding(latents), device, repeats),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("meshes", nargs="*", type=Path)
    parser.add_argument("--resolution", default="512,1024", help="multiples of 8")
    parser.add_argument("--config", nargs="*", type=Path, default=CONFIGS)
    parser.add_argument("--precision", nargs="*", choices=("bf16", "fp32"), default=["bf16", "fp32"])
    parser.add_argument("--max-latents", type=int, default=32_768)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    machine = {"device": device_name(device), "torch": torch.__version__}
    resolutions = [int(part) for part in arguments.resolution.split(",")]
    for path in arguments.config:
        torch.manual_seed(0)
        vae = SparseVAE(read_config(path, VAETrainingConfig).model).to(device).eval()
        about = {"config": path.name, "parameters": sum(x.numel() for x in vae.parameters())}
        given = meshes(arguments.meshes)
        # One of the spheres: how finely it is tessellated hardly changes its field.
        for name, vertices, faces in given if arguments.meshes else itertools.islice(given, 1):
            for resolution in resolutions:
                field = sparse_sdf(vertices.to(device), faces.to(device), resolution, device=device)
                case = {**about, "mesh": name, "resolution": resolution, "grid_points": len(field.coords)}
                for precision in arguments.precision:
                    row = measure(vae, field, precision == "bf16", arguments.max_latents, arguments.repeats)
                    print(json.dumps({**case, **row, **machine}), flush=True)


if __name__ == "__main__":
    main()
