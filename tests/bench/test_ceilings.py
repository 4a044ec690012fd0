"""Ceilings: rates of simple programs on this machine."""

from __future__ import annotations

import pytest
import torch

from bench import ceilings, timing
from bench.ceilings import probe

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def test_rates_are_the_work_over_the_fastest_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings, "_COPY_BYTES", {"cpu": 2**20})
    monkeypatch.setattr(ceilings, "_MATRIX_SIDE", {"cpu": 32})
    monkeypatch.setattr(timing, "measure", lambda call, device, **options: timing.Series([3.0, 2.0, 4.0]))
    found = probe("cpu", torch.float32)
    assert found.copy_bytes_per_s == 2 * 2**20 / 2e-3  # read and written in 2 ms
    assert found.matrix_flops_per_s == 2 * 32**3 / 2e-3
    assert found.exp2_per_s == 2**16 / 2e-3


def test_what_is_timed_really_runs() -> None:
    found = probe(DEVICE, torch.float32 if DEVICE == "cpu" else torch.bfloat16)
    # Any machine of this century, and none of the next decade.
    assert 1e8 < found.copy_bytes_per_s < 1e14
    assert 1e8 < found.matrix_flops_per_s < 1e17
    assert 1e6 < found.exp2_per_s < 1e15


@pytest.mark.gpu
def test_the_exponential_kernel_computes_exponentials() -> None:
    from bench.exp2_kernel import repeat_exp2

    x = torch.rand(4096, device="cuda")
    expected = torch.exp2(-torch.exp2(-x.double()))
    torch.testing.assert_close(repeat_exp2(x, 2), expected.float(), rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match="multiple of 1024"):
        repeat_exp2(x[:100], 2)
