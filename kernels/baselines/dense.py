"""Dense attention over packed samples: what sparse attention approximates, by every fast kernel at hand.

Legend: N tokens of B samples, H query heads, Hkv kv heads, G = H / Hkv, D head dim. Query head h reads kv head h // G.
"""

from __future__ import annotations

import functools
import importlib
import math
import warnings
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kernels.baselines.flex_masks import equality_mask, flex_unavailable, packed_flex_attention

# Every implementation and what it runs.
IMPLEMENTATIONS = {
    "reference": "plain softmax in at least fp32, N x N scores",
    "sdpa-math": "torch SDPA math: unfused, N x N scores",
    "sdpa-cpu": "torch SDPA fused CPU kernel",
    "sdpa-flash": "torch SDPA flash (FlashAttention-2)",
    "sdpa-cudnn": "torch SDPA cuDNN",
    "sdpa-efficient": "torch SDPA memory-efficient, k and v expanded to H heads",
    "flash-attn": "flash-attn (FlashAttention-2)",
    "flash-attn-4": "flash-attn-4 (CuTe)",
    "flex": "torch FlexAttention",
}

# What "auto" tries first: the order of their times on an H200 at 131,072 tokens; unfused kernels come last.
AUTO_ORDER = ("flash-attn-4", "sdpa-cudnn", "flash-attn", "sdpa-flash", "sdpa-efficient", "sdpa-cpu", "sdpa-math")

_SDPA_BACKENDS = {
    "sdpa-math": SDPBackend.MATH,
    "sdpa-cpu": SDPBackend.FLASH_ATTENTION,  # on the CPU this name means torch's own fused kernel
    "sdpa-flash": SDPBackend.FLASH_ATTENTION,
    "sdpa-cudnn": SDPBackend.CUDNN_ATTENTION,
    "sdpa-efficient": SDPBackend.EFFICIENT_ATTENTION,
}
_HALF = (torch.float16, torch.bfloat16)
_DTYPES = {
    "sdpa-flash": _HALF,
    "sdpa-cudnn": _HALF,
    "sdpa-efficient": (*_HALF, torch.float32),
    "flash-attn": _HALF,
    "flash-attn-4": _HALF,
}
_TITLES = {
    "sdpa-flash": "FlashAttention-2",
    "sdpa-cudnn": "cuDNN attention",
    "sdpa-efficient": "memory-efficient attention",
    "flash-attn": "FlashAttention-2",
    "flash-attn-4": "FlashAttention-4",
}


class PackedSamples(Protocol):
    """Rows of several samples, one after the other. `BlockLayout` and `PackedRegions` are."""

    @property
    def cu_seqlens(self) -> Tensor: ...  # int32 [B + 1]

    @property
    def batch_size(self) -> int: ...

    @property
    def num_tokens(self) -> int: ...  # rows


def full_attention(
    q: Tensor, k: Tensor, v: Tensor, layout: PackedSamples, *, scale: float | None = None, impl: str = "auto"
) -> Tensor:
    """Exact non-causal attention of every token over all tokens of its sample. Differentiable in q, k and v.

    Args:
        q: [N, H, D]. k, v: [N, Hkv, D], same dtype; H is a multiple of Hkv.
        layout: whose `cu_seqlens` bounds the samples. With more than one sample, SDPA runs once a sample and the varlen
            kernels need the longest sample, so lengths are read back to the host.
        scale: of the dot products; 1 / sqrt(D) if None.
        impl: a key of `IMPLEMENTATIONS`, or "auto" for the first of `AUTO_ORDER` that can run here. All but
            "sdpa-efficient" share a kv head between its G query heads without copying it; that one gets G copies.

    Returns:
        [N, H, D] in the dtype of q. N = 0 launches nothing.

    Raises:
        ValueError: shapes, dtypes or devices do not fit, or `impl` is unknown.
        RuntimeError: the named `impl` cannot run here, or not on these samples; the message says why.
    """
    _check(q, k, v, layout)
    backward = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    head_dim = q.shape[2]
    if impl == "auto":
        impl = resolve(device=q.device, dtype=q.dtype, head_dim=head_dim, backward=backward)
    elif reason := unavailable(impl, device=q.device, dtype=q.dtype, head_dim=head_dim, backward=backward):
        raise RuntimeError(f"impl {impl!r} cannot run: {reason}")
    scale = 1.0 / math.sqrt(head_dim) if scale is None else scale
    if q.shape[0] == 0:
        return _reference(q, k, v, scale)
    if impl == "flash-attn":
        return _flash_attn(q, k, v, layout, scale)
    if impl == "flash-attn-4":
        return _flash_attn_4(q, k, v, layout, scale)
    if impl == "flex":
        return _flex(q, k, v, layout, scale)
    if impl == "reference":
        return _per_sample(functools.partial(_reference, scale=scale), q, k, v, layout)
    return _per_sample(functools.partial(_sdpa, impl=impl, scale=scale), q, k, v, layout)


def resolve(*, device: torch.device | str, dtype: torch.dtype, head_dim: int, backward: bool = True) -> str:
    """The implementation that "auto" stands for: the first of `AUTO_ORDER` that is available."""
    for impl in AUTO_ORDER:
        if unavailable(impl, device=device, dtype=dtype, head_dim=head_dim, backward=backward) is None:
            return impl
    raise RuntimeError(f"no dense attention runs on {device} in {dtype} with head_dim {head_dim}")


def unavailable(
    impl: str, *, device: torch.device | str, dtype: torch.dtype, head_dim: int, backward: bool = True
) -> str | None:
    """Why `impl` cannot run on this device with this dtype and head dim, in one sentence; None if it can.

    `backward` says whether gradients are needed: a few kernels only have a forward pass on some devices.

    Raises:
        ValueError: `impl` is no key of `IMPLEMENTATIONS`.
    """
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl must be 'auto' or one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")
    device = torch.device(device)
    if impl in ("reference", "sdpa-math"):
        return None
    if impl == "sdpa-cpu":
        return None if device.type == "cpu" else f"the fused CPU kernel needs CPU tensors, got {device.type}"
    if impl == "flex":
        return flex_unavailable(device=device, dtype=dtype, head_dim=head_dim, backward=backward)
    title = _TITLES[impl]
    if device.type != "cuda" or not torch.cuda.is_available():
        return f"{title} needs a CUDA device"
    if dtype not in _DTYPES[impl]:
        return f"{title} supports {', '.join(_name(d) for d in _DTYPES[impl])}, got {_name(dtype)}"
    if impl == "flash-attn":
        return _flash_attn_unavailable(device, head_dim)
    if impl == "flash-attn-4":
        return _flash_attn_4_unavailable(device, head_dim, backward)
    return _sdpa_unavailable(impl, device, dtype, head_dim, backward)


def _check(q: Tensor, k: Tensor, v: Tensor, layout: PackedSamples) -> None:
    if q.ndim != 3 or k.ndim != 3 or k.shape != v.shape or q.shape[::2] != k.shape[::2]:
        raise ValueError(
            f"q must be [N, H, D] and k, v [N, Hkv, D], got q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}"
        )
    if q.shape[0] != layout.num_tokens:
        raise ValueError(f"q must have the {layout.num_tokens} tokens of the layout, got {q.shape[0]}")
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(f"q must have a multiple of the {k.shape[1]} heads of k, got {q.shape[1]}")
    if not q.dtype == k.dtype == v.dtype or not q.device == k.device == v.device == layout.cu_seqlens.device:
        raise ValueError(
            "q, k, v must share one dtype, and one device with the layout, "
            f"got {_name(q.dtype)} {q.device}, {_name(k.dtype)} {k.device}, {_name(v.dtype)} {v.device}, "
            f"layout on {layout.cu_seqlens.device}"
        )


def _per_sample(
    attend: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor, layout: PackedSamples
) -> Tensor:
    if layout.batch_size == 1:
        return attend(q, k, v)
    lengths = layout.cu_seqlens.diff().tolist()
    samples = zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
    return torch.cat([attend(*sample) for sample in samples if sample[0].shape[0]])


def _reference(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    wide = torch.promote_types(q.dtype, torch.float32)
    group = q.shape[1] // k.shape[1]
    k, v = k.to(wide).repeat_interleave(group, dim=1), v.to(wide).repeat_interleave(group, dim=1)
    scores = torch.einsum("nhd,mhd->hnm", q.to(wide), k) * scale
    return torch.einsum("hnm,mhd->nhd", scores.softmax(-1), v).to(q.dtype)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, *, impl: str, scale: float) -> Tensor:
    if impl == "sdpa-cudnn" and q.shape[0] == 1:
        raise RuntimeError("impl 'sdpa-cudnn' cannot run: torch refuses cuDNN attention for a sample of one token")
    group = q.shape[1] // k.shape[1]
    if impl == "sdpa-efficient" and group > 1:
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    with sdpa_kernel(_SDPA_BACKENDS[impl]):
        o = F.scaled_dot_product_attention(q, k, v, scale=scale, enable_gqa=impl != "sdpa-efficient")
    return o[0].transpose(0, 1)


def _sdpa_unavailable(impl: str, device: torch.device, dtype: torch.dtype, head_dim: int, backward: bool) -> str | None:
    can_use = {
        "sdpa-flash": torch.backends.cuda.can_use_flash_attention,
        "sdpa-cudnn": torch.backends.cuda.can_use_cudnn_attention,
        "sdpa-efficient": torch.backends.cuda.can_use_efficient_attention,
    }[impl]
    x = torch.empty(1, 1, 128, head_dim, device=device, dtype=dtype, requires_grad=backward)
    params = torch.backends.cuda.SDPAParams(x, x, x, None, 0.0, False, impl != "sdpa-efficient")
    with warnings.catch_warnings(record=True) as caught, sdpa_kernel(_SDPA_BACKENDS[impl]):
        warnings.simplefilter("always")
        if can_use(params, debug=True):
            return None
    # torch gives its reasons only as warnings, each followed by the place in its source.
    reasons = [str(warning.message).partition(" (Triggered internally")[0] for warning in caught]
    return f"torch refuses {_TITLES[impl]}: {' '.join(reasons) or 'no reason given'}"


def _flash_attn(q: Tensor, k: Tensor, v: Tensor, layout: PackedSamples, scale: float) -> Tensor:
    from flash_attn.flash_attn_interface import flash_attn_func, flash_attn_varlen_func

    o: Tensor
    if layout.batch_size == 1:
        o = flash_attn_func(q[None], k[None], v[None], softmax_scale=scale)[0]
    else:
        cu_seqlens, longest = layout.cu_seqlens, _longest(layout)
        o = flash_attn_varlen_func(q, k, v, cu_seqlens, cu_seqlens, longest, longest, softmax_scale=scale)
    return o


def _flash_attn_unavailable(device: torch.device, head_dim: int) -> str | None:
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"FlashAttention-2 needs compute capability 8.0 or higher, got {major}.{minor}"
    if head_dim > 256:
        return f"FlashAttention-2 supports a head_dim up to 256, got {head_dim}"
    # flash-attn-4 installs into the same namespace, so `flash_attn` alone proves nothing.
    return _import_error("flash_attn.flash_attn_interface", "flash-attn")


def _flash_attn_4(q: Tensor, k: Tensor, v: Tensor, layout: PackedSamples, scale: float) -> Tensor:
    from flash_attn.cute import flash_attn_func, flash_attn_varlen_func

    o: Tensor
    if layout.batch_size == 1:
        o = flash_attn_func(q[None], k[None], v[None], softmax_scale=scale)[0][0]  # (o, lse)
    else:
        longest = _longest(layout)
        o = flash_attn_varlen_func(
            q,
            k,
            v,
            cu_seqlens_q=layout.cu_seqlens,
            cu_seqlens_k=layout.cu_seqlens,
            max_seqlen_q=longest,
            max_seqlen_k=longest,
            softmax_scale=scale,
        )[0]
    return o


def _flash_attn_4_unavailable(device: torch.device, head_dim: int, backward: bool) -> str | None:
    major, minor = torch.cuda.get_device_capability(device)
    least = 9 if backward else 8
    if not least <= major <= 12:
        direction = "backward" if backward else "forward"
        return f"FlashAttention-4 {direction} needs compute capability {least}.0 to 12.x, got {major}.{minor}"
    widths = "up to 128, or 256" if major in (10, 11) else "up to 256"
    fits = head_dim <= 128 or head_dim == 256 if major in (10, 11) else head_dim <= 256
    if head_dim % 8 or not fits:
        return f"FlashAttention-4 supports a head_dim that is a multiple of 8 and {widths} here, got {head_dim}"
    return _import_error("flash_attn.cute", "flash-attn-4")


def _flex(q: Tensor, k: Tensor, v: Tensor, layout: PackedSamples, scale: float) -> Tensor:
    if layout.batch_size == 1:
        return packed_flex_attention(q, k, v, None, scale)
    samples = torch.arange(layout.batch_size, device=q.device)
    sample = torch.repeat_interleave(samples, layout.cu_seqlens.diff(), output_size=q.shape[0])
    return packed_flex_attention(q, k, v, equality_mask(sample, sample, layout.batch_size), scale)


def _longest(layout: PackedSamples) -> int:
    return int(layout.cu_seqlens.diff().max())


@functools.cache
def _import_error(module: str, package: str) -> str | None:
    try:
        importlib.import_module(module)
    except ImportError as error:
        return f"package {package} cannot be imported: {error}"
    return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
