"""Occupancy, against NVIDIA's own calculator and against the rules worked out by hand."""

from __future__ import annotations

import pytest

from bench.occupancy import Limit, occupancy

H200, A100, ADA, BLACKWELL_CONSUMER = (9, 0), (8, 0), (8, 9), (12, 0)


@pytest.mark.parametrize(
    ("capability", "threads", "registers", "shared_bytes", "programs", "limits"),
    [
        # 168 x 32 = 5376 registers a warp, 3 warps to each of 4 sub-partitions of 16384, 12 warps in all.
        (H200, 128, 168, 0, 3, ("registers",)),
        # 255 x 32 = 8160, rounded up to 8192: 2 warps a sub-partition, 8 in all.
        (H200, 128, 255, 0, 2, ("registers",)),
        (H200, 256, 255, 0, 1, ("registers",)),
        # 64 warps, 2048 registers each, fill the multiprocessor exactly, and 16 programs of 4 warps its threads.
        (H200, 128, 32, 0, 16, ("threads", "registers")),
        # 5 warps of 128 registers: 16 warps in all hold three programs, with one warp to spare.
        (H200, 160, 128, 0, 3, ("registers",)),
        # 48 KiB and the reserved KiB, of 228 KiB.
        (H200, 128, 64, 49152, 4, ("shared memory",)),
        # One byte more is a unit of 128 bytes more: 4 x 57.125 KiB exceed 228 KiB, 4 x 57 KiB do not.
        (H200, 32, 24, 56 * 1024, 4, ("shared memory",)),
        (H200, 32, 24, 56 * 1024 + 1, 3, ("shared memory",)),
        (H200, 32, 24, 0, 32, ("programs",)),
        (ADA, 32, 24, 0, 24, ("programs",)),
        (A100, 256, 40, 0, 6, ("registers",)),
        (ADA, 256, 40, 0, 6, ("threads", "registers")),
        (BLACKWELL_CONSUMER, 256, 64, 33000, 3, ("shared memory",)),
        # Does not fit at all: 32 warps of 96 registers need 98304.
        (H200, 1024, 96, 0, 0, ("registers",)),
        (BLACKWELL_CONSUMER, 256, 64, 163840, 0, ("shared memory",)),
    ],
)
def test_programs_a_multiprocessor(
    capability: tuple[int, int],
    threads: int,
    registers: int,
    shared_bytes: int,
    programs: int,
    limits: tuple[Limit, ...],
) -> None:
    found = occupancy(capability, threads=threads, registers=registers, shared_bytes=shared_bytes)
    assert found is not None
    assert (found.programs, found.limits) == (programs, limits)
    assert found.warps == programs * -(-threads // 32) <= found.most_warps


def test_an_unknown_device_has_no_occupancy() -> None:
    assert occupancy((6, 1), threads=128, registers=32, shared_bytes=0) is None


def test_a_program_has_threads() -> None:
    with pytest.raises(ValueError, match="threads must be positive, got 0"):
        occupancy(H200, threads=0, registers=32, shared_bytes=0)
