import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.baselines.dense import AUTO_ORDER, IMPLEMENTATIONS, full_attention, resolve, unavailable
from kernels.baselines.flex import FlexSpatialSparseAttention, flex_spatial_sparse_attention
from kernels.baselines.flex_masks import TILE, equality_mask, flex_unavailable
from kernels.baselines.nsa import nsa_attention, serialise
from kernels.baselines.packed import PackedRegions, packed_full_attention
from kernels.layout import BlockLayout
from kernels.reference import select_blocks, spatial_sparse_attention
from kernels.testing import random_layout

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
ON_CPU = ("sdpa-math", "sdpa-cpu")
ON_CUDA = ("sdpa-math", "sdpa-flash", "sdpa-cudnn", "sdpa-efficient", "flash-attn", "flash-attn-4", "flex")
D = 16  # head dim
LENGTHS = ((37,), (20, 0, 1, 30), (0, 5, 0))


def randn(*shape, dtype=torch.float64, device="cpu", seed=0, grad=False):
    x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x.to(device, dtype).requires_grad_(grad)


def qkv(num_tokens, heads=4, kv_heads=2, head_dim=D, **kwargs):
    q = randn(num_tokens, heads, head_dim, seed=1, **kwargs)
    return q, *(randn(num_tokens, kv_heads, head_dim, seed=seed, **kwargs) for seed in (2, 3))


def attend_by_loops(q, k, v, cu_seqlens, scale):
    """One softmax at a time: every sample, token and head in a Python loop."""
    group = q.shape[1] // k.shape[1]
    o = torch.zeros_like(q)
    for first, last in itertools.pairwise(cu_seqlens):
        for token in range(first, last):
            for head in range(q.shape[1]):
                weights = (k[first:last, head // group] @ q[token, head] * scale).softmax(0)
                o[token, head] = weights @ v[first:last, head // group]
    return o


def gradients(o, inputs):
    return torch.autograd.grad((o.double() * randn(*o.shape, seed=9).to(o.device)).sum(), inputs)


def relative_error(actual, expected):
    return float((actual.double().cpu() - expected.double().cpu()).norm() / expected.double().norm().clamp(min=1e-30))


# Dense attention.


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_reference_is_softmax_within_each_sample(lengths, kv_heads):
    layout = random_layout(lengths)
    q, k, v = qkv(sum(lengths), kv_heads=kv_heads)
    expected = attend_by_loops(q, k, v, layout.cu_seqlens.tolist(), scale=1 / math.sqrt(D))
    torch.testing.assert_close(full_attention(q, k, v, layout, impl="reference"), expected)


@pytest.mark.parametrize("impl", ON_CPU)
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("scale", [None, 0.7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_fused_attention_agrees_with_the_reference(impl, lengths, kv_heads, scale, dtype):
    layout = random_layout(lengths)
    inputs = qkv(sum(lengths), kv_heads=kv_heads, dtype=dtype, grad=True)
    expected = full_attention(*inputs, layout, scale=scale, impl="reference")
    actual = full_attention(*inputs, layout, scale=scale, impl=impl)
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, expected)
    for got, want in zip(gradients(actual, inputs), gradients(expected, inputs), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("impl", ["reference", *ON_CPU])
@pytest.mark.parametrize("lengths", [(), (0,), (0, 0), (1,)])
def test_no_token_and_one_token(impl, lengths):
    layout = random_layout(lengths) if lengths else BlockLayout.from_sequence(torch.zeros(1, dtype=torch.int32))
    q, k, v = inputs = qkv(sum(lengths), grad=True)
    o = full_attention(*inputs, layout, impl=impl)
    torch.testing.assert_close(o, v.repeat_interleave(2, dim=1))  # the only key gets all the weight
    assert [grad.shape for grad in gradients(o, inputs)] == [q.shape, k.shape, v.shape]


def test_reference_accumulates_half_precision_in_float32():
    layout = random_layout((64,))
    inputs = qkv(64, dtype=torch.bfloat16)
    exact = full_attention(*(x.double() for x in inputs), layout, impl="reference")
    actual = full_attention(*inputs, layout, impl="reference")
    torch.testing.assert_close(actual, exact.bfloat16(), rtol=2**-7, atol=1e-6)  # one rounding of the output


def test_auto_takes_the_first_available_of_its_order():
    where = {"device": "cpu", "dtype": torch.float32, "head_dim": D}
    assert resolve(**where) == "sdpa-cpu"
    assert next(impl for impl in AUTO_ORDER if unavailable(impl, **where) is None) == "sdpa-cpu"
    layout = random_layout((37,))
    inputs = qkv(37, dtype=torch.float32)
    assert full_attention(*inputs, layout).equal(full_attention(*inputs, layout, impl="sdpa-cpu"))


@pytest.mark.parametrize(
    ("impl", "reason"),
    [
        ("sdpa-flash", "FlashAttention-2 needs a CUDA device"),
        ("sdpa-cudnn", "cuDNN attention needs a CUDA device"),
        ("sdpa-efficient", "memory-efficient attention needs a CUDA device"),
        ("flash-attn", "FlashAttention-2 needs a CUDA device"),
        ("flash-attn-4", "FlashAttention-4 needs a CUDA device"),
        ("flex", "FlexAttention has no backward pass on the CPU"),
    ],
)
def test_what_cannot_run_says_why_and_raises(impl, reason):
    assert unavailable(impl, device="cpu", dtype=torch.float32, head_dim=D) == reason
    with pytest.raises(RuntimeError, match=reason):
        full_attention(*qkv(5, dtype=torch.float32, grad=True), random_layout((5,)), impl=impl)


def test_every_implementation_is_known_and_others_are_refused():
    assert set(AUTO_ORDER) < set(IMPLEMENTATIONS)
    with pytest.raises(ValueError, match="impl must be 'auto' or one of reference, "):
        full_attention(*qkv(5), random_layout((5,)), impl="fast")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": randn(5, 4)}, r"q must be \[N, H, D\]"),
        ({"q": randn(4, 4, D)}, r"q must be \[N, H, D\]"),
        ({"v": randn(5, 1, D)}, r"q must be \[N, H, D\]"),
        ({"q": randn(5, 3, D)}, "multiple of the 2 heads"),
        ({"k": randn(5, 2, D, dtype=torch.float32)}, "one dtype"),
    ],
)
def test_tensors_that_do_not_fit_are_named(change, message):
    tensors = dict(zip("qkv", qkv(5), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        full_attention(**tensors, layout=random_layout((5,)))


def test_as_many_tokens_as_the_layout_has_are_expected():
    with pytest.raises(ValueError, match="q must have the 5 tokens of the layout, got 6"):
        full_attention(*qkv(6), random_layout((5,)))


@pytest.mark.parametrize("lengths", [(37,), (20, 0, 1, 200)])
def test_flex_agrees_with_the_reference_forward_on_the_cpu(lengths):
    layout = random_layout(lengths)
    inputs = qkv(sum(lengths), dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        actual = full_attention(*inputs, layout, impl="flex")
    torch.testing.assert_close(actual, full_attention(*inputs, layout, impl="reference"))


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("impl", ON_CUDA)
@pytest.mark.parametrize("lengths", [(300,), (20, 0, 1, 300)])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 4, 64), (8, 2, 32)])
def test_cuda_kernels_are_as_accurate_as_bfloat16_allows(impl, lengths, heads, kv_heads, head_dim):
    where = {"device": "cuda", "dtype": torch.bfloat16}
    if reason := unavailable(impl, head_dim=head_dim, **where):
        pytest.skip(reason)
    layout = random_layout(lengths)
    inputs = qkv(sum(lengths), heads, kv_heads, head_dim, grad=True, **where)
    if impl == "sdpa-cudnn" and 1 in lengths:
        with pytest.raises(RuntimeError, match="a sample of one token"):
            full_attention(*inputs, layout.to("cuda"), impl=impl)
        return
    exact = [x.detach().double().cpu().requires_grad_() for x in inputs]
    expected = full_attention(*exact, layout, scale=0.3, impl="reference")
    actual = full_attention(*inputs, layout.to("cuda"), scale=0.3, impl=impl)
    assert relative_error(actual, expected) < 1e-2
    for got, want in zip(gradients(actual, inputs), gradients(expected, exact), strict=True):
        assert relative_error(got, want) < 2e-2


@pytest.mark.gpu
@needs_cuda
def test_half_precision_kernels_refuse_float32():
    reason = unavailable("sdpa-flash", device="cuda", dtype=torch.float32, head_dim=64)
    assert reason == "FlashAttention-2 supports float16, bfloat16, got float32"


# Packed regions.


def packed_by_loops(q, k, v, layout, side, scale):
    regions = {}
    for token, coords in enumerate(layout.coords.tolist()):
        key = (coords[0], *(value // side for value in coords[1:]))
        regions.setdefault(key, []).append(token)
    means = [torch.stack([x[tokens].mean(0) for tokens in regions.values()]) for x in (q, k, v)]
    samples = [key[0] for key in regions]
    cu_seqlens = [sum(sample < b for sample in samples) for b in range(layout.batch_size + 1)]
    packed = attend_by_loops(*means, cu_seqlens, scale)
    o = torch.zeros_like(q)
    for row, tokens in enumerate(regions.values()):
        o[tokens] = packed[row]
    return o


@pytest.mark.parametrize("lengths", [*LENGTHS, (1,), (0,)])
@pytest.mark.parametrize("side", [1, 2, 3])
def test_packed_attention_acts_between_region_means(lengths, side):
    layout = random_layout(lengths, resolution=5)
    inputs = qkv(sum(lengths), grad=True)
    regions = PackedRegions.from_layout(layout, side)
    actual = packed_full_attention(*inputs, regions, scale=0.7)
    if sum(lengths) == 0:
        assert actual.shape == (0, 4, D)
        return
    expected = packed_by_loops(*inputs, layout, side, scale=0.7)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(gradients(actual, inputs), gradients(expected, inputs))


def test_regions_of_one_voxel_are_full_attention():
    layout = random_layout((20, 30))
    inputs = qkv(50)
    packed = packed_full_attention(*inputs, PackedRegions.from_layout(layout, side=1))
    torch.testing.assert_close(packed, full_attention(*inputs, layout, impl="reference"))


def test_region_means_are_accumulated_in_float32():
    layout = random_layout((8,), resolution=2)
    x = torch.tensor([256.0, 1, 1, 1, 1, 1, 1, 1], dtype=torch.bfloat16)  # 256 + 1 is lost in bfloat16
    assert PackedRegions.from_layout(layout).mean(x[:, None]).item() == torch.tensor(263 / 8).bfloat16().item()


def test_region_side_must_be_positive():
    with pytest.raises(ValueError, match="side must be a positive integer, got 0"):
        PackedRegions.from_layout(random_layout((5,)), side=0)


# Native sparse attention on serialised voxels.


def nsa_by_loops(q, k, v, k_cmp, v_cmp, gates, lengths, block_cmp, block_slc, window, topk, scale):
    """q, k, v in serial order; blocks start anew with every sample."""
    group = q.shape[1] // k.shape[1]
    o = torch.zeros_like(q)
    first_token = first_block = 0
    for length in lengths:
        num_blocks = -(-length // block_cmp)
        blocks = range(first_block, first_block + num_blocks)
        for position in range(length):
            token = first_token + position
            for kv_head in range(k.shape[1]):
                heads = range(kv_head * group, (kv_head + 1) * group)
                weights = [(k_cmp[list(blocks), kv_head] @ q[token, head] * scale).softmax(0) for head in heads]
                total = sum(weights)
                ratio = block_slc // block_cmp
                scores = [float(total[i : i + ratio].sum()) for i in range(0, num_blocks, ratio)]
                best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:topk]
                chosen = [first_token + p for p in range(length) if p // block_slc in best]
                near = [first_token + p for p in range(length) if p // window == position // window]
                for head, cmp_weights in zip(heads, weights, strict=True):
                    branches = [cmp_weights @ v_cmp[list(blocks), kv_head]]
                    for keys in (chosen, near):
                        branches.append((k[keys, kv_head] @ q[token, head] * scale).softmax(0) @ v[keys, kv_head])
                    o[token, head] = sum(gate * branch for gate, branch in zip(gates[token], branches, strict=True))
        first_token, first_block = first_token + length, first_block + num_blocks
    return o


@pytest.mark.parametrize("impl", ["reference", "eager"])
@pytest.mark.parametrize("order", ["raster", "morton"])
def test_nsa_is_sparse_attention_over_the_line_of_voxels(impl, order):
    lengths = (23, 0, 9)
    layout = random_layout(lengths)
    serial, permutation = serialise(layout, order, compression_block=2, selection_block=4, window=5)
    q, k, v = qkv(32)
    blocks = serial.compression_coords.shape[0]
    k_cmp, v_cmp, gates = randn(blocks, 2, D, seed=4), randn(blocks, 2, D, seed=5), randn(32, 3, seed=6).sigmoid()
    actual = nsa_attention(q, k, v, k_cmp, v_cmp, gates, serial, permutation, topk=2, scale=0.5, impl=impl)
    ordered = [x[permutation] for x in (q, k, v)]
    expected = nsa_by_loops(*ordered, k_cmp, v_cmp, gates[permutation], lengths, 2, 4, 5, topk=2, scale=0.5)
    torch.testing.assert_close(actual[permutation], expected)


def test_raster_order_sorts_by_x_then_y_then_z_within_samples():
    layout = random_layout((60, 0, 40))
    _, permutation = serialise(layout)
    visited = layout.coords[permutation].tolist()
    assert visited == sorted(layout.coords.tolist())


def test_morton_order_visits_each_octant_before_the_next():
    side = 4
    layout = random_layout((side**3,), resolution=side)
    _, permutation = serialise(layout, "morton")
    visited = layout.coords[permutation, 1:]
    assert visited[:8].tolist() == [[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]
    octants = (visited // 2).tolist()
    assert all(octants[8 * i : 8 * i + 8] == [octants[8 * i]] * 8 for i in range(8))


def test_default_serial_blocks_are_those_of_the_nsa_paper():
    serial, permutation = serialise(random_layout((200,)))
    lengths = [offsets.diff().tolist() for offsets in (serial.compression_offsets, serial.selection_offsets)]
    assert lengths == [[32] * 6 + [8], [64] * 3 + [8]]
    assert serial.window_offsets.diff().tolist() == [64] * 3 + [8]
    assert sorted(permutation.tolist()) == list(range(200))


def test_serialise_refuses_unknown_orders():
    with pytest.raises(ValueError, match="order must be 'raster' or 'morton', got 'hilbert'"):
        serialise(random_layout((5,)), "hilbert")


# FlexAttention.


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_equality_mask_has_exactly_the_tiles_that_share_a_label(data):
    num_labels = data.draw(st.integers(1, 5))
    labels = [
        torch.tensor(data.draw(st.lists(st.integers(0, num_labels - 1), min_size=1, max_size=9))).repeat_interleave(70)
        for _ in range(2)
    ]
    mask = equality_mask(*labels, num_labels)
    visible = labels[0][:, None] == labels[1]
    for row in range(-(-len(labels[0]) // TILE)):
        partial = set(mask.kv_indices[0, 0, row, : mask.kv_num_blocks[0, 0, row]].tolist())
        full = set(mask.full_kv_indices[0, 0, row, : mask.full_kv_num_blocks[0, 0, row]].tolist())
        tiles = [visible[row * TILE :][:TILE, column * TILE :][:, :TILE] for column in range(mask.kv_indices.shape[-1])]
        assert partial | full == {column for column, tile in enumerate(tiles) if tile.any()}
        assert full == {column for column, tile in enumerate(tiles) if tile.all() and tile.numel() == TILE**2}


def ssa_inputs(layout, heads=4, kv_heads=2, head_dim=D, **kwargs):
    blocks = layout.compression_coords.shape[0]
    compressed = [randn(blocks, kv_heads, head_dim, seed=seed, **kwargs) for seed in (4, 5)]
    gates = randn(layout.num_tokens, 3, seed=6).sigmoid().to(**{"dtype": torch.float64} | _tensor_options(kwargs))
    return [*qkv(layout.num_tokens, heads, kv_heads, head_dim, **kwargs), *compressed, gates]


def _tensor_options(kwargs):
    return {name: value for name, value in kwargs.items() if name != "grad"}


@pytest.mark.parametrize("lengths", [(300,), (150, 0, 1, 120)])
@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("window_shift", [0, 2])
def test_flex_ssa_agrees_with_the_reference(lengths, kv_heads, window_shift):
    layout = random_layout(lengths, window=4, window_shift=window_shift)
    inputs = ssa_inputs(layout, kv_heads=kv_heads)
    actual = flex_spatial_sparse_attention(*inputs, layout, topk=3, scale=0.5)
    torch.testing.assert_close(actual, spatial_sparse_attention(*inputs, layout, topk=3, scale=0.5))


def test_flex_ssa_pads_the_selection_where_a_sample_has_few_blocks():
    layout = random_layout((40,), resolution=8)  # a single selection block
    inputs = ssa_inputs(layout)
    assert (select_blocks(inputs[0], inputs[3], layout, topk=4) == -1).any()
    actual = FlexSpatialSparseAttention(layout)(*inputs, topk=4)
    torch.testing.assert_close(actual, spatial_sparse_attention(*inputs, layout, topk=4))


def test_flex_ssa_on_no_tokens_is_empty():
    layout = random_layout((0,))
    assert flex_spatial_sparse_attention(*ssa_inputs(layout), layout, topk=2).shape == (0, 4, D)


def test_flex_ssa_refuses_gradients_on_the_cpu():
    layout = random_layout((20,))
    reason = flex_unavailable(device="cpu", dtype=torch.float64, head_dim=D)
    assert flex_unavailable(device="cpu", dtype=torch.float64, head_dim=8, backward=False) is None
    with pytest.raises(RuntimeError, match=reason):
        flex_spatial_sparse_attention(*ssa_inputs(layout, grad=True), layout, topk=2)


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("lengths", [(1500,), (700, 0, 1, 400)])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_flex_ssa_on_cuda_is_as_accurate_as_bfloat16_allows(lengths, kv_heads):
    layout = random_layout(lengths, window_shift=4)
    where = {"device": "cuda", "dtype": torch.bfloat16}
    inputs = [x.detach().requires_grad_() for x in ssa_inputs(layout, 4, kv_heads, 64, **where)]
    chosen = select_blocks(inputs[0].detach(), inputs[3].detach(), layout.to("cuda"), topk=64)
    exact = [x.detach().double().cpu().requires_grad_() for x in inputs]
    # Every block is chosen, so that rounding cannot change the selection.
    expected = spatial_sparse_attention(*exact, layout, topk=64, block_indices=chosen.cpu())
    actual = flex_spatial_sparse_attention(*inputs, layout.to("cuda"), topk=64)
    assert relative_error(actual, expected) < 1e-2
    for got, want in zip(gradients(actual, inputs), gradients(expected, exact), strict=True):
        assert relative_error(got, want) < 2e-2
