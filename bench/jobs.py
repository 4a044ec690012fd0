"""The calls whose times are recorded: passes of a provider's whole operator and of its branches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.accounting import Cost, full_attention_costs, ssa_costs
from bench.providers import Problem, Provider, block_indices
from bench.records import Pass, Stage
from kernels.testing import Inputs

Forward = Callable[[Inputs], Tensor]


@dataclass(frozen=True)
class Job:
    """One thing to time: a pass of the operator or of a branch of it."""

    stage: Stage
    direction: Pass
    prepare: Callable[[Problem], Forward]  # given the problem with the values of the call: what earlier stages leave
    grads: tuple[str, ...]  # inputs that get a gradient
    cost: Cost

    @property
    def flipped(self) -> tuple[str, ...]:
        """Operands that may change between calls, for `bench.renewal.Renewal.flip`: what a call reads anew."""
        if self.direction == "bwd":
            return ("upstream",)
        operands = ("q", "k_cmp") if self.stage == "select" else ("v", "v_cmp")
        return operands if self.direction == "fwd" else (*operands, "upstream")

    def call(self, forward: Forward, inputs: Inputs, upstream: Tensor) -> Callable[[], dict[str, Tensor]]:
        """The callable whose time is the time of the pass; it returns "o" and the gradients, "dq" and so on.

        Args:
            forward: what `prepare` returned.
            inputs: of the call; a backward pass saves what it needs of them here, and its "o".
            upstream: gradient of the output, [N, H, D].
        """
        if self.direction == "fwd":

            def run_forward() -> dict[str, Tensor]:
                with torch.no_grad():
                    return {"o": forward(inputs)}

            return run_forward

        leaves = {name: getattr(inputs, name).detach().requires_grad_() for name in self.grads}
        differentiable = dataclasses.replace(inputs, **leaves)

        def gradients(o: Tensor, *, retain: bool) -> dict[str, Tensor]:
            found = torch.autograd.grad(o, tuple(leaves.values()), upstream, retain_graph=retain)
            return {"o": o.detach()} | {f"d{name}": grad for name, grad in zip(leaves, found, strict=True)}

        if self.direction == "fwd_bwd":
            return lambda: gradients(forward(differentiable), retain=False)
        o = forward(differentiable)
        return lambda: gradients(o, retain=True)


def operator_job(provider: Provider, problem: Problem, direction: Pass) -> Job:
    """A pass of the whole operator."""
    cost = provider.costs(problem)[direction]
    return Job("total", direction, lambda values: lambda x: provider.forward(problem, x), provider.grads, cost)


def branch_jobs(provider: Provider, problem: Problem, directions: Sequence[Pass]) -> list[Job]:
    """The passes of the provider's branches; none where it does not expose them."""
    branches = provider.branches
    if branches is None:
        return []

    def prepare(stage: Stage) -> Callable[[Problem], Forward]:
        return lambda values: branches(values)[stage].forward

    chosen = block_indices(problem, provider.selection_impl or "auto")
    costs = ssa_costs(problem.layout, chosen, problem.shape)
    return [
        Job(stage, direction, prepare(stage), branch.grads, costs[stage][direction])
        for stage, branch in branches(problem).items()
        for direction in directions
        if direction == "fwd" or (direction == "bwd" and branch.grads)
    ]


def dense_flops(problem: Problem, direction: Pass) -> float:
    """FLOPs of exact dense attention on the problem's tokens."""
    samples = problem.layout.cu_seqlens.diff().tolist()
    return full_attention_costs(problem.layout.num_tokens, samples, problem.shape)[direction].flops


def upstream_gradient(problem: Problem) -> Tensor:
    """The problem's random gradient of the output, drawn on the CPU so that it is the same on every machine."""

    def draw() -> Tensor:
        generator = torch.Generator().manual_seed(problem.workload.seed + 1)
        q = problem.inputs.q
        return torch.randn(q.shape, generator=generator).to(q)

    return problem.once("upstream", draw)
