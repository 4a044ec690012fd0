"""The registry, the problems it is asked about, and the providers that run on a CPU."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_shape import small_shape

import kernels
from bench.providers import (
    Problem,
    Provider,
    block_indices,
    default_providers,
    get_provider,
    make_problem,
    match_providers,
    provider_names,
    stages,
)
from bench.workloads import make_tokens

SHAPE = small_shape(window_shift=4, topk=3)
CPU_PROVIDERS = ["ssa-eager", "ssa-reference", "nsa-eager", "dense-sdpa-cpu", "dense-sdpa-math", "packed-sdpa-cpu"]


@pytest.fixture(scope="module")
def problem() -> Problem:
    return make_problem(make_tokens("gyroid", 200), SHAPE, device="cpu", seed=3)


def test_every_family_has_its_implementations() -> None:
    names = provider_names()
    assert {"ssa-triton", "ssa-eager", "ssa-reference", "ssa-flex", "nsa-triton", "nsa-eager"} < set(names)
    for impl in ("sdpa-math", "sdpa-flash", "sdpa-cudnn", "sdpa-efficient", "sdpa-cpu", "flash-attn", "flash-attn-4"):
        assert {f"dense-{impl}", f"packed-{impl}"} < set(names)
    assert "dense-reference" not in names
    for name in names:
        provider = get_provider(name)
        assert provider.name == name
        assert name.startswith(provider.family)


def test_an_unknown_provider_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="provider 'ssa-cuda' is unknown; known: ssa-triton, ssa-eager"):
        get_provider("ssa-cuda")


def test_patterns_select_providers_once_and_in_the_order_asked_for() -> None:
    assert match_providers(["dense-sdpa-c*", "ssa-eager", "ssa-e*"]) == [
        "dense-sdpa-cpu",
        "dense-sdpa-cudnn",
        "ssa-eager",
    ]
    with pytest.raises(ValueError, match=r"provider 'ssb-\*' is unknown"):
        match_providers(["ssa-*", "ssb-*"])


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_default_comparison_names_known_providers_with_a_dense_one(device: str) -> None:
    names = default_providers(device)
    families = {get_provider(name).family for name in names}
    assert families == {"ssa", "nsa", "dense", "packed"}


def test_a_problem_states_its_workload(problem: Problem) -> None:
    layout = problem.layout
    assert problem.workload.tokens == layout.num_tokens == 200
    assert problem.workload.selection_blocks == layout.selection_coords.shape[0]
    assert problem.workload.compression_blocks == layout.compression_coords.shape[0]
    assert (layout.window, layout.window_shift, problem.topk) == (8, 4, 3)
    assert problem.dtype == torch.float32
    assert problem.inputs.q.shape == (200, 4, 16)
    assert problem.inputs.k.shape == (200, 2, 16)
    assert problem.inputs.k_cmp.shape == (problem.workload.compression_blocks, 2, 16)


def test_the_seed_decides_the_inputs(problem: Problem) -> None:
    tokens = make_tokens("gyroid", 200)
    same, other = (make_problem(tokens, SHAPE, device="cpu", seed=seed) for seed in (3, 4))
    assert torch.equal(same.inputs.q, problem.inputs.q)
    assert not torch.equal(other.inputs.q, problem.inputs.q)


def test_set_up_is_built_once_per_problem(problem: Problem) -> None:
    built: list[int] = []

    def build() -> int:
        built.append(1)
        return len(built)

    assert [problem.once("count", build), problem.once("count", build)] == [1, 1]
    assert dataclasses.replace(problem, _prepared={}).once("count", build) == 2


@pytest.mark.parametrize("name", CPU_PROVIDERS)
def test_a_cpu_provider_runs_and_is_differentiable_in_the_inputs_it_names(name: str, problem: Problem) -> None:
    provider = get_provider(name)
    assert provider.unavailable(problem) is None
    assert provider.implementation(problem)
    local = provider.adapt(problem)
    leaves = {grad: getattr(local.inputs, grad).clone().requires_grad_() for grad in provider.grads}
    o = provider.forward(local, dataclasses.replace(local.inputs, **leaves))
    assert o.shape == local.inputs.q.shape
    gradients = torch.autograd.grad(o.sum(), tuple(leaves.values()))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", CPU_PROVIDERS)
def test_costs_cover_the_three_passes(name: str, problem: Problem) -> None:
    provider = get_provider(name)
    costs = provider.costs(provider.adapt(problem))
    assert set(costs) == {"fwd", "bwd", "fwd_bwd"}
    assert 0 < costs["fwd"].flops < costs["bwd"].flops < costs["fwd_bwd"].flops


def test_sparse_implementations_agree_with_each_other(problem: Problem) -> None:
    eager, reference = (get_provider(f"ssa-{impl}").forward(problem, problem.inputs) for impl in ("eager", "reference"))
    torch.testing.assert_close(eager, reference, atol=1e-4, rtol=1e-4)


def test_packing_costs_less_than_dense_attention(problem: Problem) -> None:
    dense, packed = (get_provider(name).costs(problem)["fwd"] for name in ("dense-sdpa-cpu", "packed-sdpa-cpu"))
    assert packed.flops < dense.flops
    assert packed.bytes == dense.bytes


def test_native_sparse_attention_sees_blocks_of_the_raster_order(problem: Problem) -> None:
    local = get_provider("nsa-eager").adapt(problem)
    assert local.workload == problem.workload
    assert local.layout.num_tokens == 200
    assert local.layout.compression_offsets.diff().tolist() == [32] * 6 + [8]
    assert local.layout.selection_offsets.diff().tolist() == [64, 64, 64, 8]
    assert local.inputs.k_cmp.shape[0] == 7
    assert get_provider("nsa-eager").adapt(problem) is local  # set-up, built once


def test_the_stages_gated_and_summed_are_the_whole_operator(problem: Problem) -> None:
    x = problem.inputs
    branches = stages(problem, "eager")
    assert list(branches) == ["cmp", "select", "slc", "win"]
    assert torch.equal(branches["select"].forward(x), block_indices(problem, "eager"))
    assert branches["select"].grads == ()
    parts = [branches[stage].forward(x) for stage in ("cmp", "slc", "win")]
    total = sum(x.gates[:, column, None, None] * part for column, part in enumerate(parts))
    whole = kernels.spatial_sparse_attention(
        x.q, x.k, x.v, x.k_cmp, x.v_cmp, x.gates, problem.layout, topk=problem.topk, impl="eager"
    )
    torch.testing.assert_close(total, whole)


@pytest.mark.parametrize("provider", [get_provider(name) for name in provider_names()], ids=lambda p: p.name)
def test_only_sparse_providers_with_stages_expose_branches(provider: Provider) -> None:
    assert (provider.branches is not None) == (provider.name in {"ssa-triton", "ssa-eager", "ssa-reference"})


def test_scores_that_do_not_fit_into_memory_are_refused_before_they_are_built(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sysconf", lambda name: 1)
    for name in ("ssa-reference", "dense-sdpa-math", "packed-sdpa-math"):
        assert "200 x 200 scores" in str(get_provider(name).unavailable(problem))
    assert get_provider("dense-sdpa-cpu").unavailable(problem) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
@pytest.mark.parametrize("name", ["dense-sdpa-flash", "dense-flash-attn-4", "packed-sdpa-flash"])
def test_a_gpu_kernel_on_a_cpu_says_what_it_needs(name: str, problem: Problem) -> None:
    assert "needs a CUDA device" in str(get_provider(name).unavailable(problem))


def test_the_triton_provider_says_why_it_cannot_run(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "cpu" in str(get_provider("ssa-triton").unavailable(problem))
    assert get_provider("ssa-triton").implementation(problem) == "triton (interpreter)"
