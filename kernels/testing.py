"""How an implementation is judged: inputs, error budgets, and the check of a selection. Tests and the harness share it.

The budget of a tensor is twice the error that plain PyTorch makes on the same inputs in the same dtype, plus rounding;
both errors are measured against the fp64 reference (the rule of flash-attention's tests). Errors are measured twice:
over the whole tensor, and on its worst row, so that one wrong token among many cannot hide.

Selections are judged by the scores of what was chosen, never by ids: near-ties may go either way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from kernels import eager, reference
from kernels.layout import BlockLayout
from kernels.segments import compressed_segments

# Scores of fp32 kernels differ from fp64 by rounding of logits, exp2 and LSE; a wrong block differs by far more.
SELECTION_TOLERANCE = 1e-4
# A row's rounding errors need not average out as a tensor's do.
_WORST_ROW_ROUNDINGS = 4.0
# A gradient this small beside the upstream gradient is zero in exact arithmetic.
_VANISHING = 1e-12
# Sums in another order and exponentials of rounded logits: what fp32 arithmetic leaves open, whatever the inputs.
_FP32_ARITHMETIC = 4 * torch.finfo(torch.float32).eps


@dataclass(frozen=True, eq=False)
class Inputs:
    """The six tensors of the operator. Legend: N tokens, H heads, Hkv kv heads, D head dim."""

    q: Tensor  # [N, H, D]
    k: Tensor  # [N, Hkv, D]
    v: Tensor  # [N, Hkv, D]
    k_cmp: Tensor  # [M_cmp, Hkv, D]
    v_cmp: Tensor  # [M_cmp, Hkv, D]
    gates: Tensor  # [N, 3], in (0, 1)

    @classmethod
    def random(
        cls,
        layout: BlockLayout,
        *,
        heads: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> Inputs:
        """Standard normal tensors (gates: their sigmoid), drawn on the CPU: the same numbers on every machine."""
        generator = torch.Generator().manual_seed(seed)
        tokens, blocks = layout.num_tokens, layout.compression_coords.shape[0]

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float32)

        return cls(
            q=normal(tokens, heads, head_dim).to(device, dtype),
            k=normal(tokens, kv_heads, head_dim).to(device, dtype),
            v=normal(tokens, kv_heads, head_dim).to(device, dtype),
            k_cmp=normal(blocks, kv_heads, head_dim).to(device, dtype),
            v_cmp=normal(blocks, kv_heads, head_dim).to(device, dtype),
            gates=normal(tokens, 3).sigmoid().to(device, dtype),
        )

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        return self.q, self.k, self.v, self.k_cmp, self.v_cmp, self.gates

    def leaves(self, dtype: torch.dtype | None = None) -> Inputs:
        """Detached copies that require gradients, in another dtype if given."""
        return Inputs(*(x.detach().to(dtype or x.dtype).clone().requires_grad_() for x in self.tensors()))


def random_layout(
    lengths: Sequence[int], *, resolution: int = 16, device: torch.device | str = "cpu", seed: int = 0, **blocks: int
) -> BlockLayout:
    """A batch with ``lengths[b]`` random voxels in sample b. `blocks`: block sides of `BlockLayout.from_coords`."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.arange(resolution, dtype=torch.int32)
    grid = torch.cartesian_prod(axis, axis, axis)
    coords = torch.cat([grid[torch.randperm(len(grid), generator=generator)[:length]] for length in lengths])
    batch = torch.repeat_interleave(torch.arange(len(lengths), dtype=torch.int32), torch.tensor(lengths))
    return BlockLayout.from_coords(coords, batch, resolution=resolution, batch_size=len(lengths), **blocks).to(device)


INPUT_NAMES = tuple(field.name for field in fields(Inputs))


@dataclass(frozen=True)
class Comparison:
    """Relative error of one tensor against the oracle, and what is allowed."""

    name: str
    error: float
    budget: float

    @property
    def passed(self) -> bool:
        return self.error <= self.budget  # false for NaN


Forward = Callable[[Inputs], Tensor]


def a_few_rows_at_a_time(
    forward: Callable[[Inputs, Tensor | None], Tensor], rows: Tensor | None, at_most: int | None
) -> Forward:
    """`forward` on groups of rows, each computed again in backward: its memory is that of one group.

    Args:
        forward: inputs and rows int64 [R] or None for all -> o of these rows.
        rows: of the result.
        at_most: rows in a group; None: all in one.
    """
    if rows is None or at_most is None or len(rows) <= at_most:
        return lambda x: forward(x, rows)
    groups = rows.split(at_most)
    return lambda x: torch.cat([checkpoint(forward, x, group, use_reentrant=False) for group in groups])


def compare(
    candidate: Forward,
    plain: Forward,
    oracle: Forward,
    inputs: Inputs,
    names: Sequence[str] = INPUT_NAMES,
    rows: Tensor | None = None,
) -> list[Comparison]:
    """Output and gradients of `candidate` against `oracle` in fp64, within the error budget set by `plain`.

    Args:
        candidate: inputs -> o [N, H, D].
        plain: inputs -> o of the `rows` only, [R, H, D], by PyTorch in the dtype under test.
        oracle: fp64 inputs -> o of the `rows` only.
        names: inputs whose gradients are compared.
        rows: int64 [R]; the upstream gradient is zero elsewhere, so all gradients are exact on a sample of rows.
    """
    wide = inputs.leaves(torch.float64)
    expected = oracle(wide)
    generator = torch.Generator().manual_seed(0)
    upstream = torch.randn(expected.shape, generator=generator).to(inputs.q)
    expected_grads = torch.autograd.grad(expected, [getattr(wide, name) for name in names], upstream.double())
    expected = expected.detach()
    del wide  # 8 GiB for a million tokens

    def run(forward: Forward, *, all_rows: bool) -> list[Tensor]:
        leaves = inputs.leaves()
        o = forward(leaves)
        do = torch.zeros_like(o).index_copy(0, rows, upstream) if all_rows and rows is not None else upstream
        grads = torch.autograd.grad(o, [getattr(leaves, name) for name in names], do)
        return [o.detach()[rows] if all_rows and rows is not None else o.detach(), *grads]

    results = []
    # Rounding to nearest has an RMS of about a quarter of the spacing at most.
    rounding = torch.finfo(inputs.q.dtype).eps / 4 + _FP32_ARITHMETIC
    tensors = ["o", *(f"d{name}" for name in names)]
    reached_all, allowed_all = run(candidate, all_rows=True), run(plain, all_rows=False)
    for name, reached, allowed, truth in zip(
        tensors, reached_all, allowed_all, [expected, *expected_grads], strict=True
    ):
        unit = 1.0
        if truth.norm() <= _VANISHING * upstream.double().norm():
            # Terms of the upstream's size that cancel exactly (a token with one key): what is left is rounding of them.
            truth, unit = torch.zeros_like(truth), max(upstream.double().norm().item(), torch.finfo(torch.float64).tiny)
        for label, error, roundings in (
            (name, relative_error, 1.0),
            (f"{name}, worst row", worst_row_error, _WORST_ROW_ROUNDINGS),
        ):
            budget = 2 * error(allowed, truth) / unit + roundings * rounding
            results.append(Comparison(label, error(reached, truth) / unit, budget))
    return results


def compare_ssa(
    candidate: Forward,
    blocks: Tensor,
    inputs: Inputs,
    layout: BlockLayout,
    *,
    plain: str,
    scale: float | None = None,
    rows: Tensor | None = None,
    rows_at_a_time: int | None = None,
) -> list[Comparison]:
    """The whole operator against the fp64 reference on equal selections.

    Args:
        candidate: inputs -> o [N, H, D].
        blocks: int32 [Hkv, N, S], what the candidate selects.
        plain: implementation that sets the budget: "eager", or "reference" where the candidate is `eager` itself.
        rows: int64 [R], sorted; None: all.
        rows_at_a_time: as many of `rows` the reference computes together; None: all.
    """
    row_blocks = blocks if rows is None else blocks[:, rows]

    def reference_rows(x: Inputs, some: Tensor | None) -> Tensor:
        chosen = blocks if some is None else blocks[:, some]
        return reference.spatial_sparse_attention(
            *x.tensors(), layout, topk=blocks.shape[2], scale=scale, rows=some, block_indices=chosen
        )

    by_reference = a_few_rows_at_a_time(reference_rows, rows, rows_at_a_time)

    def by_eager(x: Inputs) -> Tensor:
        factor = 1 / math.sqrt(x.q.shape[2]) if scale is None else scale
        q, gates, cu_seqlens = x.q, x.gates, layout.cu_seqlens
        o_win = eager.window_attention(q, x.k, x.v, layout, scale=factor)
        # Queries that no gradient comes back to are left out where they are most of the work.
        if rows is not None:
            q, gates, o_win = q[rows], gates[rows], o_win[rows]
            cu_seqlens = torch.searchsorted(rows, cu_seqlens.to(rows), out_int32=True)
        segments = compressed_segments(cu_seqlens, layout.cu_compression)
        o_cmp, _ = eager.segment_attention(q, x.k_cmp, x.v_cmp, segments, factor)
        o_slc = eager.selected_attention(q, x.k, x.v, row_blocks, layout, scale=factor)
        g_cmp, g_slc, g_win = gates[:, :, None, None].unbind(1)
        return g_cmp * o_cmp + g_slc * o_slc + g_win * o_win

    return compare(candidate, by_eager if plain == "eager" else by_reference, by_reference, inputs, rows=rows)


def relative_error(x: Tensor, truth: Tensor) -> float:
    """||x - truth|| / ||truth||; the absolute error where the truth is zero, NaN where x has one."""
    error, norm = (x.double() - truth).norm().item(), truth.norm().item()
    return error / norm if norm > 0 else error


def worst_row_error(x: Tensor, truth: Tensor) -> float:
    """Largest row error over the RMS norm of the truth's rows that are not zero; NaN where x has one.

    Rows of zeros are left out of the norm: on a sample of rows most gradients are zero, and would make it tiny.
    """
    if truth.shape[0] == 0:
        return 0.0
    error = (x.double() - truth).flatten(1).norm(dim=1).max().item()
    norms = truth.flatten(1).norm(dim=1)
    norm = (norms.square().sum() / (norms > 0).sum().clamp(min=1)).sqrt().item()
    return error / norm if norm > 0 else error


def selection_errors(block_indices: Tensor, scores: Tensor) -> int:
    """Rows whose chosen blocks break a rule.

    The rules: ids are in range, of the token's sample and not repeated; padding comes last and only where blocks run
    out; scores do not increase along the row; no block left out scores higher than the worst one chosen. Scores are
    compared with `SELECTION_TOLERANCE` relative to the better one.

    Args:
        block_indices: int32 [Hkv, R, S]. scores: fp64 [Hkv, R, M] of `reference.block_scores` (-1: other sample).
    """
    slots, blocks = block_indices.shape[2], scores.shape[2]
    used = block_indices >= 0
    in_range = (block_indices >= -1) & (block_indices < blocks)
    chosen = scores.gather(2, block_indices.clamp(0, max(blocks - 1, 0)).long())
    chosen = torch.where(used, chosen, 0.0)
    available = (scores >= 0).sum(2).clamp(max=slots)
    bad = ~in_range.all(2) | (used & (chosen < 0)).any(2)
    bad |= used.sum(2) != available
    bad |= (used[..., 1:] & ~used[..., :-1]).any(2)
    ids = torch.where(used, block_indices, -1 - torch.arange(slots, device=used.device, dtype=torch.int32))
    ordered = ids.sort(dim=2).values
    bad |= (ordered[..., 1:] == ordered[..., :-1]).any(2)
    bad |= (used[..., 1:] & (chosen[..., 1:] > chosen[..., :-1] * (1 + SELECTION_TOLERANCE))).any(2)
    worst = torch.where(used, chosen, torch.inf).amin(2)
    # Padding and ids out of range mark an extra column, so that they hide no block that was left out.
    marked = torch.where(used & in_range, block_indices, blocks).long()
    best_left_out = torch.nn.functional.pad(scores, (0, 1), value=-1.0).scatter(2, marked, -1.0).amax(2)
    bad |= (used.sum(2) == slots) & (best_left_out > worst * (1 + SELECTION_TOLERANCE))
    return int(bad.sum())
