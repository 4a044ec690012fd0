"""How many programs of a kernel fit on a multiprocessor at once.

The rules are those of NVIDIA's calculator (cuda_occupancy.h of CUDA 13), the limits those of the table "Technical
Specifications per Compute Capability" in the CUDA programming guide. Clusters and barriers are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Limit = Literal["threads", "programs", "registers", "shared memory"]

_WARP = 32
_REGISTERS = 65536  # of a multiprocessor
_SUB_PARTITIONS = 4  # of a multiprocessor; a warp's registers lie in one
_REGISTER_UNIT = 256  # a warp gets a multiple of it
_SHARED_UNIT = 128  # bytes
_RESERVED_SHARED = 1024  # bytes a program, taken by the system


@dataclass(frozen=True)
class _Multiprocessor:
    programs: int
    warps: int
    shared_bytes: int


_MULTIPROCESSORS = {
    (8, 0): _Multiprocessor(32, 64, 164 * 1024),
    (8, 6): _Multiprocessor(16, 48, 100 * 1024),
    (8, 7): _Multiprocessor(16, 48, 164 * 1024),
    (8, 9): _Multiprocessor(24, 48, 100 * 1024),
    (9, 0): _Multiprocessor(32, 64, 228 * 1024),
    (10, 0): _Multiprocessor(32, 64, 228 * 1024),
    (10, 3): _Multiprocessor(32, 64, 228 * 1024),
    (12, 0): _Multiprocessor(24, 48, 100 * 1024),
    (12, 1): _Multiprocessor(24, 48, 100 * 1024),
}


@dataclass(frozen=True)
class Occupancy:
    """What one multiprocessor holds at once."""

    programs: int
    warps: int
    most_warps: int  # that the multiprocessor can hold
    limits: tuple[Limit, ...]  # what keeps a further program out


def occupancy(capability: tuple[int, int], *, threads: int, registers: int, shared_bytes: int) -> Occupancy | None:
    """Occupancy on a device of that compute capability; None where its limits are not known here.

    Args:
        threads: of a program (thread block). registers: of a thread. shared_bytes: of a program, static and dynamic.

    Raises:
        ValueError: threads is not positive.
    """
    if threads < 1:
        raise ValueError(f"threads must be positive, got {threads}")
    device = _MULTIPROCESSORS.get(capability)
    if device is None:
        return None
    warps = -(-threads // _WARP)
    room: dict[Limit, int] = {"threads": device.warps // warps, "programs": device.programs}
    if registers:
        of_warp = _round_up(registers * _WARP, _REGISTER_UNIT)
        # The hardware checks a program as if its warps filled all sub-partitions evenly.
        fits = of_warp * _round_up(warps, _SUB_PARTITIONS) <= _REGISTERS
        room["registers"] = _REGISTERS // _SUB_PARTITIONS // of_warp * _SUB_PARTITIONS // warps if fits else 0
    taken = _round_up(shared_bytes + _RESERVED_SHARED, _SHARED_UNIT)
    room["shared memory"] = device.shared_bytes // taken
    programs = min(room.values())
    limits = tuple(name for name, count in room.items() if count == programs)
    return Occupancy(programs, programs * warps, device.warps, limits)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
