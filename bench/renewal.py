"""Values that change while a call is timed, so that nobody is fast by remembering.

Sampling is split into blocks. The first has the recorded inputs; each later one has fresh values on the same tokens,
written into the same memory, so that a result kept by address is stale: random inputs are drawn anew on the device;
captured ones get their features permuted and half of them negated, queries with keys and values on their own, which
keeps every statistic, score and selection but changes every result. The upstream gradient is always drawn anew.

Between samples the sign of random features changes, of what the result depends on linearly: a result kept by content
is not found again, and a stale one is wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.providers import Problem
from kernels.testing import INPUT_NAMES, Inputs

BLOCKS = 3


class Renewal:
    """A working set of inputs and upstream gradient beside a problem's own."""

    def __init__(self, problem: Problem, upstream: Tensor) -> None:
        """
        Args:
            upstream: gradient of the output in the first block, [N, H, D].
        """
        self.problem, self._first_upstream = problem, upstream
        self.upstream = upstream.clone()
        self.inputs = Inputs(*(x.clone() for x in problem.inputs.tensors()))
        # What is prepared from the values, such as the selection, is kept apart for each block.
        self._blocks = [dataclasses.replace(problem, inputs=self.inputs, _prepared={}) for _ in range(BLOCKS)]
        self._signs = torch.Generator(problem.device).manual_seed(problem.workload.seed)
        self._rows = torch.Generator().manual_seed(problem.workload.seed)

    def load(self, block: int) -> Problem:
        """Write the values of a block, the same in every call; the problem that has them."""
        generator = torch.Generator(self.problem.device).manual_seed(self.problem.workload.seed + block)
        if block == 0:
            self._write(self.problem.inputs)
            self.upstream.copy_(self._first_upstream)
        else:
            if self.problem.workload.captured is None:
                for name in INPUT_NAMES:
                    drawn = getattr(self.inputs, name).normal_(generator=generator)
                    if name == "gates":
                        drawn.sigmoid_()
            else:
                self._write(_other_basis(self.problem.inputs, generator))
            self.upstream.normal_(generator=generator)
        return self._blocks[block]

    def flip(self, names: Sequence[str]) -> None:
        """Negate random features of the tensors, the same in all of them ("upstream" or names of inputs)."""
        for position, x in enumerate(self._named(names)):
            if position == 0:
                signs = _signs(x, self._signs)
            x.mul_(signs)

    def touch(self, names: Sequence[str]) -> None:
        """Negate one random row of each tensor: other content, but hardly any of it moves through the caches."""
        for x in self._named(names):
            x[int(torch.randint(len(x), (), generator=self._rows))].neg_()

    def _named(self, names: Sequence[str]) -> list[Tensor]:
        return [self.upstream if name == "upstream" else getattr(self.inputs, name) for name in names]

    def _write(self, values: Inputs) -> None:
        for target, source in zip(self.inputs.tensors(), values.tensors(), strict=True):
            target.copy_(source)


def _signs(x: Tensor, generator: torch.Generator) -> Tensor:
    """[D] of the tensor's dtype: plus or minus one for each feature."""
    return torch.randint(0, 2, x.shape[-1:], generator=generator, device=x.device).mul_(2).sub_(1).to(x)


def _other_basis(x: Inputs, generator: torch.Generator) -> Inputs:
    """The same attention with its features in another order and half of them negated."""

    def renamed(*tensors: Tensor) -> list[Tensor]:
        features = tensors[0].shape[-1]
        order = torch.randperm(features, generator=generator, device=tensors[0].device)
        signs = _signs(tensors[0], generator)
        return [tensor[..., order] * signs for tensor in tensors]

    q, k, k_cmp = renamed(x.q, x.k, x.k_cmp)
    v, v_cmp = renamed(x.v, x.v_cmp)
    return Inputs(q, k, v, k_cmp, v_cmp, x.gates)
