"""Time the search for nearest points, on a GPU where there is one and on the CPU.

    python scripts/time_nearest.py > nearest.jsonl
    python scripts/time_nearest.py --points 100000 --device cpu

Points lie at random on a sphere of radius 1; queries on the same sphere, on one a tenth smaller, and on one so small
that all points are about equally far and little can be left out of the search. One JSON object a line: milliseconds of
a call, the tree included (median, fastest and slowest of several after a first one), of the very first on few queries,
which may compile, the largest difference of distances from those of scipy's cKDTree on sampled queries, and the
machine. On a CPU a case that would take longer than --max-seconds a call, judged by the sample, is left out with a line
saying so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import scipy
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from eval.nearest import nearest_point

# Radii of the spheres that queries lie on.
QUERIES = {"the same sphere": 1.0, "a smaller sphere": 0.9, "around the centre": 0.01}
SAMPLED = 1000
T = TypeVar("T")


def on_sphere(count: int, radius: float, seed: int) -> Tensor:
    """fp64 [count, 3], uniform."""
    directions = torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return radius * directions / directions.norm(dim=1, keepdim=True)


def timed(run: Callable[[], T], device: str) -> tuple[T, float]:
    """What a call returns, and its milliseconds."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = run()
    if device == "cuda":
        torch.cuda.synchronize()
    return result, 1000 * (time.perf_counter() - start)


def measure(points: Tensor, queries: Tensor, device: str, repeats: int, max_seconds: float) -> dict[str, Any]:
    sample = torch.randperm(len(queries), generator=torch.Generator().manual_seed(2))[:SAMPLED]
    exact = torch.from_numpy(cKDTree(points.numpy()).query(queries[sample].numpy(), workers=-1)[0])
    points, queries = points.to(device), queries.to(device)
    few = queries[sample.to(device)]
    _, first_ms = timed(lambda: nearest_point(few, points), device)
    built_ms = timed(lambda: nearest_point(few[:1], points), device)[1]
    sample_ms = timed(lambda: nearest_point(few, points), device)[1]
    expected = (built_ms + (sample_ms - built_ms) * len(queries) / len(few)) / 1000
    # A GPU is not judged by so few queries, which leave most of it idle.
    if device == "cpu" and expected > max_seconds:
        return {"left_out": f"a call would take about {expected:.0f} s"}
    found, _ = timed(lambda: nearest_point(queries, points), device)
    times = [timed(lambda: nearest_point(queries, points), device)[1] for _ in range(repeats)]
    return {
        "ms": statistics.median(times),
        "ms_fastest": min(times),
        "ms_slowest": max(times),
        "calls": repeats,
        "first_ms": first_ms,
        "largest_difference": float((found.distance.cpu()[sample] - exact).abs().max()),
        "sampled": len(sample),
    }


def environment(device: str) -> dict[str, Any]:
    common = {"device": device, "torch": torch.__version__, "scipy": scipy.__version__}
    if device == "cuda":
        import triton

        return {**common, "gpu": torch.cuda.get_device_name(), "triton": triton.__version__}
    return {**common, "cpu": platform.machine(), "cores": len(os.sched_getaffinity(0))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1_000_000, help="points, and as many queries (default: 1000000)")
    parser.add_argument(
        "--device", nargs="*", choices=("cuda", "cpu"), help="default: a GPU if there is one, and the CPU"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--max-seconds", type=float, default=60, help="leave longer calls out (default: 60)")
    arguments = parser.parse_args()
    devices = arguments.device or (["cuda"] if torch.cuda.is_available() else []) + ["cpu"]
    if "cuda" in devices and not torch.cuda.is_available():
        sys.exit("time_nearest.py: no CUDA device is there; use --device cpu")
    points = on_sphere(arguments.points, 1.0, seed=0)
    for device in devices:
        for name, radius in QUERIES.items():
            queries = on_sphere(arguments.points, radius, seed=1)
            result = measure(points, queries, device, arguments.repeats, arguments.max_seconds)
            case = {"queries": name, "radius": radius, "count": arguments.points}
            print(json.dumps({**environment(device), **case, **result}), flush=True)


if __name__ == "__main__":
    main()
