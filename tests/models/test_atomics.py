"""What an atomic operation writes is not in the register of its result, which Triton (3.6, 3.9) sets to zero before.

It is in the same one where the value is not needed any more and the result is; nothing but the machine code shows it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

# A process of its own: in this one the kernels may be defined for Triton's interpreter.
CODE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from models.data.triton_flood import _join_kernel
from models.data.triton_surface import _tell_kernel
from models.sparse.triton_neighbors import _insert_kernel

SIGNATURES = {
    _insert_kernel: "*i64 *i32 i32 i32",
    _join_kernel: "*i32 *i64 *i32 *i32 *i1 i32 i32 i32 i32 i32 i32",
    _tell_kernel: "*i32 *i64 *i64 *fp32 *i64 *i32 *fp64 *fp64 i32 i32",
}
CONSTANTS = {"BLOCK": 256, "LEVEL": 0, "REACH": 1.0, "CLEAR": 0.25}
for kernel, types in SIGNATURES.items():
    names = iter(types.split())
    constants = {name: CONSTANTS[name] for name in kernel.arg_names if name in CONSTANTS}
    signature = {name: "constexpr" if name in constants else next(names) for name in kernel.arg_names}
    source = ASTSource(kernel, signature, constants)
    print(kernel.fn.__name__)
    print(triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4}).asm["ptx"])
"""
ATOMIC = re.compile(r"\batom\.\S+ (%\w+), \[[^]]*\], (%\w+);")


@pytest.mark.slow
def test_no_value_of_an_atomic_operation_is_lost() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    atomics = ATOMIC.findall(run.stdout)
    assert len(atomics) >= 4  # the insertion's and the union's; what is told has no result and is a reduction
    assert [registers for registers in atomics if registers[0] == registers[1]] == []
