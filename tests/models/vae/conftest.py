"""Makes the helpers of this folder and of tests/models/data importable; attention runs as it does for a user."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from kernels import api

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "data")]


@pytest.fixture(autouse=True)
def _eager_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter, which the tests of kernels turn on, would take seconds for a call."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(api, "_triton_unavailable", lambda q: "tests of models run the eager implementation")
