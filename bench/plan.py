"""What a sweep measures: workloads, sizes, providers and the attention shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.providers import default_providers
from bench.records import Pass, Shape
from kernels.api import HEAD_DIMS, MAX_GROUP

PASSES: tuple[Pass, ...] = ("fwd", "bwd", "fwd_bwd")


@dataclass(frozen=True)
class Plan:
    """What a sweep measures.

    Attributes:
        workloads: specifications that `bench.workloads.make_tokens` reads, each measured at every one of `tokens`.
        inputs: files of captured inputs (bench.captured), measured after the workloads at the tokens they have.
        limit_s: seconds that one call may take; a provider predicted to need more at a size is not run there.
        min_samples, max_seconds: fewest samples, and seconds of sampling, of a measurement.
    """

    workloads: Sequence[str]
    tokens: Sequence[int]
    providers: Sequence[str]
    shape: Shape
    inputs: Sequence[Path] = ()
    directions: Sequence[Pass] = PASSES
    limit_s: float = 30.0
    min_samples: int = 5
    max_seconds: float = 2.0
    seed: int = 0


def paper_plan(device: torch.device | str) -> Plan:
    """The sweep behind the paper's run-time figure (arXiv 2505.17412v2, figure 7).

    8K to 128K tokens with the model's attention: 32 heads of width 32 in 2 key-value groups, blocks of 4 and 8, windows
    of 8 (section 4.1); the paper does not state the top-k, 8 is the default of its repository. On a CPU the same shape
    runs in float32 on the mesh alone, at sizes that end within minutes.
    """
    on_cpu = torch.device(device).type == "cpu"
    return Plan(
        workloads=("mesh:deer",) if on_cpu else ("gyroid", "mesh:deer"),
        tokens=(512, 1024, 2048, 4096) if on_cpu else (8192, 16384, 32768, 65536, 131072),
        providers=default_providers(device),
        shape=Shape(
            heads=32,
            kv_heads=2,
            head_dim=32,
            dtype="float32" if on_cpu else "bfloat16",
            compression_block=4,
            selection_block=8,
            window=8,
            window_shift=0,
            topk=8,
        ),
        limit_s=4.0 if on_cpu else 30.0,
        min_samples=3 if on_cpu else 5,
        max_seconds=0.3 if on_cpu else 2.0,
    )


def validate_plan(plan: Plan) -> None:
    needed = ["providers", "directions"]
    if plan.workloads or not plan.inputs:
        needed = ["workloads", "tokens", *needed]
    for name in needed:
        if not getattr(plan, name):
            raise ValueError(f"{name} must not be empty")
    if min(plan.tokens, default=1) < 1:
        raise ValueError(f"tokens must be positive, got {min(plan.tokens)}")
    validate_shape(plan.shape)


def validate_shape(shape: Shape) -> None:
    """Whether the operator takes such a shape.

    Raises:
        ValueError: heads, head dim or top-k outside its range.
    """
    for name in ("heads", "kv_heads", "topk"):
        if getattr(shape, name) < 1:
            raise ValueError(f"{name} must be positive, got {getattr(shape, name)}")
    if shape.heads % shape.kv_heads or shape.heads // shape.kv_heads > MAX_GROUP:
        raise ValueError(
            f"heads must be a multiple of kv_heads={shape.kv_heads}, at most {MAX_GROUP} times it, got {shape.heads}"
        )
    if not HEAD_DIMS[0] <= shape.head_dim <= HEAD_DIMS[1]:
        raise ValueError(f"head_dim must be from {HEAD_DIMS[0]} to {HEAD_DIMS[1]}, got {shape.head_dim}")
