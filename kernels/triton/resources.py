"""Compile every kernel for a GPU that need not be present, and read what it uses: registers, shared memory, spills.

The variants are not listed anywhere: the launchers themselves run on tiny CPU tensors with the launch itself replaced
by a recorder, so exactly what they would launch is what gets compiled.

Command line: ``python -m kernels.triton.resources --arch 90`` prints one JSON object a line.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon._runtime import GluonASTSource
from triton.runtime.jit import JITFunction

from kernels import segments
from kernels.layout import BlockLayout
from kernels.triton import configs, hopper, ops, segment_forward

_TYPES = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
# heads, kv heads, head dim, dtype: the paper's shape, a wider one, odd sizes, and the ends of the supported range.
SHAPES = [
    (32, 2, 32, torch.bfloat16),
    (16, 1, 64, torch.bfloat16),
    (6, 2, 48, torch.float16),
    (32, 1, 128, torch.float16),
    (4, 2, 64, torch.float32),
    (2, 1, 128, torch.float32),
]


@dataclass(frozen=True)
class Launch:
    """One kernel variant as a launcher asked for it."""

    kernel: JITFunction[Any]
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, int], ...]

    @property
    def variant(self) -> str:
        shown = ("G", "D", "BLOCK_M", "BLOCK_N", "RESIDENT", "PEELED", "GATED", "SLOTS", "SEVERAL_PARTS", "WIDE", "S")
        dtype = next(kind for _, kind in self.signature if kind.startswith("*"))[1:]
        return " ".join([dtype, *(f"{name}={value}" for name, value in self.constants if name in shown)])


@dataclass(frozen=True)
class Resources:
    """What the compiled variant uses on one architecture."""

    kernel: str
    variant: str
    arch: int
    registers: int  # per thread
    shared_bytes: int  # per program
    local_bytes: int  # per thread, in local memory: register spills and indexed arrays
    warps: int


def launches(arch: int, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> list[Launch]:
    """Every kernel variant that forward and backward of the operator and of its branches launch for a shape."""
    line = torch.arange(24, dtype=torch.int32)
    layout = BlockLayout.from_coords(torch.stack([line, line % 5, line % 3], dim=1), resolution=32)
    blocks = layout.compression_coords.shape[0]

    def random(*shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=dtype, requires_grad=True)

    q, k, v = random(24, heads, head_dim), random(24, kv_heads, head_dim), random(24, kv_heads, head_dim)
    k_cmp, v_cmp = random(blocks, kv_heads, head_dim), random(blocks, kv_heads, head_dim)
    scale = head_dim**-0.5
    found: dict[Launch, None] = {}
    table = configs.shipped_table("fp32" if dtype == torch.float32 else f"sm{arch}")
    with recorded(found), configs.overridden(table):
        o = ops.spatial_sparse_attention(q, k, v, k_cmp, v_cmp, random(24, 3), layout, topk=8, scale=scale)
        o.backward(torch.zeros_like(o))
        o, _ = ops.compressed_attention(q, k_cmp, v_cmp, layout, scale=scale)
        o.backward(torch.zeros_like(o))
        with mock.patch.object(segments, "_PART_BYTES", 1):  # a part a token, so many that shares take several
            o = ops.spatial_sparse_attention(q, k, v, k_cmp, v_cmp, random(24, 3), layout, topk=8, scale=scale)
        o.backward(torch.zeros_like(o))
        with mock.patch.object(segment_forward, "_WIDE_ELEMENTS", 1):  # as if there were millions of tokens
            o = ops.spatial_sparse_attention(q, k, v, k_cmp, v_cmp, random(24, 3), layout, topk=8, scale=scale)
            o.backward(torch.zeros_like(o))
        with mock.patch.object(hopper, "_available", return_value=arch == 90):
            o = ops.spatial_sparse_attention(q, k, v, k_cmp, v_cmp, random(24, 3), layout, topk=8, scale=scale)
            o.backward(torch.zeros_like(o))
    return list(found)


def compile_launch(launch: Launch, arch: int) -> Resources:
    """Compile for compute capability `arch` (80, 90, 100) and read the resource usage off the machine code."""
    signature = dict(launch.signature)
    names = launch.kernel.arg_names
    aligned = {
        (index,): [["tt.divisibility", 16]] for index, name in enumerate(names) if signature[name].startswith("*")
    }
    source_type = GluonASTSource if launch.kernel.is_gluon() else ASTSource
    source = source_type(launch.kernel, signature, dict(launch.constants), aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=dict(launch.options))
    usage = _resource_usage(compiled.asm["cubin"])
    return Resources(
        kernel=launch.kernel.fn.__name__,
        variant=launch.variant,
        arch=arch,
        registers=usage["REG"],
        shared_bytes=compiled.metadata.shared,
        local_bytes=usage["STACK"] + usage["LOCAL"],
        warps=compiled.metadata.num_warps,
    )


def compile_all(arch: int, workers: int = 2) -> Iterator[Resources]:
    """Every variant of every shape in `SHAPES`, compiled for `arch`."""
    unique = dict.fromkeys(launch for shape in SHAPES for launch in launches(arch, *shape))
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(lambda launch: compile_launch(launch, arch), unique)


@contextmanager
def recorded(found: dict[Launch, None]) -> Iterator[None]:
    """Launches of kernels are not made but added to `found`."""

    def record(kernel: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        bound = dict(zip(kernel.arg_names, args, strict=False))
        options = {name: kwargs.pop(name) for name in ("num_warps", "num_stages", "maxnreg") if name in kwargs}
        bound.update(kwargs)
        signature, constants = {}, {}
        for name, param in zip(kernel.arg_names, kernel.params, strict=True):
            value = bound[name]
            if param.is_constexpr or value is None:
                signature[name], constants[name] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                signature[name] = _TYPES[value.dtype]
            elif hasattr(value, "block_shape"):  # a descriptor
                shape = ", ".join(map(str, value.block_shape))
                signature[name] = f"tensordesc<{_TYPES[value.base.dtype][1:]}[{shape}],{value.layout!r}>"
            else:
                signature[name] = "fp32" if isinstance(value, float) else "i32"
        found[Launch(kernel, *(tuple(part.items()) for part in (signature, constants, options)))] = None

    with mock.patch.object(JITFunction, "run", record):
        yield


def _resource_usage(cubin: bytes) -> dict[str, int]:
    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [str(cuobjdump), "--dump-resource-usage", file.name], check=True, capture_output=True, text=True
        ).stdout
    usage = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", text)}
    if "REG" not in usage:
        raise RuntimeError(f"cuobjdump reported no resource usage: {text!r}")
    return usage


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", type=int, choices=(80, 90, 100), required=True, help="compute capability times ten")
    for resources in compile_all(parser.parse_args().arch):
        print(json.dumps(asdict(resources)), flush=True)


if __name__ == "__main__":
    _main()
