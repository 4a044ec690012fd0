"""What the backward of segment attention needs of each query row: its LSE and delta = rowsum(dO * o).

The gate g of a branch goes into its LSE: the branch's gradient is g dO, and both of what the kernels compute,
dV = p^T (g dO) and dS = p (g dO V^T - g delta), are those of dO with g p = exp(score - (LSE - log g)) in p's place.
So no branch needs a gradient of its own, and the gates cost the kernels nothing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.triton.configs import padded
from kernels.triton.primitives import LOG2E, load_rows


@triton.jit
def _store_terms(
    gradient,  # fp32 [BLOCK_H, BLOCK_D]
    kept,  # [N, H, D]
    unit,  # of `kept`
    lse,  # [N, H], in `lse_dtype`
    gates,  # [N, 3], with GATED
    dgates,  # [N, 3], with GATED
    terms,  # [N, H, 2], as lse
    token,
    head,
    mask,
    COLUMN: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row = token * H
    delta = tl.sum(gradient * load_rows(kept, row, head, mask, True, D, BLOCK_D).to(tl.float32), 1) * unit
    row_lse = tl.load(lse + row + head, mask=mask)
    if kept.dtype.element_ty != tl.float32:
        row_lse *= LOG2E  # see `score_factor`
    if GATED:
        column = token * 3 + COLUMN
        tl.store(dgates + column, tl.sum(delta).to(dgates.dtype.element_ty))
        row_lse -= tl.log2(tl.load(gates + column).to(tl.float32))
    out = terms + (row + head) * 2
    tl.store(out, row_lse, mask=mask)
    tl.store(out + 1, delta, mask=mask)


@triton.jit
def _gradient_terms_kernel(
    do,  # [N, H, D]
    kept,  # [N, H, D]; with GATED the compressed branch's
    lse,  # [N, H], natural, in `lse_dtype`
    terms,  # [N, H, 2], as lse
    kept_slc,  # these and what follows with GATED
    lse_slc,
    terms_slc,
    kept_win,
    lse_win,
    terms_win,
    gates,  # [N, 3]
    dgates,  # [N, 3]
    units,  # fp32 [1], or [2]: of v and v_cmp
    H: tl.constexpr,
    D: tl.constexpr,
    GATED: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, BLOCK_H)
    mask = head < H
    gradient = load_rows(do, token * H, head, mask, True, D, BLOCK_D).to(tl.float32)  # [BLOCK_H, BLOCK_D]
    unit = tl.load(units)
    if GATED:
        _store_terms(
            gradient, kept_slc, unit, lse_slc, gates, dgates, terms_slc, token, head, mask, 1, H, D, GATED, BLOCK_D
        )
        _store_terms(
            gradient, kept_win, unit, lse_win, gates, dgates, terms_win, token, head, mask, 2, H, D, GATED, BLOCK_D
        )
        unit = tl.load(units + 1)
    _store_terms(gradient, kept, unit, lse, gates, dgates, terms, token, head, mask, 0, H, D, GATED, BLOCK_D)


def gradient_terms(do: Tensor, kept: Tensor, unit: Tensor, lse: Tensor) -> Tensor:
    """[N, H, 2] in lse's dtype: the LSE, natural in fp32 and else in base 2, and delta of one branch.

    Args:
        do: [N, H, D], the gradient of the branch's output. kept: that output, in `unit` fp32 [1] (`kept_outputs`).
        lse: natural, [N, H], in `lse_dtype`.
    """
    return _gradient_terms(do, (kept,), unit, (lse,), None, None)[0]


def branch_gradients(
    do: Tensor,
    kept: tuple[Tensor, Tensor, Tensor],
    units: Tensor,
    lses: tuple[Tensor, Tensor, Tensor],
    gates: Tensor,
) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """What the backward of the three branches takes, whose gated sum has the gradient `do`; and dgates.

    Args:
        do: [N, H, D]. kept: of cmp, slc and win, each [N, H, D]. units: fp32 [2], of v and v_cmp (`kept_outputs`).
        lses: each natural, [N, H], in `lse_dtype`.
        gates: [N, 3]; not negative but in fp32.

    Returns:
        Of cmp, slc and win a gradient [N, H, D] and its terms, [N, H, 2]; and [N, 3] in gates' dtype.
    """
    if do.dtype != torch.float32:
        dgates = torch.empty_like(gates)
        return [(do, terms) for terms in _gradient_terms(do, kept, units, lses, gates, dgates)], dgates
    # In fp32 the logarithm of a gate would be one more rounding of every probability.
    branches, columns = [], []
    for output, lse, gate in zip(kept, lses, gates.unbind(1), strict=True):
        terms = gradient_terms(do, output, units, lse)  # in fp32 every unit is 1
        columns.append(terms[:, :, 1].sum(1).to(gates.dtype))
        terms[:, :, 1] *= gate[:, None]
        branches.append((do * gate[:, None, None], terms))
    return branches, torch.stack(columns, 1)


def _gradient_terms(
    do: Tensor,
    kept: tuple[Tensor, ...],
    units: Tensor,
    lses: tuple[Tensor, ...],
    gates: Tensor | None,
    dgates: Tensor | None,
) -> list[Tensor]:
    num_tokens, heads, head_dim = do.shape
    terms = [torch.empty(num_tokens, heads, 2, dtype=lse.dtype, device=do.device) for lse in lses]
    if num_tokens:
        branches = [tensor for branch in zip(kept, lses, terms, strict=True) for tensor in branch]
        absent = [None] * (9 - len(branches))
        _gradient_terms_kernel[(num_tokens,)](
            *(do, *branches, *absent, gates, dgates, units),
            H=heads,
            D=head_dim,
            GATED=gates is not None,
            BLOCK_H=padded(heads),
            BLOCK_D=padded(head_dim),
            num_warps=4,
        )
    return terms
