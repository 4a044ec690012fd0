"""Time the submanifold convolution on a GPU beside that of spconv-triton, on the voxels of a bumpy sphere's band.

    python scripts/time_convolution.py > convolution.jsonl
    python scripts/time_convolution.py --voxels 1000000 --channels 64 --dtype bfloat16
    python scripts/time_convolution.py --sweep --voxels 1000000 > tiles.jsonl

One JSON object a line: milliseconds of forward and backward (medians, maps of neighbours made before), milliseconds of
making the maps, peak memory beyond the inputs, and relative errors against fp64 on sampled rows (of the weight
gradient: sampled elements). With --sweep: times of tiles other than those in models/sparse/triton_convolution.py.
spconv-triton is left out, with a line saying so, where it is not installed.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import itertools
import json
import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
import trimesh
import triton
from torch import Tensor

from models.data.sdf import sparse_sdf
from models.sparse.convolution import sparse_conv3d, to_dense_kernel
from models.sparse.structure import Structure
from models.sparse.triton_convolution import Tile, convolve, weight_gradient

# Grid points along an axis at which the band of the sphere holds about so many voxels.
RESOLUTIONS = {100_000: 116, 1_000_000: 366, 4_000_000: 650, 10_000_000: 882}
CHANNELS = (32, 64, 128, 512)
SAMPLED_ROWS = 512
SAMPLED_CHANNELS = 8
_ROWS_AT_ONCE = 2**18


def band(voxels: int) -> Structure:
    """The voxels near a sphere with bumps."""
    sphere = trimesh.creation.icosphere(subdivisions=6)
    x, y, z = sphere.vertices.T
    radius = 0.75 + 0.05 * torch.sin(torch.tensor(9 * x)) * torch.sin(torch.tensor(8 * y + 7 * z))
    vertices = torch.tensor(sphere.vertices) * radius[:, None]
    field = sparse_sdf(vertices, torch.tensor(sphere.faces), RESOLUTIONS[voxels], device="cuda")
    return Structure.from_coords(field.coords)[0]


def milliseconds(run: Callable[[], Any], seconds: float = 0.3) -> float:
    """The median of as many calls as fit in `seconds`, at least three, after two more."""

    def once() -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    once()
    calls = max(3, min(50, math.ceil(1000 * seconds / max(once(), 1e-3))))
    return statistics.median(once() for _ in range(calls))


def peak_bytes(run: Callable[[], Any]) -> int:
    """Most memory allocated during a call beyond what was before."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    kept = run()
    torch.cuda.synchronize()
    del kept
    return torch.cuda.max_memory_allocated() - before


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


class Problem:
    """Inputs of one measurement and what is right on samples of the results."""

    def __init__(self, structure: Structure, channels: int, dtype: torch.dtype) -> None:
        generator = torch.Generator("cuda").manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, device="cuda", dtype=dtype, generator=generator)

        self.structure = structure
        self.feats = random(structure.num_voxels, channels).requires_grad_()
        self.kernel = (random(27, channels, channels) / math.sqrt(27 * channels)).requires_grad_()
        self.grad = random(structure.num_voxels, channels)
        self.rows = torch.randint(structure.num_voxels, (SAMPLED_ROWS,), device="cuda", generator=generator)

    def errors(self, out: Tensor, dfeats: Tensor, dkernel: Tensor) -> dict[str, float]:
        """Of the result and the gradients, dkernel [27, C, C]."""
        few = slice(SAMPLED_CHANNELS)
        exact = {element: self.feats.new_zeros(SAMPLED_CHANNELS, SAMPLED_CHANNELS).double() for element in (0, 13, 22)}
        with torch.no_grad():
            for element, total in exact.items():
                for first in range(0, self.structure.num_voxels, _ROWS_AT_ONCE):
                    rows = slice(first, first + _ROWS_AT_ONCE)
                    grad = self.grad[rows, few].double()
                    total += self._gathered(self.feats[:, few], element, rows).T @ grad
            sums = {"out": torch.zeros_like(out[self.rows]).double(), "dfeats": dfeats[self.rows].double() * 0}
            for element in range(27):
                weights = self.kernel[element].double()
                sums["out"] += self._gathered(self.feats, element, self.rows) @ weights
                sums["dfeats"] += self._gathered(self.grad, 26 - element, self.rows) @ weights.T
        worst = max(relative(dkernel[element, few, few], total) for element, total in exact.items())
        return {
            "error_out": relative(out[self.rows], sums["out"]),
            "error_dfeats": relative(dfeats[self.rows], sums["dfeats"]),
            "error_dkernel": worst,
        }

    def _gathered(self, x: Tensor, element: int, rows: Tensor | slice) -> Tensor:
        """fp64, zero where there is no neighbour."""
        neighbor = self.structure.neighbors[element, rows].long()
        return torch.where((neighbor >= 0)[:, None], x[neighbor].double(), 0)


def ours(problem: Problem) -> dict[str, Any]:
    def maps() -> None:
        there = problem.structure
        _ = Structure(there.coords, there.keys, there.batch_offsets, there.depth).neighbor_masks

    return measured(
        problem,
        lambda: sparse_conv3d(problem.feats, problem.kernel, None, problem.structure),
        problem.kernel,
        lambda dkernel: dkernel,
        maps,
    )


def spconv_triton(problem: Problem) -> dict[str, Any]:
    import spconv_triton.pytorch as spconv

    structure, channels = problem.structure, problem.feats.shape[1]
    layer = spconv.SubMConv3d(channels, channels, 3, padding=1, bias=False, indice_key="maps").cuda()
    layer = layer.to(problem.feats.dtype)
    with torch.no_grad():  # [Cout, x, y, z, Cin]
        layer.weight.copy_(to_dense_kernel(problem.kernel).permute(0, 2, 3, 4, 1))
    side = [2**structure.depth] * 3
    tensor = spconv.SparseConvTensor(problem.feats, structure.coords, side, structure.batch_size)
    tensor.indice_dict = layer(tensor).indice_dict

    # Few channels: what it takes beyond the maps is little.
    narrow = spconv.SubMConv3d(16, 16, 3, padding=1, bias=False, indice_key="narrow").cuda().to(problem.feats.dtype)
    few = problem.feats.detach()[:, :16].contiguous()

    def maps() -> None:
        narrow(spconv.SparseConvTensor(few, structure.coords, side, structure.batch_size))

    def in_our_order(dweight: Tensor) -> Tensor:
        return dweight.permute(3, 2, 1, 4, 0).reshape(27, channels, channels)

    return measured(problem, lambda: layer(tensor).features, layer.weight, in_our_order, maps)


def measured(
    problem: Problem,
    forward: Callable[[], Tensor],
    weight: Tensor,
    in_our_order: Callable[[Tensor], Tensor],
    maps: Callable[[], Any],
) -> dict[str, Any]:
    out = forward()

    def backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(out, (problem.feats, weight), problem.grad, retain_graph=True)

    dfeats, dweight = backward()
    result: dict[str, Any] = problem.errors(out.detach(), dfeats, in_our_order(dweight))
    del dfeats, dweight
    result["maps_ms"] = milliseconds(maps)
    result["fwd_ms"] = milliseconds(forward)
    result["bwd_ms"] = milliseconds(backward)
    result["bwd_bytes"] = peak_bytes(backward)
    result["fwd_bytes"] = peak_bytes(forward)
    return result


def flops(structure: Structure, channels: int) -> int:
    """Of one pass that multiplies what is there, and nothing else."""
    return 2 * int((structure.neighbors >= 0).sum()) * channels**2


def sweep(problem: Problem) -> list[dict[str, Any]]:
    """Times of tiles, of both kernels; one that does not compile is left out."""
    channels = problem.feats.shape[1]
    feats, kernel = problem.feats.detach(), problem.kernel.detach()
    maps = problem.structure.neighbors, problem.structure.neighbor_masks
    rows, columns, depths = (64, 128), (32, 64, 128, 256), (32, 64, 128)
    found = []
    for name in ("forward", "weights"):
        for m, n, k, warps, stages in itertools.product(rows, columns, depths, (4, 8), (2, 3, 4)):
            tile = Tile(m, n, k, warps, stages)
            if n > max(16, channels) or (k > max(32, channels) if name == "forward" else m > max(32, channels)):
                continue
            try:
                if name == "forward":
                    time = milliseconds(partial(convolve, feats, kernel, None, *maps, tile), 0.02)
                else:
                    time = milliseconds(partial(weight_gradient, feats, problem.grad, maps[0], tile), 0.02)
            except triton.runtime.errors.OutOfResources:
                continue
            found.append({"kernel": name, **asdict(tile), "ms": time})
    return sorted(found, key=lambda row: (row["kernel"], row["ms"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxels", type=int, nargs="*", choices=tuple(RESOLUTIONS), default=list(RESOLUTIONS))
    parser.add_argument("--channels", type=int, nargs="*", default=list(CHANNELS))
    parser.add_argument(
        "--dtype", nargs="*", choices=("bfloat16", "float16", "float32"), default=["bfloat16", "float32"]
    )
    parser.add_argument("--max-tflop", type=float, default=20, help="leave larger passes out (default: 20)")
    parser.add_argument("--sweep", action="store_true", help="time tiles instead")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("time_convolution.py needs a CUDA device")
    providers: dict[str, Callable[[Problem], dict[str, Any]]] = {"ours": ours}
    if importlib.util.find_spec("spconv_triton") is None:
        print(json.dumps({"provider": "spconv-triton", "left_out": "not installed"}), flush=True)
    else:
        providers["spconv-triton"] = spconv_triton
    common = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "triton": triton.__version__}
    for voxels in arguments.voxels:
        structure = band(voxels)
        for channels, dtype in itertools.product(arguments.channels, arguments.dtype):
            tflop = flops(structure, channels) / 1e12
            case = {"voxels": structure.num_voxels, "channels": channels, "dtype": dtype, "tflop": round(tflop, 3)}
            if tflop > arguments.max_tflop:
                print(json.dumps({**case, "left_out": "more than --max-tflop"}), flush=True)
                continue
            if arguments.sweep:
                for row in sweep(Problem(structure, channels, getattr(torch, dtype))):
                    print(json.dumps({**common, **case, **row}), flush=True)
                continue
            for provider, run in providers.items():
                try:
                    result = run(Problem(structure, channels, getattr(torch, dtype)))
                except Exception as error:
                    # The other provider is not to blame; out of memory is a result, too.
                    result = {"failed": f"{type(error).__name__}: {error}"[:300]}
                print(json.dumps({**common, "provider": provider, **case, **result}), flush=True)
                gc.collect()
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
