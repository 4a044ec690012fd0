"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import enum
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from bench.records import Shape

DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda or cuda:N. Default: cuda where there is one.", show_default=False),
]
VAE_WEIGHTS = (
    "Of an SS-VAE: small, which comes with this package, a checkpoint of `ssabench train vae`, a file of weights, or "
    "the published state dict."
)
VAEWeightsOption = Annotated[Path, typer.Option("--weights", help=VAE_WEIGHTS)]
DEFAULT_VAE = Path("small")
TowerWeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--tower-weights", help="File of the CLIP towers. Default: open_clip's cache or download.", show_default=False
    ),
]
PointEncoderWeightsOption = Annotated[
    Path, typer.Option("--weights", help="The point encoder's published file.", show_default=False)
]

Heads = Annotated[int, typer.Option(help="Query heads.")]
KvHeads = Annotated[int, typer.Option(help="Key-value heads.")]
HeadDim = Annotated[int, typer.Option(help="Width of a head.")]
CompressionBlock = Annotated[int, typer.Option(help="Side of a compression block in voxels.")]
SelectionBlock = Annotated[int, typer.Option(help="Side of a selection block in voxels.")]
Window = Annotated[int, typer.Option(help="Side of a window in voxels.")]
WindowShift = Annotated[int, typer.Option(help="Shift of the windows in voxels.")]
TopK = Annotated[int, typer.Option(help="Selection blocks that a token attends to.")]

_SUFFIXES = {"": 1, "K": 1024, "M": 1024**2}


class DType(enum.StrEnum):
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


DTypeOption = Annotated[
    DType | None, typer.Option("--dtype", help="Default: bfloat16; on a CPU float32.", show_default=False)
]


class Direction(enum.StrEnum):
    fwd = "fwd"
    bwd = "bwd"
    fwd_bwd = "fwd_bwd"


class StageName(enum.StrEnum):
    total = "total"
    cmp = "cmp"
    select = "select"
    slc = "slc"
    win = "win"


def resolve_device(device: str | None) -> str:
    """The device asked for, or the best one here.

    Raises:
        ValueError: not a device, or not one of this machine.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    match = re.fullmatch(r"cpu|cuda(?::(\d+))?", device)
    if match is None:
        raise ValueError(f"--device must be cpu, cuda or cuda:N, got {device!r}")
    if device.startswith("cuda") and int(match[1] or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {device}: torch finds {torch.cuda.device_count()} CUDA devices here")
    return device


def attention_shape(
    device: str,
    heads: int,
    kv_heads: int,
    head_dim: int,
    dtype: DType | None,
    compression_block: int,
    selection_block: int,
    window: int,
    window_shift: int,
    topk: int,
) -> Shape:
    """The shape that the options ask for; without --dtype in the dtype of the paper's sweep on the device."""
    from bench.plan import paper_plan
    from bench.records import Shape

    return Shape(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        dtype=dtype.value if dtype else paper_plan(device).shape.dtype,
        compression_block=compression_block,
        selection_block=selection_block,
        window=window,
        window_shift=window_shift,
        topk=topk,
    )


def parse_tokens(values: list[str]) -> list[int]:
    """Token counts from repeated or comma-separated values; K is 1024, M is 1024 K.

    Raises:
        ValueError: a value that is no positive count.
    """
    counts = []
    for value in ",".join(values).split(","):
        match = re.fullmatch(r"(\d+)([KM]?)", value.strip().upper())
        count = int(match[1]) * _SUFFIXES[match[2]] if match else 0
        if count < 1:
            raise ValueError(f"--tokens takes counts such as 8192, 8K or 1M, got {value!r}")
        counts.append(count)
    return counts
