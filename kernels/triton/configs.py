"""Tile sizes and launch parameters of every kernel, read from tables of measured configurations.

`tuned/` holds one table for each architecture and one for fp32; a table of the user's own, for one GPU, goes before
them (`ssabench tune` writes it).
"""

from __future__ import annotations

import functools
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import triton

from kernels.segments import Segments

# The segment kernels meet two kinds of work: long lists at fixed distances (compressed), and short or gathered ones
# (gathered: selected and window), where latency counts for more than the rate of the inner loop.
KernelName = Literal[
    "compressed_forward",
    "compressed_dq",
    "compressed_dkv",
    "gathered_forward",
    "gathered_dq",
    "gathered_dkv",
    "block_scores",
]
KERNEL_NAMES: tuple[KernelName, ...] = get_args(KernelName)
ARCHITECTURES = (80, 90, 100)

_SHIPPED = Path(__file__).parent / "tuned"
_USER_FOLDER = "SSABENCH_TUNED_DIR"  # environment variable; by default a folder of the user's cache


@dataclass(frozen=True)
class TileConfig:
    """BLOCK_M query rows (token, head pairs) by BLOCK_N keys, and the launch parameters."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    # Whether what fills no whole tile gets a tile of its own outside the loop, which then needs no masks and, in
    # forward, no running maximum. A second copy of the loop's body can cost registers.
    peeled: bool = True
    # Registers a thread may take at most, where the compiler would take a few more and one program less would fit.
    registers: int | None = None
    # Of the compressed forward: whether the matrix units take the queries out of registers, not shared memory, where
    # they then read the keys faster.
    queries_in_registers: bool = False

    def launch_arguments(self) -> dict[str, int | bool]:
        """The segment kernels' keyword arguments."""
        return {
            **({} if self.registers is None else {"maxnreg": self.registers}),
            "PEELED": self.peeled,
            "BLOCK_M": self.block_m,
            "BLOCK_N": self.block_n,
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
        }


@dataclass(frozen=True)
class TunedTable:
    """Configurations by kernel and largest padded head dim, widest last."""

    origin: str  # where they were measured
    kernels: Mapping[KernelName, tuple[tuple[int, TileConfig], ...]]

    def config(self, kernel: KernelName, head_dim: int) -> TileConfig:
        width = padded(head_dim)
        if width != head_dim:
            width = min(2 * width, 128)  # masks take registers, so these head dims take the next row
        rows = self.kernels[kernel]
        return next((config for largest, config in rows if width <= largest), rows[-1][1])


def read_table(path: Path) -> TunedTable:
    """A table from its JSON file.

    Raises:
        ValueError: the file is not such a table; the message names it and what is wrong.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kernels = {
            kernel: tuple((row.pop("head_dim"), TileConfig(**row)) for row in content["kernels"][kernel])
            for kernel in KERNEL_NAMES
        }
        table = TunedTable(content["origin"], kernels)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a table of tuned configurations: {error!r}") from error
    for kernel, rows in kernels.items():
        widths = [width for width, _ in rows]
        if not rows or widths != sorted(widths):
            raise ValueError(f"{path} is not a table of tuned configurations: {kernel} needs rows by rising head_dim")
    return table


def write_table(path: Path, table: TunedTable) -> None:
    """Write a table whole: to a file beside it, then renamed."""
    kernels: dict[str, list[dict[str, Any]]] = {
        kernel: [{"head_dim": width, **vars(config)} for width, config in rows]
        for kernel, rows in table.kernels.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"origin": table.origin, "kernels": kernels}, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def user_table_path(device_name: str) -> Path:
    """Where a user's own table for a GPU lies: in $SSABENCH_TUNED_DIR, by default ~/.cache/ssabench/tuned."""
    folder = os.environ.get(_USER_FOLDER)
    root = Path(folder) if folder else Path.home() / ".cache" / "ssabench" / "tuned"
    return root / f"{re.sub(r'[^a-z0-9]+', '-', device_name.lower()).strip('-')}.json"


def tile_config(kernel: KernelName, head_dim: int, dtype: torch.dtype, device: torch.device) -> TileConfig:
    """The configuration of a kernel for a head dim (at most 128), input dtype and device."""
    return tuned_table(dtype, device).config(kernel, head_dim)


def segment_config(which: Literal["forward", "dq", "dkv"], segments: Segments, q: torch.Tensor) -> TileConfig:
    """The configuration of a segment kernel for queries like `q` [N, H, D]."""
    names: dict[str, tuple[KernelName, KernelName]] = {
        "forward": ("compressed_forward", "gathered_forward"),
        "dq": ("compressed_dq", "gathered_dq"),
        "dkv": ("compressed_dkv", "gathered_dkv"),
    }
    return tile_config(names[which][segments.query_slots is not None], q.shape[2], q.dtype, q.device)


_override: TunedTable | None = None


@contextmanager
def overridden(table: TunedTable) -> Iterator[None]:
    """Every kernel takes its configuration from `table`, whatever the dtype and device. For tuning and for tests."""
    global _override
    before, _override = _override, table
    try:
        yield
    finally:
        _override = before


def tuned_table(dtype: torch.dtype, device: torch.device) -> TunedTable:
    """The table for a dtype and device: the user's own for this GPU, else the one shipped for its architecture."""
    if _override is not None:
        return _override
    if dtype == torch.float32:
        return shipped_table("fp32")
    if device.type != "cuda":
        return shipped_table("sm90")  # the interpreter
    return _gpu_table(device.index if device.index is not None else torch.cuda.current_device())


@functools.cache
def shipped_table(name: str) -> TunedTable:
    """One of the tables in `tuned/`: "fp32", or "sm80", "sm90" and so on."""
    return read_table(_SHIPPED / f"{name}.json")


@functools.cache
def _gpu_table(index: int) -> TunedTable:
    device_name = torch.cuda.get_device_name(index)
    own = user_table_path(device_name)
    if own.exists():
        return read_table(own)
    major, minor = torch.cuda.get_device_capability(index)
    nearest = nearest_architecture(10 * major + minor)
    table = shipped_table(f"sm{nearest}")
    if 10 * major + minor != nearest or device_name not in table.origin:
        warnings.warn(
            f"no tile sizes were measured on {device_name} (compute capability {major}.{minor}): using those of "
            f"sm_{nearest} ({table.origin}); `ssabench tune` finds its own",
            stacklevel=2,
        )
    return table


def nearest_architecture(capability: int) -> int:
    """The newest architecture with a shipped table that is not newer than `capability`, e.g. 89 -> 80."""
    return max((known for known in ARCHITECTURES if known <= capability), default=min(ARCHITECTURES))


def padded(size: int) -> int:
    """Next power of two: the sides of Triton's tiles."""
    return triton.next_power_of_2(size)
