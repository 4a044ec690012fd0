"""Tuning: candidates are compared, then timed; the fastest correct one is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_shape import small_shape
from torch import Tensor

from bench import tune as tuning
from bench.providers import Problem, make_problem
from bench.workloads import make_tokens
from kernels.triton import configs
from kernels.triton.configs import KERNEL_NAMES, TileConfig

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL, LARGE = TileConfig(32, 32, 4, 1), TileConfig(64, 32, 4, 1)


@pytest.fixture(scope="module")
def problem() -> Problem:
    shape = small_shape(dtype="float16")
    return make_problem(make_tokens("sphere", 100, 24), shape, device=DEVICE, seed=0)


def fake_times(times: list[float]) -> Callable[[Callable[[], object]], float]:
    """Each measurement takes the next of the times; what it measures really runs."""
    remaining = iter(times)

    def measure(call: Callable[[], object]) -> float:
        call()
        return next(remaining)

    return measure


@pytest.mark.parametrize("kernel", KERNEL_NAMES)
def test_the_fastest_candidate_of_a_kernel_is_kept(problem: Problem, kernel: configs.KernelName) -> None:
    base = configs.shipped_table("sm90")
    steps: list[str] = []
    ((table, trials),) = tuning.tune(
        problem,
        base,
        "here",
        kernels=[kernel],
        tried=lambda _: [SMALL, LARGE],
        measure=fake_times([3.0, 1.0, 2.0]),
        progress=lambda message, done, total: steps.append(f"{done}/{total} {message}"),
    )
    assert [trial.milliseconds for trial in trials] == [3.0, 1.0, 2.0]
    assert trials[0].config == base.config(kernel, 16)
    assert table.config(kernel, 16) == SMALL
    assert table.origin == "here"
    assert table.config(kernel, 128) == base.config(kernel, 128)  # other widths keep theirs
    assert {name: table.kernels[name] for name in KERNEL_NAMES if name != kernel} == {
        name: base.kernels[name] for name in KERNEL_NAMES if name != kernel
    }
    assert steps[-1] == "3/3 done"


def test_a_candidate_that_computes_something_else_is_never_kept(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = tuning.segment_forward

    def wrong_with_small_tiles(*args: Any) -> tuple[Tensor, Tensor]:
        o, lse = forward(*args)
        config = configs.tile_config("compressed_forward", 16, torch.float16, o.device)
        return (o * 1.5 if config == SMALL else o), lse

    monkeypatch.setattr(tuning, "segment_forward", wrong_with_small_tiles)
    ((table, trials),) = tuning.tune(
        problem,
        configs.shipped_table("sm90"),
        "here",
        kernels=["compressed_forward"],
        tried=lambda _: [SMALL, LARGE],
        measure=fake_times([3.0, 2.0]),  # the wrong one is not even timed
    )
    assert trials[1].milliseconds is None
    assert "differ" in (trials[1].reason or "")
    assert table.config("compressed_forward", 16) == LARGE


def test_a_candidate_that_does_not_run_is_reported_and_passed_over(problem: Problem) -> None:
    impossible = TileConfig(48, 32, 4, 1)  # no power of two
    ((table, trials),) = tuning.tune(
        problem,
        configs.shipped_table("sm90"),
        "here",
        kernels=["gathered_dq"],
        tried=lambda _: [impossible],
        measure=fake_times([1.0]),
    )
    assert [trial.milliseconds for trial in trials] == [1.0, None]
    assert trials[1].reason
    assert table.config("gathered_dq", 16) == trials[0].config


def test_the_present_choice_must_run(problem: Problem) -> None:
    base = configs.shipped_table("sm90")
    broken = dataclasses.replace(base, kernels={**base.kernels, "block_scores": ((128, TileConfig(48, 32, 4, 1)),)})
    with pytest.raises(RuntimeError, match="the present tile sizes do not run"):
        list(tuning.tune(problem, broken, "here", kernels=["block_scores"], tried=lambda _: [], measure=lambda _: 1.0))


def test_a_selection_that_cannot_be_filled_is_refused(problem: Problem) -> None:
    few = make_problem(make_tokens("sphere", 100, 5), problem.shape, device=DEVICE, seed=0)  # one block, topk 2
    with pytest.raises(ValueError, match="at least topk=2 selection blocks"):
        list(tuning.tune(few, configs.shipped_table("sm90"), "here", measure=lambda _: 1.0))


def test_every_kernel_has_candidates_that_hold_the_largest_group() -> None:
    for kernel in KERNEL_NAMES:
        found = tuning.candidates(kernel)
        assert len(set(found)) == len(found) >= 8
        assert min(config.block_m for config in found) >= 32
