"""Captured inputs: a file of what a trained model feeds to the operator, measured in place of random tensors.

One safetensors file holds one sample. N tokens, H heads, Hkv kv heads, D head dim, M occupied compression blocks:

    coords              int32 [N, 3]     voxels in [0, resolution), none twice, in any order
    q                   [N, H, D]        one row a voxel, in the order of coords; so are the next three
    k, v                [N, Hkv, D]
    gates               [N, 3]           in [0, 1]: compressed, selected, window
    compression_coords  int32 [M, 3]     each value of coords // compression_block once, in any order
    k_cmp, v_cmp        [M, Hkv, D]      one row a compression block, in the order of compression_coords

The six tensors share one dtype (bfloat16, float16 or float32) and are finite; queries are as the operator gets them,
before its scale of 1 / sqrt(D). The file's metadata, all of it text:

    format_version      "1"
    workload            the tokens' name in records and reports, e.g. "mesh:deer"
    resolution          side of the latent grid in voxels
    compression_block   side of a compression block in voxels
    source              which model, how it was trained, and which of its layers, in one sentence

`save_captured` writes such a file from the operands of a call of the operator.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from bench.records import Shape
from bench.workloads import MAX_RESOLUTION, Tokens
from kernels.layout import BlockLayout
from kernels.testing import INPUT_NAMES, Inputs

FORMAT_VERSION = "1"
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_BY_TOKEN = ("q", "k", "v", "gates")
_BY_BLOCK = ("k_cmp", "v_cmp")


@dataclass(frozen=True, eq=False)
class Captured:
    """The content of a file, on the CPU."""

    tokens: Tokens
    rows: Inputs  # q, k, v and gates in the order of tokens.coords, k_cmp and v_cmp in that of compression_coords
    compression_coords: Tensor  # int32 [M, 3], sorted by x, then y, then z
    compression_block: int
    source: str
    digest: str  # of everything but the source, 12 hexadecimal digits; the order of the file's rows does not matter

    @property
    def heads(self) -> int:
        return self.rows.q.shape[1]

    @property
    def kv_heads(self) -> int:
        return self.rows.k.shape[1]

    @property
    def head_dim(self) -> int:
        return self.rows.q.shape[2]

    def inputs(self, layout: BlockLayout, dtype: torch.dtype) -> Inputs:
        """The six tensors in the order of a layout and on its device.

        Args:
            layout: made from ``tokens.coords``, with compression blocks of the file's side.

        Raises:
            ValueError: another layout, or values that `dtype` cannot hold.
        """
        order, coords = layout.order.cpu(), layout.coords[:, 1:].cpu()
        same = len(order) == len(self.tokens.coords) and torch.equal(self.tokens.coords[order], coords)
        if not same or layout.compression_block != self.compression_block:
            raise ValueError(
                f"layout must be of the captured tokens, in compression blocks of {self.compression_block}"
            )
        side = self.tokens.resolution
        wanted = _linear(layout.compression_coords[:, 1:].cpu(), side)
        blocks = torch.searchsorted(_linear(self.compression_coords, side), wanted)
        rows = {**dict.fromkeys(_BY_TOKEN, order), **dict.fromkeys(_BY_BLOCK, blocks)}
        inputs = Inputs(**{name: getattr(self.rows, name)[rows[name]].to(layout.device, dtype) for name in INPUT_NAMES})
        if not all(bool(x.isfinite().all()) for x in inputs.tensors()):
            raise ValueError(f"captured values do not fit into {dtype}")
        return inputs


def save_captured(path: Path, tokens: Tokens, layout: BlockLayout, inputs: Inputs, source: str) -> None:
    """Write the operands of one call of the operator: to a temporary file beside `path`, then renamed.

    Args:
        tokens: the voxels; their name and resolution go into the file.
        layout: made from ``tokens.coords``.
        inputs: in layout order, on any device, of one of the file's dtypes.
        source: which model, how it was trained, and which of its layers, in one sentence.

    Raises:
        ValueError: what `load_captured` would refuse; nothing is written then.
    """
    rows = {name: getattr(inputs, name).detach() for name in INPUT_NAMES}
    rows |= {name: layout.unsort(rows[name]) for name in _BY_TOKEN}
    tensors = {"coords": tokens.coords, "compression_coords": layout.compression_coords[:, 1:], **rows}
    tensors = {name: x.cpu().contiguous() for name, x in tensors.items()}
    metadata = {
        "format_version": FORMAT_VERSION,
        "workload": tokens.name,
        "resolution": str(tokens.resolution),
        "compression_block": str(layout.compression_block),
        "source": source,
    }
    try:
        _captured(tensors, metadata)
    except ValueError as error:
        raise ValueError(f"{path} not written: {error}") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    os.close(descriptor)
    try:
        save_file(tensors, temporary, metadata)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load_captured(path: Path) -> Captured:
    """Read and check a file.

    Raises:
        ValueError: not such a file; the message names it and says what is wrong.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not a readable safetensors file: {error}") from error
    try:
        return _captured(tensors, metadata)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def load_matching(path: Path, shape: Shape) -> Captured:
    """A file of captured inputs, which must have the shape that is measured.

    Raises:
        ValueError: what `load_captured` raises, or another shape; the message says which options fit.
    """
    captured = load_captured(path)
    fixed = ("heads", "kv_heads", "head_dim", "compression_block")
    if any(getattr(captured, name) != getattr(shape, name) for name in fixed):
        options = " ".join(f"--{name.replace('_', '-')} {getattr(captured, name)}" for name in fixed)
        raise ValueError(f"{path} holds inputs of another shape; measure it with {options}")
    return captured


def _captured(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Captured:
    """Check the content of a file, and put its rows into the order of `Tokens`.

    Raises:
        ValueError: what is wrong.
    """
    if metadata.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"format_version must be {FORMAT_VERSION!r}, got {metadata.get('format_version')!r}")
    for key in ("workload", "source"):
        if not metadata.get(key, "").strip():
            raise ValueError(f"metadata {key!r} is missing")
    side, block = (_positive(metadata, key) for key in ("resolution", "compression_block"))
    _check_tensors(tensors)
    coords, blocks = tensors["coords"], tensors["compression_coords"]
    if int(coords.min()) < 0 or int(coords.max()) >= side:
        raise ValueError(
            f"coords must lie in [0, resolution={side}), got values in [{int(coords.min())}, {int(coords.max())}]"
        )
    keys, order = _linear(coords, side).sort()
    if bool((keys[1:] == keys[:-1]).any()):
        raise ValueError("coords must not repeat a voxel")
    occupied = (coords // block).unique(dim=0)
    found, place = blocks.unique(dim=0, return_inverse=True)
    if len(found) != len(blocks) or not torch.equal(found, occupied):
        raise ValueError(
            f"compression_coords must hold each of the {len(occupied)} blocks of coords // {block} once; "
            f"its {len(blocks)} rows do not"
        )
    by_block = place.argsort()
    rows = Inputs(
        **{name: tensors[name][order] for name in _BY_TOKEN}, **{name: tensors[name][by_block] for name in _BY_BLOCK}
    )
    tokens = Tokens(metadata["workload"], coords[order], side)
    header = f"{tokens.name} {side} {block} {rows.q.dtype}"
    return Captured(
        tokens=tokens,
        rows=rows,
        compression_coords=found,
        compression_block=block,
        source=metadata["source"],
        digest=_digest(header, [tokens.coords, *rows.tensors()]),
    )


def _positive(metadata: dict[str, str], key: str) -> int:
    text = metadata.get(key, "")
    if not text.isdecimal() or not 1 <= int(text) <= MAX_RESOLUTION:
        raise ValueError(f"metadata {key!r} must be a whole number from 1 to {MAX_RESOLUTION}, got {text!r}")
    return int(text)


def _check_tensors(tensors: dict[str, Tensor]) -> None:
    """Names, shapes, dtypes, and values that are finite."""
    for name in ("coords", "compression_coords", *INPUT_NAMES):
        if name not in tensors:
            raise ValueError(f"tensor {name!r} is missing")
    for name in ("coords", "compression_coords"):
        x = tensors[name]
        if x.ndim != 2 or x.shape[1] != 3 or not len(x) or x.dtype != torch.int32:
            raise ValueError(f"{name} must be int32 with rows of 3, got {x.dtype} {list(x.shape)}")
    q, k = tensors["q"], tensors["k"]
    if q.ndim != 3 or k.ndim != 3 or q.dtype not in _DTYPES:
        raise ValueError(
            "q and k must be [N, heads, head dim] in bfloat16, float16 or float32, "
            f"got {q.dtype} {list(q.shape)} and {k.dtype} {list(k.shape)}"
        )
    tokens, blocks = len(tensors["coords"]), len(tensors["compression_coords"])
    by_token, by_block = [tokens, k.shape[1], q.shape[2]], [blocks, k.shape[1], q.shape[2]]
    expected = {
        "q": [tokens, *q.shape[1:]],
        "k": by_token,
        "v": by_token,
        "k_cmp": by_block,
        "v_cmp": by_block,
        "gates": [tokens, 3],
    }
    for name, shape in expected.items():
        x = tensors[name]
        if list(x.shape) != shape or x.dtype != q.dtype:
            raise ValueError(f"{name} must be {q.dtype} {shape}, got {x.dtype} {list(x.shape)}")
        if not bool(x.isfinite().all()):
            raise ValueError(f"{name} has values that are not finite")
    gates = tensors["gates"]
    if float(gates.min()) < 0 or float(gates.max()) > 1:
        raise ValueError(f"gates must lie in [0, 1], got values in [{float(gates.min()):g}, {float(gates.max()):g}]")


def _linear(coords: Tensor, side: int) -> Tensor:
    """int64 [N]: linear indices of coordinates [N, 3] below `side`."""
    x, y, z = coords.long().unbind(1)
    return (x * side + y) * side + z


def _digest(header: str, tensors: list[Tensor]) -> str:
    hashed = hashlib.sha256(header.encode())
    for x in tensors:
        hashed.update(str(list(x.shape)).encode())
        hashed.update(x.contiguous().flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()[:12]
