"""Correctness: every provider against an fp64 oracle, on all tokens or on a sample of them where there are many.

`check_provider` is the gate that a provider passes before it is timed; `run_checks` is the suite behind
`ssabench check`. Budgets are those of `kernels.testing`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import kernels
from bench.providers import Family, Problem, Provider, block_indices, get_provider, make_problem
from bench.records import Correctness, Shape, TensorError
from bench.workloads import make_tokens
from kernels import reference
from kernels.layout import BlockLayout
from kernels.testing import Comparison, Forward, Inputs, a_few_rows_at_a_time, compare, compare_ssa, selection_errors

# Elements of the oracle's fp64 scores [R, H, N] that a check may build; about six such arrays are alive in backward.
# On a GPU they may take a quarter of its memory: the more rows, the less it is left to chance which row is the worst.
_ORACLE_ELEMENTS = {"cpu": 2**25, "cuda": 2**28}
_ORACLE_ARRAYS = 6
_ORACLE_MEMORY_SHARE = 0.25
_FEWEST_ROWS, _MOST_ROWS = 32, 256
ORACLES: dict[Family, str] = {
    "ssa": "sparse attention on equal selections",
    "nsa": "sparse attention on equal selections",
    "dense": "dense attention",
    "packed": "attention between region means",
}


@dataclass(frozen=True)
class CheckResult:
    """What became of one check."""

    name: str
    correctness: Correctness | None  # None where it did not come to a comparison
    reason: str | None = None  # why it did not, in one sentence
    unavailable: bool = False  # the provider cannot run here; no failure

    @property
    def failed(self) -> bool:
        return not self.unavailable and (self.correctness is None or not self.correctness.passed)


@dataclass(frozen=True)
class Case:
    """A problem of the suite."""

    workload: str
    tokens: int
    heads: int
    kv_heads: int
    head_dim: int
    compression_block: int = 4
    window_shift: int = 0
    topk: int = 8

    def shape(self, dtype: str) -> Shape:
        return Shape(
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            dtype=dtype,  # type: ignore[arg-type]  # one of the literals below
            compression_block=self.compression_block,
            selection_block=8,
            window=8,
            window_shift=self.window_shift,
            topk=self.topk,
        )

    def name(self, provider: str, dtype: str) -> str:
        group = f"{self.heads} x {self.head_dim} / {self.kv_heads} kv"
        return f"{provider} {dtype}: {self.workload}, {self.tokens:,} tokens, {group}, m_cmp {self.compression_block}"


_QUICK = [
    Case("mesh:deer", 1024, 8, 2, 32),
    Case("gyroid", 777, 16, 1, 64, compression_block=8, window_shift=4),
]
_CASES = [
    *_QUICK,
    Case("sphere", 1500, 4, 4, 128, topk=200),  # more than there are blocks
    Case("mesh:plant", 640, 32, 1, 16, topk=3),
    Case("gyroid", 500, 6, 2, 48, window_shift=3),
    Case("gyroid", 1, 2, 1, 100),
]
# 131,072 tokens against the oracle on sampled rows.
_LARGE = [
    Case("gyroid", 131_072, 16, 1, 64),
    Case("gyroid", 131_072, 32, 2, 32),
    Case("mesh:deer", 131_072, 32, 2, 32, compression_block=8, window_shift=4),
]


def run_checks(
    device: torch.device | str, *, quick: bool = False, progress: Callable[[str, int, int], None] | None = None
) -> list[CheckResult]:
    """Check every SSA implementation and every baseline that can run on the device.

    Args:
        quick: two small problems instead of all.
        progress: called with what starts now, checks done, checks in all; once more at the end.
    """
    device = torch.device(device)
    planned = [
        (case, provider, dtype)
        for provider, dtype in _candidates(device)
        for case in _cases(device, provider, dtype, quick=quick)
    ]
    results = []
    for done, (case, provider, dtype) in enumerate(planned):
        name = case.name(provider.name, dtype)
        if progress is not None:
            progress(name, done, len(planned))
        tokens = make_tokens(case.workload, case.tokens, None)
        problem = make_problem(tokens, case.shape(dtype), device=device, seed=0)
        results.append(_check(name, provider, problem))
    if progress is not None:
        progress("done", len(planned), len(planned))
    return results


def _check(name: str, provider: Provider, problem: Problem) -> CheckResult:
    if reason := provider.unavailable(problem):
        return CheckResult(name, None, reason, unavailable=True)
    try:
        return CheckResult(name, check_provider(provider, provider.adapt(problem)))
    except Exception as error:  # a kernel may fail in any way; the others must still be checked
        message = (str(error).strip() or "no message").splitlines()[0]
        return CheckResult(name, None, f"{type(error).__name__}: {message}")


def _candidates(device: torch.device) -> list[tuple[Provider, str]]:
    if device.type == "cpu":
        names = [("ssa-eager", "float32"), ("ssa-triton", "float16"), ("ssa-triton", "float32")]
        names += [("nsa-eager", "float32"), ("dense-sdpa-cpu", "float32"), ("packed-sdpa-cpu", "float32")]
    else:
        names = [("ssa-triton", dtype) for dtype in ("bfloat16", "float16", "float32")]
        names += [("ssa-eager", "bfloat16"), ("nsa-triton", "bfloat16"), ("ssa-flex", "bfloat16")]
        kernels_of = ("sdpa-flash", "sdpa-cudnn", "sdpa-efficient", "flash-attn", "flash-attn-4", "flex")
        names += [(f"dense-{impl}", "bfloat16") for impl in kernels_of] + [("packed-sdpa-flash", "bfloat16")]
    return [(get_provider(name), dtype) for name, dtype in names]


def _cases(device: torch.device, provider: Provider, dtype: str, *, quick: bool) -> Sequence[Case]:
    if quick:
        return _QUICK
    if provider.family != "ssa":
        return _QUICK
    large = device.type == "cuda" and provider.name == "ssa-triton" and dtype == "bfloat16"
    return _CASES + _LARGE if large else _CASES


def check_provider(provider: Provider, problem: Problem) -> Correctness:
    """Output and all gradients of a provider against its oracle, and the selection where there is one.

    The oracle is exact attention of the provider's family in fp64: sparse attention for the blocks that the provider
    selects, dense attention, or dense attention between region means.
    """
    rows = _sampled_rows(problem)
    selection = None
    if provider.family in ("ssa", "nsa"):
        compared, selection = _check_sparse(provider, problem, rows)
    else:
        forward = oracle_forward(provider, problem, rows)
        compared = compare(
            lambda x: provider.forward(problem, x), forward, forward, problem.inputs, provider.grads, rows
        )
    tokens = problem.layout.num_tokens
    checked = "all" if rows is None else f"{len(rows)} sampled"
    return Correctness(
        passed=all(item.passed for item in compared) and not selection,
        oracle=f"fp64 {ORACLES[provider.family]}, {checked} of {tokens:,} tokens",
        tensors=[TensorError(name=item.name, error=item.error, budget=item.budget) for item in compared],
        selection_errors=selection,
    )


def oracle_forward(provider: Provider, problem: Problem, rows: Tensor | None) -> Forward:
    """Exact attention of the provider's family on the `rows` (None: all), for inputs in any dtype.

    Sparse attention is given the blocks that the provider selects for the problem's inputs.
    """
    layout = problem.layout
    blocks = None
    if provider.family in ("ssa", "nsa"):
        blocks = block_indices(problem, provider.selection_impl or "auto")

    def forward(x: Inputs, some: Tensor | None) -> Tensor:
        if provider.family == "dense":
            return reference.full_attention(x.q, x.k, x.v, layout, rows=some)
        if blocks is None:
            return _packed_oracle(x, layout, some)
        chosen = blocks if some is None else blocks[:, some]
        return reference.spatial_sparse_attention(
            *x.tensors(), layout, topk=problem.topk, rows=some, block_indices=chosen
        )

    return a_few_rows_at_a_time(forward, rows, rows_at_a_time(problem))


def _check_sparse(provider: Provider, problem: Problem, rows: Tensor | None) -> tuple[list[Comparison], int]:
    layout, inputs = problem.layout, problem.inputs
    blocks = kernels.select_blocks(
        inputs.q, inputs.k_cmp, layout, topk=problem.topk, impl=provider.selection_impl or "auto"
    )
    compared = compare_ssa(
        lambda x: provider.forward(problem, x),
        blocks,
        inputs,
        layout,
        plain="reference" if provider.selection_impl == "eager" else "eager",
        rows=rows,
        rows_at_a_time=rows_at_a_time(problem),
    )
    with torch.no_grad():
        scores = reference.block_scores(inputs.q.double(), inputs.k_cmp.double(), layout, rows=rows)
    return compared, selection_errors(blocks if rows is None else blocks[:, rows], scores)


def _packed_oracle(x: Inputs, layout: BlockLayout, rows: Tensor | None) -> Tensor:
    """Attention between the means of 2^3 regions, with regions found anew from the coordinates."""
    cells = torch.cat([layout.coords[:, :1], layout.coords[:, 1:] // 2], dim=1)
    regions, member = cells.unique(dim=0, return_inverse=True)

    def mean(tensor: Tensor) -> Tensor:
        total = tensor.new_zeros(len(regions), *tensor.shape[1:]).index_add(0, member, tensor)
        return total / member.bincount(minlength=len(regions))[:, None, None].to(tensor)

    q, k, v = mean(x.q), mean(x.k), mean(x.v)
    wanted = member if rows is None else member[rows]
    group = q.shape[1] // k.shape[1]
    scores = torch.einsum("nhd,mhd->nhm", q[wanted], k.repeat_interleave(group, dim=1)) / math.sqrt(q.shape[2])
    foreign = regions[wanted, 0][:, None] != regions[None, :, 0]
    probabilities = scores.masked_fill(foreign[:, None], -math.inf).softmax(-1)
    return torch.einsum("nhm,mhd->nhd", probabilities, v.repeat_interleave(group, dim=1))


def _oracle_elements(device: torch.device) -> int:
    most = _ORACLE_ELEMENTS[device.type]
    if device.type == "cpu":
        return most
    memory = torch.cuda.get_device_properties(device).total_memory
    return min(most, int(_ORACLE_MEMORY_SHARE * memory) // (8 * _ORACLE_ARRAYS))


def rows_at_a_time(problem: Problem) -> int:
    """As many rows as the oracle's memory allows, or one."""
    return max(1, _oracle_elements(problem.device) // max(1, problem.shape.heads * problem.layout.num_tokens))


def _sampled_rows(problem: Problem) -> Tensor | None:
    """int64 [R] sorted: first, last and random tokens, as many as the oracle does at a time or few; None for all."""
    tokens, at_a_time = problem.layout.num_tokens, rows_at_a_time(problem)
    if tokens <= max(at_a_time, _FEWEST_ROWS):
        return None
    count = max(_FEWEST_ROWS, min(_MOST_ROWS, at_a_time))
    generator = torch.Generator().manual_seed(problem.workload.seed)
    inner = torch.randperm(tokens - 2, generator=generator)[: count - 2] + 1
    return torch.cat([torch.tensor([0, tokens - 1]), inner]).sort().values.to(problem.device)
