"""What the Gluon kernels for Hopper share: copies by the tensor memory accelerator."""

from __future__ import annotations

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language import NVMMASharedLayout
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

# Renamed between Triton 3.6 and 3.9.
copy_tile = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
store_tile = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global
warps_meet = getattr(gl, "barrier", None) or gl.thread_barrier


@gluon.jit
def query_tiles(dtype: gl.constexpr, STAGES: gl.constexpr, BLOCK_M: gl.constexpr, G: gl.constexpr, D: gl.constexpr):
    """Room for tiles of queries: q and dO [STAGES, BLOCK_M, D], terms fp32 [STAGES, TOKENS, 2 G], and two barriers of
    each tile [STAGES, 1]: it has been copied; it has been read.
    """
    swizzled: gl.constexpr = gl.NVMMASharedLayout(min(2 * D, 128), 16, 2)
    flat: gl.constexpr = gl.NVMMASharedLayout(0, 32, 2)
    q = gl.allocate_shared_memory(dtype, [STAGES, BLOCK_M, D], swizzled)
    do = gl.allocate_shared_memory(dtype, [STAGES, BLOCK_M, D], swizzled)
    terms = gl.allocate_shared_memory(gl.float32, [STAGES, BLOCK_M // G, 2 * G], flat)
    full, empty = barriers(STAGES)
    return q, do, terms, full, empty


@gluon.jit
def barriers(COUNT: gl.constexpr):
    """Two barriers [COUNT, 1] of each of several places in shared memory: it is full; it is empty."""
    full = gl.allocate_shared_memory(gl.int64, [COUNT, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [COUNT, 1], mbarrier.MBarrierLayout())
    for place in gl.static_range(COUNT):
        mbarrier.init(full.index(place), count=1)
        mbarrier.init(empty.index(place), count=1)
    return full, empty


@gluon.jit
def tile_of_queries(tiles, stage):
    """q, dO, terms and the barriers of one of `query_tiles`."""
    q, do, terms, full, empty = tiles
    return q.index(stage), do.index(stage), terms.index(stage), full.index(stage), empty.index(stage)


@gluon.jit
def copy_queries(
    sources,  # descriptors of q, dO and terms as `row_descriptor` and `terms_descriptor` of one token make them
    tiles,  # of queries, see `tile_of_queries`
    stage,
    query_slots,  # of the kv head's list
    start,  # list position of the tile's first token
    last,
    kv_head,
    num_tokens,
    SLOTS: gl.constexpr,
    HAS_SLOTS: gl.constexpr,
    HEADS: gl.constexpr,
    G: gl.constexpr,
):
    """Start to copy a tile of queries. Rows past the list's end become zero, as do their dO, LSE and delta."""
    q, do, terms = sources
    q_tile, do_tile, terms_tile, copied, _ = tile_of_queries(tiles, stage)
    BLOCK_M: gl.constexpr = q_tile.shape[0]
    D: gl.constexpr = q_tile.shape[1]
    mbarrier.expect(copied, BLOCK_M * (4 * D + 8))
    for position in gl.static_range(BLOCK_M // G):
        token = start + position
        if HAS_SLOTS:
            token = gl.load(query_slots + gl.minimum(token, last - 1)) // SLOTS
        token = gl.where(start + position < last, token, num_tokens)  # there is no such row: zeros are copied
        row = token * HEADS + kv_head * G
        copy_tile(q, [row, 0], copied, q_tile.slice(position * G, G))
        copy_tile(do, [row, 0], copied, do_tile.slice(position * G, G))
        copy_tile(terms, [token, 2 * kv_head * G], copied, terms_tile.slice(position, 1))


@gluon.jit
def copy_whole_tile(
    sources,  # descriptors of q, dO and terms as `tile_descriptor` and `terms_descriptor` of a tile's tokens make them
    tiles,  # these as `copy_queries`
    stage,
    start,
    kv_head,
    G: gl.constexpr,
):
    """As `copy_queries`, of tokens in order that all belong to the list: three copies instead of three a token."""
    q, do, terms = sources
    q_tile, do_tile, terms_tile, copied, _ = tile_of_queries(tiles, stage)
    BLOCK_M: gl.constexpr = q_tile.shape[0]
    D: gl.constexpr = q_tile.shape[1]
    mbarrier.expect(copied, BLOCK_M * (4 * D + 8))
    copy_tile(q, [start, kv_head * G, 0], copied, q_tile.reshape([BLOCK_M // G, G, D]))
    copy_tile(do, [start, kv_head * G, 0], copied, do_tile.reshape([BLOCK_M // G, G, D]))
    copy_tile(terms, [start, 2 * kv_head * G], copied, terms_tile)


@gluon.jit
def clear_rows(tile, first, WARPS: gl.constexpr):
    """Zero in the rows of a tile [R, D] in shared memory from `first` on: those of other segments, maybe not finite."""
    D: gl.constexpr = tile.shape[1]
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [WARPS, 1], [1, 0])
    row = gl.arange(0, tile.shape[0], layout=gl.SliceLayout(1, layout))
    tile.store(gl.where((row < first)[:, None], tile.load(layout), 0.0).to(tile.dtype))


def row_layout(head_dim: int) -> NVMMASharedLayout:
    """Of 16-bit rows in shared memory, as warpgroup instructions read them."""
    return NVMMASharedLayout(min(2 * head_dim, 128), 16, 2)


def row_descriptor(x: Tensor, group: int) -> TensorDescriptor:
    """Of x [N, H, D] as a matrix [N H, D], of which `group` rows are copied at a time: a token's of one kv head."""
    tokens, heads, head_dim = x.shape
    return TensorDescriptor(x, [tokens * heads, head_dim], [head_dim, 1], [group, head_dim], row_layout(head_dim))


def tile_descriptor(x: Tensor, block_tokens: int, group: int) -> TensorDescriptor:
    """Of x [N, H, D], of which `group` rows of each of `block_tokens` tokens are copied at a time."""
    head_dim = x.shape[2]
    layout = NVMMASharedLayout(min(2 * head_dim, 128), 16, 3)
    return TensorDescriptor(x, list(x.shape), list(x.stride()), [block_tokens, group, head_dim], layout)


def terms_descriptor(terms: Tensor, block_tokens: int, group: int) -> TensorDescriptor:
    """Of terms fp32 [N, H, 2] as a matrix [N, 2 H], by those of `group` rows of each of `block_tokens` tokens."""
    tokens, width = terms.shape[0], 2 * terms.shape[1]
    return TensorDescriptor(terms, [tokens, width], [width, 1], [block_tokens, 2 * group], NVMMASharedLayout(0, 32, 2))


def key_descriptor(x: Tensor, block_n: int) -> TensorDescriptor:
    """Of x [K, Hkv, D] as a matrix [K, Hkv D], of which `block_n` keys of one kv head are copied at a time."""
    keys, kv_heads, head_dim = x.shape
    width = kv_heads * head_dim
    return TensorDescriptor(x, [keys, width], [width, 1], [block_n, head_dim], row_layout(head_dim))
