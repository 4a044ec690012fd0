"""The public operators: validation once, then the chosen implementation.

`impl` is one of

* ``"reference"``: the oracle, any floating dtype, builds N x N scores;
* ``"eager"``: vectorised PyTorch, any device and floating dtype, memory bounded;
* ``"triton"``: the kernels, fp16, bf16 and fp32 on CUDA (on a CPU only under ``TRITON_INTERPRET=1``);
* ``"auto"``: ``"triton"`` where it can run, ``"eager"`` elsewhere. `resolve_impl` says which.

An explicit `impl` never falls back to another.

Legend: N tokens in layout order, H query heads, Hkv kv heads, G = H / Hkv, D head dim, M_cmp / M_slc blocks, S = topk.
"""

from __future__ import annotations

import importlib.util
import math
import os
from types import ModuleType

import torch
from torch import Tensor

from kernels import eager, reference
from kernels.baselines.dense import full_attention
from kernels.layout import BlockLayout

__all__ = [
    "compressed_attention",
    "compressed_lse",
    "full_attention",
    "resolve_impl",
    "select_blocks",
    "selected_attention",
    "spatial_sparse_attention",
    "window_attention",
]

# Asked once: torch.compile cannot trace the question.
_TRITON_INSTALLED = importlib.util.find_spec("triton") is not None

IMPLEMENTATIONS = ("reference", "eager", "triton")
MAX_GROUP = 32
HEAD_DIMS = (16, 128)


def resolve_impl(impl: str, q: Tensor) -> str:
    """The implementation that `impl` means for a query tensor like `q`.

    Raises:
        ValueError: unknown name. RuntimeError: named explicitly but unable to run on q's device or dtype, and why.
    """
    if impl == "auto":
        return "eager" if _triton_unavailable(q) else "triton"
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl must be one of {', '.join(IMPLEMENTATIONS)} or auto, got {impl!r}")
    if impl == "triton" and (reason := _triton_unavailable(q)):
        raise RuntimeError(f"impl 'triton' cannot run here: {reason}")
    return impl


def compressed_attention(
    q: Tensor,
    k_cmp: Tensor,
    v_cmp: Tensor,
    layout: BlockLayout,
    *,
    scale: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """Each token against all compression blocks of its sample (arXiv 2505.17412, section 3.3).

    Args:
        q: [N, H, D] in layout order.
        k_cmp, v_cmp: [M_cmp, Hkv, D] in the order of ``layout.compression_coords``.
        scale: of the dot products; 1 / sqrt(D) if None.

    Returns:
        o [N, H, D] in q's dtype; differentiable in q, k_cmp, v_cmp.

    Raises:
        ValueError: names the argument and what was expected. RuntimeError: `impl` cannot run here.
    """
    _check_queries(q, layout)
    _check_keys(q, layout.compression_coords.shape[0], k_cmp=k_cmp, v_cmp=v_cmp)
    scale = _default_scale(q, scale)
    name = resolve_impl(impl, q)
    if name == "reference":
        return reference.compressed_attention(q, k_cmp, v_cmp, layout, scale=scale)
    return _module(name).compressed_attention(q, k_cmp, v_cmp, layout, scale=scale)[0]


def compressed_lse(
    q: Tensor, k_cmp: Tensor, layout: BlockLayout, *, scale: float | None = None, impl: str = "auto"
) -> Tensor:
    """Natural-log LSE of each token's compressed scores: fp32 [N, H] (fp64 for fp64 inputs), what `select_blocks`
    needs.

    Carries no gradient. Arguments and errors as `compressed_attention`.
    """
    _check_queries(q, layout)
    _check_keys(q, layout.compression_coords.shape[0], k_cmp=k_cmp)
    scale = _default_scale(q, scale)
    name = resolve_impl(impl, q)
    with torch.no_grad():
        if name == "reference":
            wide = _lse_dtype(q)
            return reference.compressed_lse(q.to(wide), k_cmp.to(wide), layout, scale=scale)
        # Any values will do.
        lse: Tensor = _module(name).compressed_attention(q, k_cmp, k_cmp, layout, scale=scale)[1]
        return lse


def select_blocks(
    q: Tensor,
    k_cmp: Tensor,
    layout: BlockLayout,
    *,
    topk: int,
    scale: float | None = None,
    lse: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    """The selection blocks of each token and kv head.

    A block's score is the compressed attention probability that falls into it: the sum over its compression blocks and
    over the group's heads of softmax(q k_cmp^T) (arXiv 2505.17412, section 3.3).

    Args:
        q: [N, H, D]. k_cmp: [M_cmp, Hkv, D]. topk: S, at least 1; may exceed the number of blocks.
        lse: what `compressed_lse` returns for the same arguments; computed if None. The reference ignores it.

    Returns:
        int32 [Hkv, N, S]: block ids, best first, ties to the lower id, padded with -1. Carries no gradient.

    Raises:
        ValueError, RuntimeError: as `compressed_attention`.
    """
    _check_queries(q, layout)
    _check_keys(q, layout.compression_coords.shape[0], k_cmp=k_cmp)
    _check_topk(topk)
    if lse is not None:
        if lse.shape != q.shape[:2] or lse.dtype != _lse_dtype(q):
            raise ValueError(
                f"lse must be {_lse_dtype(q)} [{q.shape[0]}, {q.shape[1]}], got {lse.dtype} {list(lse.shape)}"
            )
        _check_device(q, lse=lse)
    scale = _default_scale(q, scale)
    name = resolve_impl(impl, q)
    with torch.no_grad():
        if name == "reference":
            return reference.select_blocks(q, k_cmp, layout, topk=topk, scale=scale)
        if lse is None:
            lse = compressed_lse(q, k_cmp, layout, scale=scale, impl=name)
        blocks: Tensor = _module(name).select_blocks(q, k_cmp, lse, layout, topk=topk, scale=scale)
        return blocks


def selected_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block_indices: Tensor,
    layout: BlockLayout,
    *,
    scale: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """Each token against the tokens of its selected blocks (arXiv 2505.17412, section 3.3 and algorithm 1).

    Args:
        q: [N, H, D]. k, v: [N, Hkv, D].
        block_indices: int32 [Hkv, N, S] from `select_blocks`; no block twice in a row, -1 is padding. The ids are
            trusted: checking their range would stop the device.

    Returns:
        o [N, H, D] in q's dtype, zero for a token without a block; differentiable in q, k, v.

    Raises:
        ValueError, RuntimeError: as `compressed_attention`.
    """
    _check_queries(q, layout)
    _check_keys(q, q.shape[0], k=k, v=v)
    expected = (k.shape[1], q.shape[0])
    if block_indices.ndim != 3 or block_indices.shape[:2] != expected or block_indices.dtype != torch.int32:
        raise ValueError(
            f"block_indices must be int32 [{expected[0]}, {expected[1]}, S], "
            f"got {block_indices.dtype} {list(block_indices.shape)}"
        )
    _check_device(q, block_indices=block_indices)
    scale = _default_scale(q, scale)
    name = resolve_impl(impl, q)
    if name == "reference":
        return reference.selected_attention(q, k, v, block_indices, layout, scale=scale)
    return _module(name).selected_attention(q, k, v, block_indices, layout, scale=scale)


def window_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, *, scale: float | None = None, impl: str = "auto"
) -> Tensor:
    """Each token against the tokens of its window (arXiv 2505.17412, section 3.3).

    Args:
        q: [N, H, D]. k, v: [N, Hkv, D].

    Returns:
        o [N, H, D] in q's dtype; differentiable in q, k, v.

    Raises:
        ValueError, RuntimeError: as `compressed_attention`.
    """
    _check_queries(q, layout)
    _check_keys(q, q.shape[0], k=k, v=v)
    scale = _default_scale(q, scale)
    name = resolve_impl(impl, q)
    if name == "reference":
        return reference.window_attention(q, k, v, layout, scale=scale)
    return _module(name).window_attention(q, k, v, layout, scale=scale)


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
    scale: float | None = None,
    impl: str = "auto",
) -> Tensor:
    """Spatial Sparse Attention: the gated sum of compressed, selected and window attention (arXiv 2505.17412, 3.3).

    Args:
        q: [N, H, D], tokens in layout order. k, v: [N, Hkv, D].
        k_cmp, v_cmp: [M_cmp, Hkv, D] in the order of ``layout.compression_coords``.
        gates: [N, 3]: cmp, slc, win; not negative, as a sigmoid's: Triton's backward in 16 bits makes NaN of those.
        layout: the block structure of the tokens.
        topk: selection blocks per token and kv head.
        scale: of the dot products; 1 / sqrt(D) if None.
        impl: see the module docstring.

    Returns:
        o [N, H, D] in q's dtype; differentiable in all six tensors.

    Raises:
        ValueError: names the argument and what was expected. RuntimeError: `impl` cannot run here.
    """
    _check_queries(q, layout)
    _check_keys(q, q.shape[0], k=k, v=v)
    _check_keys(q, layout.compression_coords.shape[0], k_cmp=k_cmp, v_cmp=v_cmp)
    if k_cmp.shape[1] != k.shape[1]:
        raise ValueError(f"k_cmp must have {k.shape[1]} kv heads like k, got {k_cmp.shape[1]}")
    if gates.shape != (q.shape[0], 3) or gates.dtype != q.dtype:
        raise ValueError(f"gates must be {q.dtype} [{q.shape[0]}, 3], got {gates.dtype} {list(gates.shape)}")
    _check_device(q, gates=gates)
    _check_topk(topk)
    scale = _default_scale(q, scale)
    name = resolve_impl(impl, q)
    run = reference.spatial_sparse_attention if name == "reference" else _module(name).spatial_sparse_attention
    return run(q, k, v, k_cmp, v_cmp, gates, layout, topk=topk, scale=scale)


def _module(name: str) -> ModuleType:
    if name == "triton":
        from kernels.triton import ops

        return ops
    return eager


def _triton_unavailable(q: Tensor) -> str | None:
    if not _TRITON_INSTALLED:
        return "the package triton is not installed"
    if not q.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        return f"tensors are on {q.device}, and TRITON_INTERPRET=1 is not set"
    if not q.is_cuda and q.dtype == torch.bfloat16:
        return "Triton's interpreter multiplies the bit patterns of bf16; use fp16 or fp32"
    if q.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"dtype {q.dtype} is not fp16, bf16 or fp32"
    return None


def _lse_dtype(q: Tensor) -> torch.dtype:
    return torch.promote_types(q.dtype, torch.float32)


def _default_scale(q: Tensor, scale: float | None) -> float:
    if scale is None:
        return 1.0 / math.sqrt(q.shape[2])
    if not math.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}")
    return float(scale)


def _check_queries(q: Tensor, layout: BlockLayout) -> None:
    if q.ndim != 3 or q.shape[0] != layout.num_tokens or not q.is_floating_point():
        raise ValueError(f"q must be floating point [N={layout.num_tokens}, H, D], got {q.dtype} {list(q.shape)}")
    low, high = HEAD_DIMS
    if not low <= q.shape[2] <= high:
        raise ValueError(f"q must have a head dim D from {low} to {high}, got {q.shape[2]}")
    if q.shape[1] < 1:
        raise ValueError("q must have at least one head, got 0")
    if layout.device != q.device:
        raise ValueError(f"layout must be on {q.device} like q, got {layout.device}; use layout.to(device)")


def _check_keys(q: Tensor, rows: int, **tensors: Tensor) -> None:
    first: Tensor | None = None
    for name, x in tensors.items():
        if x.ndim != 3 or x.shape[0] != rows or x.shape[2] != q.shape[2] or x.dtype != q.dtype:
            raise ValueError(f"{name} must be {q.dtype} [{rows}, Hkv, {q.shape[2]}], got {x.dtype} {list(x.shape)}")
        heads, kv_heads = q.shape[1], x.shape[1]
        if kv_heads < 1 or heads % kv_heads or heads // kv_heads > MAX_GROUP:
            raise ValueError(
                f"{name} must have a number of kv heads that divides H={heads} into groups of at most {MAX_GROUP}, "
                f"got {kv_heads}"
            )
        if first is not None and x.shape != first.shape:
            raise ValueError(f"{name} must have the shape {list(first.shape)}, got {list(x.shape)}")
        first = x
    _check_device(q, **tensors)


def _check_device(q: Tensor, **tensors: Tensor) -> None:
    for name, x in tensors.items():
        if x.device != q.device:
            raise ValueError(f"{name} must be on {q.device} like q, got {x.device}")


def _check_topk(topk: int) -> None:
    if isinstance(topk, bool) or not isinstance(topk, int) or topk < 1:
        raise ValueError(f"topk must be a positive integer, got {topk!r}")
