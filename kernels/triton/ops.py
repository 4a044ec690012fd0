"""The Triton kernels as torch operators: fake (meta) and autograd registrations, so that torch.compile, opcheck,
activation checkpointing and autocast see ordinary operators.

Layouts cross the operator boundary as their index tensors. Gradients flow to q, k, v, k_cmp, v_cmp and gates; the LSEs
and the selection carry none.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from kernels.layout import BlockLayout
from kernels.segments import (
    Segments,
    compressed_segments,
    selected_segments,
    selection_parts,
    window_segments,
)
from kernels.triton import hopper, select
from kernels.triton.centred_keys import centred
from kernels.triton.gradient_terms import branch_gradients, gradient_terms
from kernels.triton.kept_outputs import in_units, kept_dtype, lse_dtype
from kernels.triton.segment_backward import segment_dq
from kernels.triton.segment_dkv import segment_dkv
from kernels.triton.segment_forward import segment_forward
from kernels.triton.slots import merge_slots, sum_slots

_Grads = tuple[Tensor | None, ...]


def compressed_attention(
    q: Tensor, k_cmp: Tensor, v_cmp: Tensor, layout: BlockLayout, *, scale: float
) -> tuple[Tensor, Tensor]:
    """o [N, H, D] and its natural-log LSE fp32 [N, H]."""
    segments = compressed_segments(layout.cu_seqlens, layout.cu_compression)
    o, lse = _segments_op(q, k_cmp, v_cmp, segments, None, scale)
    return o, lse.float()


def select_blocks(q: Tensor, k_cmp: Tensor, lse: Tensor, layout: BlockLayout, *, topk: int, scale: float) -> Tensor:
    """int32 [Hkv, N, S]: best-scored selection blocks, best first, ties to the lower id, padded with -1."""
    return _select_blocks(q, k_cmp, lse, *_selection_tensors(layout), layout.compression_per_selection, topk, scale)


def selected_attention(
    q: Tensor, k: Tensor, v: Tensor, block_indices: Tensor, layout: BlockLayout, *, scale: float
) -> Tensor:
    """o [N, H, D] of each token against the tokens of its selected blocks."""
    segments = selected_segments(block_indices, layout.selection_offsets, selection_parts(q, block_indices.shape[2]))
    return _segments_op(q, k, v, segments, block_indices, scale)[0]


def window_attention(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, *, scale: float) -> Tensor:
    """o [N, H, D] of each token against the tokens of its window."""
    return _segments_op(q, k, v, window_segments(layout.window_order, layout.window_offsets), None, scale)[0]


def spatial_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_cmp: Tensor,
    v_cmp: Tensor,
    gates: Tensor,
    layout: BlockLayout,
    *,
    topk: int,
    scale: float,
) -> Tensor:
    """o [N, H, D]: the gated sum of the three branches, one operator forward and one backward."""
    return _spatial_sparse_attention(
        *(q, k, v, k_cmp, v_cmp, gates),
        *_selection_tensors(layout),
        *(layout.selection_offsets, layout.window_order, layout.window_offsets),
        *(layout.compression_per_selection, topk, scale),
    )[0]


def _selection_tensors(layout: BlockLayout) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return layout.cu_seqlens, layout.cu_compression, layout.cu_selection, layout.selection_compression


def _segments_op(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, block_indices: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    o, _kept, lse, _unit = _segment_attention(
        *(q, k, v, segments.query_slots, segments.query_offsets, segments.key_index, segments.key_offsets),
        *(block_indices, scale),
    )
    return o, lse


def _on_device(x: Tensor) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be the tensor's."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _segments(
    query_slots: Tensor | None,
    query_offsets: Tensor,
    key_index: Tensor | None,
    key_offsets: Tensor,
    block_indices: Tensor | None,
) -> Segments:
    slots = 1 if block_indices is None else block_indices.shape[2]
    return Segments(query_slots, query_offsets, key_index, key_offsets, slots)


@torch.library.custom_op("ssabench::select_blocks", mutates_args=())
def _select_blocks(
    q: Tensor,
    k_cmp: Tensor,
    lse: Tensor,
    cu_seqlens: Tensor,
    cu_compression: Tensor,
    cu_selection: Tensor,
    selection_compression: Tensor,
    nested: int,
    topk: int,
    scale: float,
) -> Tensor:
    with _on_device(q):
        return select.select_blocks(
            *(q.contiguous(), k_cmp.contiguous(), lse.contiguous(), cu_seqlens, cu_compression, cu_selection),
            *(selection_compression, nested, topk, scale),
        )


@_select_blocks.register_fake
def _select_blocks_fake(
    q: Tensor,
    k_cmp: Tensor,
    lse: Tensor,
    cu_seqlens: Tensor,
    cu_compression: Tensor,
    cu_selection: Tensor,
    selection_compression: Tensor,
    nested: int,
    topk: int,
    scale: float,
) -> Tensor:
    return q.new_empty(k_cmp.shape[1], q.shape[0], topk, dtype=torch.int32)


@torch.library.custom_op("ssabench::segment_attention", mutates_args=())
def _segment_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_slots: Tensor | None,
    query_offsets: Tensor,
    key_index: Tensor | None,
    key_offsets: Tensor,
    block_indices: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """o; o as it is kept for backward, LSE, unit."""
    segments = _segments(query_slots, query_offsets, key_index, key_offsets, block_indices)
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    with _on_device(q):
        (v,), unit = in_units(v)
        o = torch.empty_like(q)
        if block_indices is None:
            kept, lse = segment_forward(q, k, v, segments, scale, output=(o, unit))
        else:
            kept, lse = _selected_forward(q, k, v, segments, block_indices.contiguous(), scale, unit, o)
    return o, kept, lse, unit


def _selected_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments,
    block_indices: Tensor,
    scale: float,
    units: Tensor,
    o: Tensor,
    branches: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Kept output and LSE of the selected branch, v being in units.

    `units`, `o` and `branches` as `merge_slots` takes them.
    """
    kept = torch.empty(q.shape, dtype=kept_dtype(q.dtype), device=q.device)
    lse = torch.empty(q.shape[:2], dtype=lse_dtype(q.dtype), device=q.device)
    if hopper.supported(q, k, v):
        v = v.to(q.dtype)  # for the Gluon kernel, once and not once a part
    for part in range(segments.parts):
        kept_part, lse_part = segment_forward(q, k, v, segments, scale, part)
        tokens = segments.token_range(part, q.shape[0])
        merge_slots(kept_part, lse_part, block_indices, tokens, units, kept, lse, o, branches)
        del kept_part, lse_part  # before the next part's
    return kept, lse


@_segment_attention.register_fake
def _segment_attention_fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_slots: Tensor | None,
    query_offsets: Tensor,
    key_index: Tensor | None,
    key_offsets: Tensor,
    block_indices: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        *(q.new_empty(q.shape), q.new_empty(q.shape, dtype=kept_dtype(q.dtype))),
        *(q.new_empty(q.shape[:2], dtype=lse_dtype(q.dtype)), q.new_empty(1, dtype=torch.float32)),
    )


@torch.library.custom_op("ssabench::segment_attention_backward", mutates_args=())
def _segment_attention_backward(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kept: Tensor,
    lse: Tensor,
    unit: Tensor,
    query_slots: Tensor | None,
    query_offsets: Tensor,
    key_index: Tensor | None,
    key_offsets: Tensor,
    block_indices: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    segments = _segments(query_slots, query_offsets, key_index, key_offsets, block_indices)
    q, k, v, do = (x.contiguous() for x in (q, k, v, do))
    with _on_device(q):
        terms = gradient_terms(do, kept, unit, lse)
        dk, dv = segment_dkv(do, q, k, v, terms, segments, scale)
        if block_indices is None:
            dq = segment_dq(do, q, k, v, terms, segments, scale)
        else:
            dq = torch.empty_like(q)
            _selected_dq(do, q, k, v, terms, segments, block_indices.contiguous(), scale, dq)
    return dq, dk.to(k.dtype), dv.to(v.dtype)


def _selected_dq(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    terms: Tensor,
    segments: Segments,
    block_indices: Tensor,
    scale: float,
    dq: Tensor,
    dq_win: Tensor | None = None,
) -> None:
    """Fills `dq`, or adds to it: see `sum_slots`."""
    for part in range(segments.parts):
        dq_part = segment_dq(do, q, k, v, terms, segments, scale, part)
        sum_slots(dq_part, block_indices, segments.token_range(part, q.shape[0]), dq, dq_win)
        del dq_part  # before the next part's


@_segment_attention_backward.register_fake
def _segment_attention_backward_fake(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kept: Tensor,
    lse: Tensor,
    unit: Tensor,
    query_slots: Tensor | None,
    query_offsets: Tensor,
    key_index: Tensor | None,
    key_offsets: Tensor,
    block_indices: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _segment_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, v, query_slots, query_offsets, key_index, key_offsets, block_indices, scale = inputs
    ctx.save_for_backward(q, k, v, *output[1:], query_slots, query_offsets, key_index, key_offsets, block_indices)
    ctx.scale = scale
    ctx.set_materialize_grads(False)  # else the outputs that carry no gradient get tensors of zeros
    ctx.mark_non_differentiable(*output[1:])


def _segment_grad(ctx: Any, do: Tensor, *_unused: Tensor | None) -> _Grads:
    dq, dk, dv = _segment_attention_backward(do, *ctx.saved_tensors, ctx.scale)
    return dq, dk, dv, None, None, None, None, None, None


_segment_attention.register_autograd(_segment_grad, setup_context=_segment_setup)


@torch.library.custom_op("ssabench::spatial_sparse_attention", mutates_args=())
def _spatial_sparse_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_cmp: Tensor,
    v_cmp: Tensor,
    gates: Tensor,
    cu_seqlens: Tensor,
    cu_compression: Tensor,
    cu_selection: Tensor,
    selection_compression: Tensor,
    selection_offsets: Tensor,
    window_order: Tensor,
    window_offsets: Tensor,
    nested: int,
    topk: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """o; kept outputs of cmp, slc and win; LSEs of these; units of v and v_cmp; block_indices; query_slots,
    query_offsets of the selection.
    """
    q, k, v, k_cmp, v_cmp, gates = (x.contiguous() for x in (q, k, v, k_cmp, v_cmp, gates))
    with _on_device(q):
        k, k_cmp = centred(k), centred(k_cmp)
        compressed = compressed_segments(cu_seqlens, cu_compression)
        (v, v_cmp), units = in_units(v, v_cmp)
        kept_cmp, lse_cmp = segment_forward(q, k_cmp, v_cmp, compressed, scale)
        window = window_segments(window_order, window_offsets)
        kept_win, lse_win = segment_forward(q, k, v, window, scale)
        block_indices = select.select_blocks(
            *(q, k_cmp, lse_cmp.float(), cu_seqlens, cu_compression, cu_selection, selection_compression),
            *(nested, topk, scale),
        )
        selected = selected_segments(block_indices, selection_offsets, selection_parts(q, topk))
        o = torch.empty_like(q)
        branches = (kept_cmp, kept_win, gates)
        kept_slc, lse_slc = _selected_forward(q, k, v, selected, block_indices, scale, units, o, branches)
    assert selected.query_slots is not None
    return (
        *(o, kept_cmp, kept_slc, kept_win, lse_cmp, lse_slc, lse_win, units),
        *(block_indices, selected.query_slots, selected.query_offsets),
    )


@_spatial_sparse_attention.register_fake
def _spatial_sparse_attention_fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_cmp: Tensor,
    v_cmp: Tensor,
    gates: Tensor,
    cu_seqlens: Tensor,
    cu_compression: Tensor,
    cu_selection: Tensor,
    selection_compression: Tensor,
    selection_offsets: Tensor,
    window_order: Tensor,
    window_offsets: Tensor,
    nested: int,
    topk: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    num_tokens, kv_heads = q.shape[0], k.shape[1]
    kept_cmp, kept_slc, kept_win = (q.new_empty(q.shape, dtype=kept_dtype(q.dtype)) for _ in range(3))
    lse_cmp, lse_slc, lse_win = (q.new_empty(q.shape[:2], dtype=lse_dtype(q.dtype)) for _ in range(3))
    return (
        *(q.new_empty(q.shape), kept_cmp, kept_slc, kept_win, lse_cmp, lse_slc, lse_win),
        q.new_empty(2, dtype=torch.float32),
        q.new_empty(kv_heads, num_tokens, topk, dtype=torch.int32),
        q.new_empty(kv_heads, num_tokens * topk, dtype=torch.int32),
        q.new_empty(selection_parts(q, topk), kv_heads, selection_offsets.shape[0], dtype=torch.int32),
    )


@torch.library.custom_op("ssabench::spatial_sparse_attention_backward", mutates_args=())
def _spatial_sparse_attention_backward(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_cmp: Tensor,
    v_cmp: Tensor,
    gates: Tensor,
    kept_cmp: Tensor,
    kept_slc: Tensor,
    kept_win: Tensor,
    lse_cmp: Tensor,
    lse_slc: Tensor,
    lse_win: Tensor,
    units: Tensor,
    block_indices: Tensor,
    query_slots: Tensor,
    query_offsets: Tensor,
    cu_seqlens: Tensor,
    cu_compression: Tensor,
    selection_offsets: Tensor,
    window_order: Tensor,
    window_offsets: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    do, q, k, v, k_cmp, v_cmp, gates = (x.contiguous() for x in (do, q, k, v, k_cmp, v_cmp, gates))
    with _on_device(q):
        k, k_cmp = centred(k), centred(k_cmp)  # as in forward, whose LSEs are those of these keys
        kept, lses = (kept_cmp, kept_slc, kept_win), (lse_cmp, lse_slc, lse_win)
        ((do_cmp, cmp_terms), (do_slc, slc_terms), (do_win, win_terms)), dgates = branch_gradients(
            do, kept, units, lses, gates
        )
        compressed = compressed_segments(cu_seqlens, cu_compression)
        dk_cmp, dv_cmp = segment_dkv(do_cmp, q, k_cmp, v_cmp, cmp_terms, compressed, scale)
        dq = segment_dq(do_cmp, q, k_cmp, v_cmp, cmp_terms, compressed, scale)

        window = window_segments(window_order, window_offsets)
        dk_win, dv_win = segment_dkv(do_win, q, k, v, win_terms, window, scale)
        dq_win = segment_dq(do_win, q, k, v, win_terms, window, scale)

        selected = Segments(query_slots, query_offsets, None, selection_offsets, block_indices.shape[2])
        dk_slc, dv_slc = segment_dkv(do_slc, q, k, v, slc_terms, selected, scale)
        _selected_dq(do_slc, q, k, v, slc_terms, selected, block_indices, scale, dq, dq_win)
    return (
        *(dq, (dk_slc + dk_win).to(k.dtype), (dv_slc + dv_win).to(v.dtype)),
        *(dk_cmp.to(k_cmp.dtype), dv_cmp.to(v_cmp.dtype), dgates),
    )


@_spatial_sparse_attention_backward.register_fake
def _spatial_sparse_attention_backward_fake(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_cmp: Tensor,
    v_cmp: Tensor,
    gates: Tensor,
    *_saved: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dq, dk, dv, dk_cmp, dv_cmp, dgates = (x.new_empty(x.shape) for x in (q, k, v, k_cmp, v_cmp, gates))
    return dq, dk, dv, dk_cmp, dv_cmp, dgates


def _ssa_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    operands, layout, (_, _, scale) = inputs[:6], inputs[6:13], inputs[13:]
    cu_seqlens, cu_compression, _, _, selection_offsets, window_order, window_offsets = layout
    ctx.save_for_backward(
        *operands, *output[1:], cu_seqlens, cu_compression, selection_offsets, window_order, window_offsets
    )
    ctx.scale = scale
    ctx.set_materialize_grads(False)  # else the outputs that carry no gradient get tensors of zeros
    # Only o is a result; the rest is what backward needs.
    ctx.mark_non_differentiable(*output[1:])


def _ssa_grad(ctx: Any, do: Tensor, *_unused: Tensor | None) -> _Grads:
    grads = _spatial_sparse_attention_backward(do, *ctx.saved_tensors, ctx.scale)
    return *grads, *(None,) * 10


_spatial_sparse_attention.register_autograd(_ssa_grad, setup_context=_ssa_setup)
