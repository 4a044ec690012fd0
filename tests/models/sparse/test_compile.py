"""The kernels compile for Ampere, Hopper and Blackwell without a GPU, and spill no registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

# Shared memory that a program may use on the data-centre part of each architecture.
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
KERNELS = {
    *("_convolution_kernel", "_weight_kernel", "_sums_kernel", "_affine_kernel"),
    *("_insert_kernel", "_lookup_kernel"),
}
# A process of its own: in this one the kernels may be defined for Triton's interpreter. Launchers run on CPU tensors
# and what they would launch is compiled.
CODE = """
import contextlib, dataclasses, json
from unittest import mock
import torch
from kernels.triton.resources import compile_launch, recorded
from models.sparse import triton_convolution, triton_neighbors, triton_norm

found = {}
neighbors, masks = torch.zeros(27, 4096, dtype=torch.int32), torch.zeros(32, dtype=torch.int32)
offsets = torch.zeros(3, dtype=torch.int64)
coefficients = torch.zeros(2, 128)
for dtype in (torch.bfloat16, torch.float32):
    for narrow, wide in ((32, 64), (64, 128), (128, 512), (24, 40)):
        x, y = torch.zeros(4096, narrow, dtype=dtype), torch.zeros(4096, wide, dtype=dtype)
        kernel = torch.zeros(27, narrow, wide, dtype=dtype)
        for elements in (2**31, 1):
            with recorded(found), mock.patch.object(triton_convolution, "_WIDE_ELEMENTS", elements):
                triton_convolution.convolve(x, kernel, y[0], neighbors, masks)
                if dtype == torch.float32:  # as the gradient of the features does
                    triton_convolution.convolve(y, kernel.transpose(1, 2).contiguous(), None, neighbors, masks)
                else:
                    triton_convolution.convolve(y, kernel, None, neighbors, masks, mirrored=True)
                triton_convolution.weight_gradient(x, y, neighbors)
    for tf32 in (True, False):
        torch.backends.cuda.matmul.allow_tf32 = tf32
        with recorded(found):
            x = torch.zeros(4096, 64, dtype=dtype)
            kernel = torch.zeros(27, 64, 64, dtype=dtype)
            triton_convolution.convolve(x, kernel, None, neighbors, masks)
            triton_convolution.weight_gradient(x, x, neighbors)
    with recorded(found), mock.patch.object(torch.cuda, "device_of", lambda _: contextlib.nullcontext()):
        for other in (None, z := torch.zeros(4096, 128, dtype=dtype)):
            triton_norm.sums(z, other, coefficients, offsets)
            triton_norm.affine(z, other, *[coefficients] * 4, offsets)
with recorded(found), mock.patch.object(torch.cuda, "device_of", lambda _: contextlib.nullcontext()):
    triton_neighbors.neighbor_maps(torch.arange(4096))
for launch in found:
    print(json.dumps(dataclasses.asdict(compile_launch(launch, %d)) | dict(launch.constants)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("arch", SHARED_LIMIT)
def test_kernels_compile_without_register_spills(arch: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", CODE % arch], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    variants = [json.loads(line) for line in run.stdout.splitlines()]
    assert {variant["kernel"] for variant in variants} == KERNELS
    assert [variant for variant in variants if variant["local_bytes"]] == []
    assert [variant for variant in variants if variant["shared_bytes"] > SHARED_LIMIT[arch]] == []
