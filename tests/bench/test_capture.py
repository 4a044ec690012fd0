"""Capture on a few hundred voxels: the model learns, and what is taken is what the operator got."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from small_shape import small_shape

import kernels
from bench.capture import LAYER, LAYERS, Capture, capture_inputs
from bench.captured import load_captured, save_captured
from bench.locality import locality
from bench.providers import Problem, make_problem
from bench.workloads import make_tokens
from kernels.testing import Inputs

SHAPE = small_shape()


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter would take a minute a step."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def short(**changes: Any) -> Capture:
    arguments = {"spec": "mesh:deer", "tokens": 300, "shape": SHAPE, "device": "cpu", "steps": 3}
    return capture_inputs(**(arguments | changes))


def same(ours: Inputs, theirs: Inputs) -> bool:
    return all(torch.equal(x, y) for x, y in zip(ours.tensors(), theirs.tensors(), strict=True))


def test_the_model_learns_and_its_inputs_make_a_file(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    made = short(steps=30, progress=lambda *step: steps.append(step))
    assert made.last_loss < 0.9 * made.first_loss
    assert (steps[0][1:], steps[-1]) == ((0, 30), ("done", 30, 30))
    assert steps[1][0].startswith("training, loss ")

    path = tmp_path / "deer.safetensors"
    save_captured(path, made.tokens, made.layout, made.inputs, made.source)
    captured = load_captured(path)
    assert "layer 3 of 4 of a transformer of width 64 at t = 0.5, trained for 30 steps (seed 0)" in captured.source
    assert same(make_problem(captured, SHAPE, device="cpu", seed=0).inputs, made.inputs)


def test_what_is_captured_is_what_the_operator_received(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[tuple[torch.Tensor, ...]] = []
    operator = kernels.spatial_sparse_attention

    def spy(*arguments: Any, **options: Any) -> torch.Tensor:
        received.append(arguments[:6])
        return operator(*arguments, **options)

    monkeypatch.setattr(kernels, "spatial_sparse_attention", spy)
    made = short()
    assert len(received) == LAYERS * (3 + 1)
    assert same(Inputs(*received[-LAYERS:][LAYER]), made.inputs)
    assert not any(x.requires_grad for x in made.inputs.tensors())


def test_summaries_are_means_over_compression_blocks() -> None:
    """With blocks of one voxel the mean is of one token, so a summary hangs on its own token alone."""
    single = short(shape=SHAPE.model_copy(update={"compression_block": 1}))
    assert single.inputs.v_cmp.shape == single.inputs.v.shape
    assert short().inputs.v_cmp.shape[0] == short().layout.compression_coords.shape[0] < 300


def test_the_seed_decides_everything_and_the_global_one_is_left_alone() -> None:
    state = torch.random.get_rng_state()
    first, again, other = short(), short(), short(seed=1)
    assert same(first.inputs, again.inputs)
    assert first.last_loss == again.last_loss
    assert not torch.equal(first.inputs.q, other.inputs.q)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_inputs_have_the_dtype_of_the_shape() -> None:
    made = short(shape=SHAPE.model_copy(update={"dtype": "bfloat16"}))
    assert {x.dtype for x in made.inputs.tensors()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"spec": "gyroid"},
            "capture needs the surface of a mesh: workload must be mesh:NAME or mesh:PATH, got 'gyroid'",
        ),
        ({"spec": "mesh:"}, "got 'mesh:'"),
        ({"spec": "mesh:unicorn"}, "no mesh 'unicorn'"),
        ({"steps": 0}, "steps must be positive, got 0"),
        ({"tokens": 0}, "tokens must be between 1 and"),
    ],
)
def test_what_cannot_be_captured_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        short(**changes)


class TestLocality:
    """Selections set by hand."""

    @pytest.fixture
    def problem(self) -> Problem:
        return make_problem(make_tokens("mesh:deer", 300), SHAPE, device="cpu", seed=0)

    def choose(self, problem: Problem, chosen: torch.Tensor) -> None:
        problem.once("block_indices auto", lambda: chosen.int())

    def test_tokens_that_choose_their_own_block_are_local(self, problem: Problem) -> None:
        sizes = problem.layout.selection_offsets.diff()
        own = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        chosen = torch.stack([own, torch.full_like(own, -1)], dim=1)
        self.choose(problem, chosen.expand(2, -1, -1))
        found = locality(problem)
        assert (found.own, found.distance) == (1.0, 0.0)
        assert found.skew == pytest.approx(sizes.max().item() / sizes.double().mean().item())

    def test_one_popular_block_is_far_from_most(self, problem: Problem) -> None:
        blocks = problem.layout.selection_coords[:, 1:]
        sizes = problem.layout.selection_offsets.diff()
        self.choose(problem, torch.zeros(2, 300, 1))
        found = locality(problem)
        steps = (blocks - blocks[0]).abs().amax(1)
        assert found.own == pytest.approx(sizes[0].item() / 300)
        assert found.distance == pytest.approx((steps * sizes).sum().item() / 300)
        assert found.skew == pytest.approx(len(blocks))
