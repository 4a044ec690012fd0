"""The search kernel compiles for Ampere, Hopper and Blackwell without a GPU, and spills no registers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# A process of its own: in this one the kernel may be defined for Triton's interpreter.
CODE = """
from eval.tree_kernel import _nearest_kernel as kernel
from kernels.triton.resources import Launch, compile_launch

kinds = {"starts": "*i64", "found": "*i64", "num_queries": "i32", "num_items": "i32", "leaves": "i32"}
for corners in (1, 3):
    constants = {"CORNERS": corners, "LEAF": 32, "BLOCK": 64}
    signature = {n: "constexpr" if n in constants else kinds.get(n, "*fp64") for n in kernel.arg_names}
    launch = Launch(kernel, tuple(signature.items()), tuple(constants.items()), (("num_warps", 1),))
    print(compile_launch(launch, %d).local_bytes)
"""


@pytest.mark.slow
@pytest.mark.parametrize("arch", [80, 90, 100])
def test_the_kernel_compiles_without_register_spills(arch: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", CODE % arch], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    points, triangles = map(int, run.stdout.split())
    assert points == 0
    assert triangles <= 8  # where a double-precision division returns to
