"""What every test relies on: the interpreter where there is no GPU, with a GPU's order of sums, poisoned memory, and no
hidden randomness.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

# Makes records_factory importable by all tests.
sys.path.insert(0, str(Path(__file__).parent / "reports"))

# Triton reads this when a kernel is defined, so it is set before anything imports one.
if shutil.which("nvidia-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")

import numpy as np
import pytest
import torch
import triton.language as tl
from torch import Tensor


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Begun last, a long test would keep one process busy while the others have nothing left to take from it.
    items.sort(key=lambda item: "slow" not in item.keywords)
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


# The problems are small, and the test processes already share the cores.
torch.set_num_threads(1)

# Contexts of torch.device remember which functions allocate when the first is used: it must not see the poisoned ones.
with torch.device("meta"):
    torch.empty(0)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


if os.environ.get("TRITON_INTERPRET") == "1":
    from triton.language.core import is_builtin
    from triton.runtime import interpreter

    product, patch_language = interpreter.InterpreterBuilder.create_dot, interpreter._patch_lang

    def _product_in_order(self: Any, a: Any, b: Any, d: Any, *options: Any) -> Any:
        """In fp32 a GPU adds up a product's terms one after the other, so a score is the same number in every kernel.
        The BLAS behind the interpreter is free to round it otherwise in backward, by the processor and sizes of tiles.
        """
        if a.data.dtype != np.float32:
            return product(self, a, b, d, *options)
        terms = np.multiply(a.data.T[:, :, None], b.data[:, None, :], order="C")  # [K, M, N]
        return interpreter.TensorHandle(np.add.reduce(terms, axis=0) + d.data, d.dtype.scalar)

    def _patch_language_once(function: Any) -> Any:
        """Not again for every function that a kernel calls: it took a quarter of the time."""
        modules = [value for value in function.__globals__.values() if value is tl or value is tl.core]
        patched = not any(is_builtin(module.load) for module in modules)
        return interpreter._LangPatchScope() if patched else patch_language(function)

    @pytest.fixture(autouse=True, scope="session")
    def _interpreter() -> Iterator[None]:
        with (
            mock.patch.object(interpreter.InterpreterBuilder, "create_dot", _product_in_order),
            mock.patch.object(interpreter, "_patch_lang", _patch_language_once),
        ):
            yield


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """Fill memory that our kernels leave uninitialised with NaN (integers: a huge value), so that gaps are seen."""

    def poisoned(allocate: object) -> object:
        def run(*args: object, **kwargs: object) -> Tensor:
            x: Tensor = allocate(*args, **kwargs)  # type: ignore[operator]
            caller = sys._getframe(1).f_globals.get("__name__", "")
            ours = caller.startswith(("kernels.", "models.sparse."))
            if not ours or x.is_meta or type(x) is not Tensor or x.requires_grad:
                return x
            if x.is_floating_point():
                x.fill_(torch.nan)
            elif x.dtype in (torch.int32, torch.int64):
                x.fill_(torch.iinfo(x.dtype).max // 2)
            return x

        return run

    with (
        mock.patch.object(torch, "empty", poisoned(torch.empty)),
        mock.patch.object(torch, "empty_like", poisoned(torch.empty_like)),
        mock.patch.object(Tensor, "new_empty", poisoned(Tensor.new_empty)),
    ):
        yield
