"""Every kernel variant that is ever launched compiles for Ampere, Hopper and Blackwell, on a machine without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

# Shared memory that a program may use on the data-centre part of each architecture.
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
EXPECTED = {
    "_segment_forward_kernel",
    "_merge_slots_kernel",
    "_select_blocks_kernel",
    "_tile_list_kernel",
    "_largest_kernel",
    "_divide_kernel",
    "_gradient_terms_kernel",
    "_segment_dq_kernel",
    "_segment_dkv_kernel",
    "_sum_slots_kernel",
    "_chunk_offsets_kernel",
    "_chunks_kernel",
    "_add_chunks_kernel",
}
HOPPER = {"_hopper_selected_forward_kernel", "_hopper_dkv_kernel", "_hopper_dq_kernel"}


@pytest.mark.slow
@pytest.mark.parametrize("arch", SHARED_LIMIT)
def test_kernels_compile_without_register_spills(arch: int) -> None:
    # A process of its own: in this one the kernels may be defined for Triton's interpreter.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "kernels.triton.resources", "--arch", str(arch)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    variants = [json.loads(line) for line in run.stdout.splitlines()]
    assert {variant["kernel"] for variant in variants} == (EXPECTED | HOPPER if arch == 90 else EXPECTED)
    assert [variant for variant in variants if variant["local_bytes"]] == []
    assert [variant for variant in variants if variant["shared_bytes"] > SHARED_LIMIT[arch]] == []
