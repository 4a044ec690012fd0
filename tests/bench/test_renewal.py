"""Values that change between blocks and samples."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_shape import small_shape

from bench.jobs import upstream_gradient
from bench.providers import Problem, block_indices, make_problem
from bench.renewal import BLOCKS, Renewal
from bench.workloads import make_tokens
from kernels import reference
from kernels.testing import INPUT_NAMES

SHAPE = small_shape()


@pytest.fixture
def problem() -> Problem:
    return make_problem(make_tokens("gyroid", 300), SHAPE, device="cpu", seed=5)


@pytest.fixture
def captured(problem: Problem) -> Problem:
    workload = problem.workload.model_copy(update={"inputs": "captured:0123456789ab"})
    return dataclasses.replace(problem, workload=workload, _prepared={})


def renewal_of(problem: Problem) -> Renewal:
    return Renewal(problem, upstream_gradient(problem))


def test_the_first_block_has_the_recorded_values(problem: Problem) -> None:
    renewal = renewal_of(problem)
    renewal.load(1)
    values = renewal.load(0)
    for name in INPUT_NAMES:
        assert torch.equal(getattr(values.inputs, name), getattr(problem.inputs, name))
    assert torch.equal(renewal.upstream, upstream_gradient(problem))


@pytest.mark.parametrize("kind", ["problem", "captured"])
def test_every_block_has_other_values_at_the_same_addresses(kind: str, request: pytest.FixtureRequest) -> None:
    renewal = renewal_of(request.getfixturevalue(kind))
    changing = [name for name in INPUT_NAMES if kind == "problem" or name != "gates"]
    seen, addresses = [], set()
    for block in range(BLOCKS):
        x = renewal.load(block).inputs
        seen.append([getattr(x, name).clone() for name in changing] + [renewal.upstream.clone()])
        addresses.add(tuple(tensor.data_ptr() for tensor in (*x.tensors(), renewal.upstream)))
    assert len(addresses) == 1
    for a in range(BLOCKS):
        for b in range(a):
            assert not any(torch.equal(x, y) for x, y in zip(seen[a], seen[b], strict=True))


def test_a_block_has_the_same_values_every_time(problem: Problem) -> None:
    renewal = renewal_of(problem)
    first = [x.clone() for x in renewal.load(2).inputs.tensors()]
    renewal.load(1)
    renewal.flip(["v"])
    assert all(torch.equal(x, y) for x, y in zip(renewal.load(2).inputs.tensors(), first, strict=True))


def test_fresh_values_are_normal_and_gates_lie_between_zero_and_one(problem: Problem) -> None:
    x = renewal_of(problem).load(1).inputs
    assert float(x.q.mean()) == pytest.approx(0.0, abs=0.03)
    assert float(x.q.std()) == pytest.approx(1.0, abs=0.03)
    assert 0 < float(x.gates.min()) < float(x.gates.max()) < 1


def test_captured_values_keep_scores_and_magnitudes_in_another_basis(captured: Problem) -> None:
    renewal, old = renewal_of(captured), captured.inputs
    values = renewal.load(1)
    new = values.inputs
    a = reference.compressed_lse(old.q.double(), old.k_cmp.double(), captured.layout)
    b = reference.compressed_lse(new.q.double(), new.k_cmp.double(), captured.layout)
    torch.testing.assert_close(a, b)
    assert torch.equal(block_indices(captured, "reference"), block_indices(values, "reference"))
    for before, after in zip(old.tensors(), new.tensors(), strict=True):
        assert torch.equal(before.abs().sort(-1).values, after.abs().sort(-1).values)
    o, other = (reference.full_attention(x.q, x.k, x.v, captured.layout) for x in (old, new))
    torch.testing.assert_close(o.abs().sort(-1).values, other.abs().sort(-1).values)
    assert not torch.allclose(o, other)


def test_a_flip_negates_the_same_features_of_the_tensors_it_names(problem: Problem) -> None:
    renewal = renewal_of(problem)
    x = renewal.load(0).inputs
    before = {name: getattr(x, name).clone() for name in INPUT_NAMES}
    renewal.flip(["v", "v_cmp"])
    signs = x.v[0, 0] / before["v"][0, 0]
    assert set(signs.tolist()) == {-1.0, 1.0}
    for name in INPUT_NAMES:
        factor = signs if name in ("v", "v_cmp") else 1.0
        assert torch.equal(getattr(x, name), before[name] * factor)


def test_a_touch_negates_one_row(problem: Problem) -> None:
    renewal = renewal_of(problem)
    before = renewal.upstream.clone()
    renewal.touch(["upstream"])
    changed = (renewal.upstream != before).flatten(1).any(1).nonzero().flatten()
    assert len(changed) == 1
    assert torch.equal(renewal.upstream[changed], -before[changed])


def test_the_problem_itself_never_changes(problem: Problem) -> None:
    before = [x.clone() for x in (*problem.inputs.tensors(), upstream_gradient(problem))]
    renewal = renewal_of(problem)
    for block in range(BLOCKS):
        renewal.load(block)
        renewal.flip(["q", "k_cmp", "v", "v_cmp", "upstream"])
    after = (*problem.inputs.tensors(), upstream_gradient(problem))
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_renewed_too(dtype: str) -> None:
    shape = SHAPE.model_copy(update={"dtype": dtype})
    renewal = renewal_of(make_problem(make_tokens("gyroid", 64), shape, device="cpu", seed=0))
    x = renewal.load(1).inputs
    renewal.flip(["v", "upstream"])
    assert all(tensor.dtype == getattr(torch, dtype) and bool(tensor.isfinite().all()) for tensor in x.tensors())


def test_the_selection_of_a_block_is_that_of_its_values(problem: Problem) -> None:
    renewal = renewal_of(problem)
    chosen = [block_indices(renewal.load(block), "eager").clone() for block in range(BLOCKS)]
    assert torch.equal(chosen[0], block_indices(problem, "eager"))
    assert not torch.equal(chosen[1], chosen[2])
