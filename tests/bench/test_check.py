"""The gate in front of every time: right kernels pass, wrong ones do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from small_shape import small_shape
from torch import Tensor

from bench import check
from bench.check import check_provider, run_checks
from bench.providers import Problem, Provider, get_provider, make_problem
from bench.workloads import make_tokens
from kernels.testing import Inputs


def small_problem(tokens: int = 300) -> Problem:
    shape = small_shape(topk=3)
    return make_problem(make_tokens("gyroid", tokens, None), shape, device="cpu", seed=0)


def altered(name: str, change: Callable[[Problem, Inputs, Tensor], Tensor]) -> Provider:
    """A provider whose output goes through `change`."""
    provider = get_provider(name)
    return dataclasses.replace(provider, forward=lambda p, x: change(p, x, provider.forward(p, x)))


@pytest.mark.parametrize("name", ["ssa-eager", "nsa-eager", "dense-sdpa-cpu", "dense-sdpa-math", "packed-sdpa-cpu"])
def test_right_providers_pass(name: str) -> None:
    problem = small_problem()
    provider = get_provider(name)
    checked = check_provider(provider, provider.adapt(problem))
    assert checked.passed, checked
    assert {"o", *(f"d{grad}" for grad in provider.grads)} <= {tensor.name for tensor in checked.tensors}
    assert "all of 300 tokens" in checked.oracle


@pytest.mark.parametrize(
    "change",
    [
        lambda problem, x, o: torch.where(torch.arange(len(o))[:, None, None] == 7, torch.nan, o),
        lambda problem, x, o: torch.cat([o[1:], o[:1]]),
        lambda problem, x, o: o * 1.01,
        lambda problem, x, o: o.detach() + 0 * sum(tensor.sum() for tensor in x.tensors()),
        lambda problem, x, o: torch.where(torch.arange(len(o))[:, None, None] == 7, 1.001 * o, o),
    ],
    ids=["a NaN", "rows shifted by one", "one per cent off", "no gradient", "one row off by a thousandth"],
)
@pytest.mark.parametrize("name", ["ssa-eager", "dense-sdpa-cpu"])
def test_wrong_providers_fail(name: str, change: Callable[[Problem, Inputs, Tensor], Tensor]) -> None:
    assert not check_provider(altered(name, change), small_problem()).passed


def test_a_wrong_number_of_selected_blocks_fails() -> None:
    problem = small_problem()
    fewer = Problem(problem.workload, problem.shape.model_copy(update={"topk": 2}), problem.layout, problem.inputs)
    provider = get_provider("ssa-eager")
    cheat = dataclasses.replace(provider, forward=lambda p, x: provider.forward(fewer, x))
    assert not check_provider(cheat, problem).passed


def test_many_tokens_are_checked_on_a_sample_with_exact_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(check._ORACLE_ELEMENTS, "cpu", 4 * 300 * 40)
    problem = small_problem()
    checked = check_provider(get_provider("ssa-eager"), problem)
    assert checked.passed, checked
    assert "40 sampled of 300 tokens" in checked.oracle
    # An error in the last row, which is always in the sample.
    last = altered("ssa-eager", lambda p, x, o: torch.where(torch.arange(len(o))[:, None, None] == 299, 1.01 * o, o))
    assert not check_provider(last, problem).passed


@pytest.mark.parametrize("name", ["ssa-eager", "nsa-eager", "dense-sdpa-cpu", "packed-sdpa-cpu"])
def test_more_tokens_than_fit_are_checked_a_few_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(check._ORACLE_ELEMENTS, "cpu", 4 * 300 * 5)
    problem = small_problem()
    assert check.rows_at_a_time(problem) == 5
    provider = get_provider(name)
    checked = check_provider(provider, provider.adapt(problem))
    assert checked.passed, checked
    assert "32 sampled of 300 tokens" in checked.oracle
    last = altered(name, lambda p, x, o: torch.where(torch.arange(len(o))[:, None, None] == 299, 1.01 * o, o))
    assert not check_provider(last, provider.adapt(problem)).passed


def test_the_quick_suite_passes_on_this_cpu_and_reports_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    seen: list[tuple[str, int, int]] = []
    results = run_checks("cpu", quick=True, progress=lambda *step: seen.append(step))
    assert [result.name for result in results if result.failed] == []
    assert any(result.unavailable and "ssa-triton" in result.name for result in results)
    assert seen[0][1] == 0
    assert seen[-1][0] == "done"


def test_a_provider_that_raises_is_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> Tensor:
        raise RuntimeError("boom")

    provider = dataclasses.replace(get_provider("dense-sdpa-cpu"), forward=broken)
    monkeypatch.setattr("bench.check._candidates", lambda device: [(provider, "float32")])
    results = run_checks("cpu", quick=True)
    assert all(result.failed and result.reason == "RuntimeError: boom" for result in results)
