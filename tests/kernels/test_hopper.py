"""The Gluon kernels for Hopper: where they are chosen, and that they compute what Triton's do."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from torch import Tensor

from kernels.segments import Segments, compressed_segments, selected_segments, window_segments
from kernels.triton import hopper, resources, segment_backward, segment_dkv
from kernels.triton.segment_forward import segment_forward

on_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
    reason="needs a GPU of compute capability 9.0",
)
DTYPES = [torch.bfloat16, torch.float16]
# Tiles of 64 keys, of which four stay on the chip: around one tile, all four, and beyond.
SIZES = (1, 63, 64, 65, 130, 255, 256, 257, 512)
SLOTS = 3


def tensors(
    heads: int = 4, kv_heads: int = 2, head_dim: int = 64, dtype: torch.dtype = torch.bfloat16, device: str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    tokens = sum(SIZES)
    shapes = ((tokens, heads, head_dim), (tokens, kv_heads, head_dim), (tokens, kv_heads, head_dim))
    q, k, v = (torch.randn(shape, device=device).to(dtype) for shape in shapes)
    return q, k, v


@pytest.fixture
def _available() -> Iterator[None]:
    with mock.patch.object(hopper, "_available", return_value=True):
        yield


@pytest.mark.parametrize("head_dim", [32, 64, 128])
@pytest.mark.parametrize("heads", [2, 4, 32, 64])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("_available")
def test_shapes_that_the_gluon_kernel_computes(heads: int, head_dim: int, dtype: torch.dtype) -> None:
    assert hopper.supported(*tensors(heads, 2, head_dim, dtype))


@pytest.mark.usefixtures("_available")
def test_everything_else_stays_with_triton() -> None:
    assert not hopper.supported(*tensors(dtype=torch.float32))
    assert not hopper.supported(*tensors(head_dim=48))
    assert not hopper.supported(*tensors(head_dim=16))
    assert not hopper.supported(*tensors(heads=6))  # groups of three
    q, k, v = tensors()
    shifted = torch.empty(q.numel() + 1, dtype=q.dtype)[1:].view(q.shape)
    assert shifted.is_contiguous()
    assert not hopper.supported(shifted, k, v)  # no 16 bytes begin where its rows do
    with hopper.triton_only():
        assert not hopper.supported(q, k, v)
    assert hopper.supported(q, k, v)


def test_tensors_on_a_cpu_stay_with_triton() -> None:
    assert not hopper.supported(*tensors())


def selection(kv_heads: int, device: str) -> tuple[Tensor, Tensor]:
    """int32 [Hkv, N, SLOTS] block indices and offsets of blocks of `SIZES`: block 2 has one query, block 3 has none."""
    chosen = torch.rand(kv_heads, sum(SIZES), len(SIZES)).argsort(dim=2)[..., :SLOTS].int()
    chosen[(chosen == 2) | (chosen == 3)] = -1
    chosen[:, ::5, 1:] = -1
    chosen[:, ::35] = -1
    chosen[:, 17, 0] = 2
    offsets = torch.tensor((0, *SIZES)).cumsum(0).int()
    return chosen.to(device), offsets.to(device)


def exact(q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, offsets: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """o [N * SLOTS, H, D] and LSE [N * SLOTS, H] in fp64 by one block after another; NaN where no block is chosen."""
    tokens, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    grouped = q.double().view(tokens, kv_heads, -1, head_dim)
    o = torch.full((kv_heads, tokens, SLOTS, heads // kv_heads, head_dim), torch.nan, device=q.device).double()
    lse = o[..., 0].clone()
    for kv_head in range(kv_heads):
        for block in range(len(SIZES)):
            keys, values = (x[offsets[block] : offsets[block + 1], kv_head].double() for x in (k, v))
            token, slot = (blocks[kv_head] == block).nonzero(as_tuple=True)
            scores = grouped[token, kv_head] @ keys.T * scale
            o[kv_head, token, slot] = scores.softmax(-1) @ values
            lse[kv_head, token, slot] = scores.logsumexp(-1)
    return (
        o.permute(1, 2, 0, 3, 4).reshape(tokens * SLOTS, heads, head_dim),
        lse.permute(1, 2, 0, 3).reshape(tokens * SLOTS, heads),
    )


def both(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> list[tuple[Tensor, Tensor]]:
    """o and LSE of all parts, by Gluon and by Triton."""

    def run() -> tuple[Tensor, Tensor]:
        parts = [segment_forward(q, k, v, segments, scale, part) for part in range(segments.parts)]
        return torch.cat([kept for kept, _ in parts]), torch.cat([lse for _, lse in parts])

    assert hopper.supported(q, k, v)
    with mock.patch("kernels.triton.segment_forward._segment_forward_kernel", None):  # nothing may launch it
        gluon = run()
    with hopper.triton_only():
        return [gluon, run()]


def check_selected(q: Tensor, k: Tensor, v: Tensor, scale: float, parts: int = 1) -> None:
    blocks, offsets = selection(k.shape[1], str(q.device))
    expected_o, expected_lse = exact(q, k, v, blocks, offsets, scale)
    written = ~expected_lse.isnan()
    (o, lse), (triton_o, triton_lse) = both(q, k, v, selected_segments(blocks, offsets, parts), scale)
    # Memory was NaN before: all slots with a block are written, and no other.
    assert torch.equal(~lse.isnan(), written)
    assert torch.equal(~o.isnan(), written[..., None].expand_as(o))

    def worst(found: Tensor) -> float:
        difference = (found.double() - expected_o)[written]
        return (difference.norm(dim=-1) / expected_o[written].norm(dim=-1)).max().item()

    assert worst(o) <= 2 * worst(triton_o) + torch.finfo(q.dtype).eps
    torch.testing.assert_close(lse[written].double(), expected_lse[written], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(lse[written], triton_lse[written], rtol=1e-5, atol=1e-4)


@pytest.mark.gpu
@on_hopper
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [32, 64, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(16, 1), (32, 2), (2, 2), (8, 4), (32, 1)])
def test_segments_of_all_lengths(heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
    check_selected(*tensors(heads, kv_heads, head_dim, dtype, "cuda"), scale=head_dim**-0.5)


@pytest.mark.gpu
@on_hopper
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [0.02, 1.0, -1.0])
def test_any_finite_scale_and_several_parts(scale: float, dtype: torch.dtype) -> None:
    check_selected(*tensors(8, 2, 64, dtype, "cuda"), scale=scale, parts=7)


@pytest.mark.gpu
@on_hopper
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_scores_far_above_those_of_the_first_tile_are_computed_again(head_dim: int, dtype: torch.dtype) -> None:
    q, k, v = tensors(4, 2, head_dim, dtype, "cuda")
    rising = torch.cat([torch.linspace(0, 5, size) for size in SIZES]).to(q)[:, None, None]
    rows = torch.arange(q.shape[0], device="cuda")[:, None, None] % 3 > 0  # a run has tiles of both kinds
    q = (torch.where(rows, 32 * head_dim**-0.5, 0.1) + 0.1 * q).to(dtype)
    k = rising + 0.1 * k
    first, last = sum(SIZES[:6]), sum(SIZES[:7])  # the segment of 256 keys, all of them resident
    scores = q[1, 0].float() @ k[first:last, 0].float().T * head_dim**-0.5 * 1.4427
    assert scores.max() - scores[:64].max() > 41
    check_selected(q, k, v, scale=head_dim**-0.5)


@pytest.mark.gpu
@on_hopper
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_scores_that_are_all_far_below_zero(head_dim: int, dtype: torch.dtype) -> None:
    q, k, v = tensors(4, 2, head_dim, dtype, "cuda")
    rows = torch.arange(q.shape[0], device="cuda")[:, None, None] % 3 > 0  # a run has tiles of both kinds
    q = (torch.where(rows, -32 * head_dim**-0.5, 0.1) + 0.1 * q).to(dtype)
    k = 3 + 0.1 * k
    assert (q[1, 0].float() @ k[:, 0].float().T).max() * head_dim**-0.5 * 1.4427 < -61
    check_selected(q, k, v, scale=head_dim**-0.5)


@pytest.mark.gpu
@on_hopper
def test_one_graph_replays_for_other_inputs_with_equal_bits() -> None:
    q, k, v = tensors(16, 1, 64, torch.bfloat16, "cuda")
    blocks, offsets = selection(1, "cuda")
    segments = selected_segments(blocks, offsets, 2)
    segment_forward(q, k, v, segments, 0.125)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = segment_forward(q, k, v, segments, 0.125, 1)
    q.copy_(torch.randn_like(q))
    graph.replay()
    for found, again in zip(captured, segment_forward(q, k, v, segments, 0.125, 1), strict=True):
        torch.testing.assert_close(found, again, rtol=0, atol=0, equal_nan=True)


def gradients_of_rows(
    heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: str = "cuda"
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """q, k, v, dO, and terms [N, H, 2] that keep probabilities below about one."""
    q, k, v = tensors(heads, kv_heads, head_dim, dtype, device)
    lse = 4 + torch.rand(q.shape[:2], device=device)
    return q, k, v, torch.randn_like(q), torch.stack([lse, torch.randn_like(lse)], 2)


def exact_dkv(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    do: Tensor,
    terms: Tensor,
    queries: list[list[Tensor]],
    offsets: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """dK and dV [K, Hkv, D] in fp64; `queries`: by kv head and segment, the tokens of the segment."""
    group = q.shape[1] // k.shape[1]
    dk, dv = torch.zeros_like(k, dtype=torch.float64), torch.zeros_like(v, dtype=torch.float64)
    for kv_head, lists in enumerate(queries):
        heads = slice(kv_head * group, (kv_head + 1) * group)
        for segment, tokens in enumerate(lists):
            keys = slice(offsets[segment], offsets[segment + 1])
            rows, gradients = (x[tokens, heads].double().flatten(0, 1) for x in (q, do))
            lse, delta = terms[tokens, heads].double().flatten(0, 1).unbind(1)
            p = (rows @ k[keys, kv_head].double().T * (scale * 1.4426950408889634) - lse[:, None]).exp2()
            ds = p * (gradients @ v[keys, kv_head].double().T - delta[:, None])
            dk[keys, kv_head] += scale * ds.T @ rows
            dv[keys, kv_head] += p.T @ gradients
    return dk, dv


def check_dkv(
    q: Tensor, k: Tensor, v: Tensor, do: Tensor, terms: Tensor, segments: Segments, queries: list[list[Tensor]]
) -> None:
    """Gluon's dK and dV are as near to the exact ones as Triton's."""
    scale = q.shape[2] ** -0.5

    def run() -> tuple[Tensor, Tensor]:
        return segment_dkv.segment_dkv(do, q, k, v, terms, segments, scale)

    assert hopper.dkv_config(do, q, k, v, terms, segments) is not None
    with mock.patch.object(segment_dkv, "_segment_dkv_kernel", None):  # nothing may launch it
        gluon = run()
        again = run()
    with hopper.triton_only():
        by_triton = run()
    expected = exact_dkv(q, k, v, do, terms, queries, segments.key_offsets, scale)
    for found, repeated, other, exact_gradient in zip(gluon, again, by_triton, expected, strict=True):
        assert torch.equal(found, repeated)

        def worst(gradient: Tensor, exact_gradient: Tensor = exact_gradient) -> float:
            norm = exact_gradient.norm(dim=-1)
            return ((gradient.double() - exact_gradient).norm(dim=-1) / norm.where(norm > 0, 1)).max().item()

        assert worst(found) <= 2 * worst(other) + torch.finfo(q.dtype).eps


def exact_dq(
    q: Tensor, k: Tensor, v: Tensor, do: Tensor, terms: Tensor, blocks: Tensor, offsets: Tensor, scale: float
) -> Tensor:
    """dQ [N * SLOTS, H, D] of every slot in fp64; NaN where no block is chosen."""
    group = q.shape[1] // k.shape[1]
    dq = torch.full((q.shape[0], SLOTS, *q.shape[1:]), torch.nan, device=q.device, dtype=torch.float64)
    for kv_head in range(k.shape[1]):
        heads = slice(kv_head * group, (kv_head + 1) * group)
        for block in range(len(SIZES)):
            token, slot = (blocks[kv_head] == block).nonzero(as_tuple=True)
            keys, values = (x[offsets[block] : offsets[block + 1], kv_head].double() for x in (k, v))
            rows, gradients, row_terms = (x[token, heads].double() for x in (q, do, terms))
            p = (rows @ keys.T * (scale * 1.4426950408889634) - row_terms[..., :1]).exp2()
            dq[token, slot, heads] = scale * (p * (gradients @ values.T - row_terms[..., 1:])) @ keys
    return dq.flatten(0, 1)


def selected_tokens(blocks: Tensor) -> list[list[Tensor]]:
    return [[(by_head == block).any(1).nonzero().flatten() for block in range(len(SIZES))] for by_head in blocks]


@pytest.mark.parametrize("head_dim", [32, 64])
@pytest.mark.parametrize("heads", [32, 64, 128])
@pytest.mark.usefixtures("_available")
def test_gradients_of_keys_that_the_gluon_kernel_computes(heads: int, head_dim: int) -> None:
    q, k, v, do, terms = gradients_of_rows(heads, 2, head_dim, torch.bfloat16, "cpu")
    blocks, offsets = selection(2, "cpu")
    selected = hopper.dkv_config(do, q, k, v, terms, selected_segments(blocks, offsets, 2))
    assert (selected is not None) == (head_dim == 64 or heads < 128)
    compressed = hopper.dkv_config(do, q, k, v, terms, compressed_segments(offsets, offsets))
    assert (compressed is not None) == (head_dim == 64)


@pytest.mark.usefixtures("_available")
def test_gradients_of_other_keys_stay_with_triton() -> None:
    q, k, v, do, terms = gradients_of_rows(32, 2, 64, torch.bfloat16, "cpu")
    blocks, offsets = selection(2, "cpu")
    selected = selected_segments(blocks, offsets, 2)
    assert hopper.dkv_config(do, q, k, v, terms, window_segments(torch.arange(len(q)).int(), offsets)) is None
    assert hopper.dkv_config(do, q.float(), k.float(), v.float(), terms, selected) is None
    assert hopper.dq_config(do, q, k, v, terms, compressed_segments(offsets, offsets)) is None
    for heads, head_dim in ((16, 64), (256, 64), (32, 128), (32, 16)):
        other = gradients_of_rows(heads, 2, head_dim, torch.bfloat16, "cpu")
        assert hopper.dkv_config(other[3], *other[:3], other[4], selected) is None
    shifted = torch.empty(do.numel() + 1, dtype=do.dtype)[1:].view(do.shape)
    assert hopper.dkv_config(shifted, q, k, v, terms, selected) is None


@pytest.mark.gpu
@on_hopper
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"),
    [(16, 1, 32), (32, 2, 32), (64, 2, 32), (16, 1, 64), (32, 2, 64), (64, 2, 64), (64, 1, 64)],
)
@pytest.mark.parametrize("parts", [1, 3, 17])  # with 17 a share takes three parts
def test_gradients_of_selected_keys(parts: int, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
    blocks, offsets = selection(kv_heads, "cuda")
    tensors_ = gradients_of_rows(heads, kv_heads, head_dim, dtype)
    check_dkv(*tensors_, selected_segments(blocks, offsets, parts), selected_tokens(blocks))


@pytest.mark.gpu
@on_hopper
@pytest.mark.parametrize("head_dim", [32, 64])
@pytest.mark.parametrize(("parts", "shares"), [(1, 8), (2, 8), (2, 1)])  # the last: both parts by one program
def test_gradients_of_long_lists_cut_into_chunks(
    parts: int, shares: int, head_dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_dkv, "_PROGRAMS", 1)  # no splits
    monkeypatch.setattr(segment_dkv, "_MOST_PART_SHARES", shares)
    blocks, offsets = selection(2, "cuda")
    blocks[0, :, 0] = 7  # nearly all tokens choose one block
    blocks[0, :, 1:][blocks[0, :, 1:] == 7] = -1
    segments = selected_segments(blocks, offsets, parts)
    chunks = segment_dkv.long_lists(segments, 4, 64, 1, sum(SIZES) // 64 + len(SIZES)).chunks
    assert (chunks[0, :, 0] >= 0).any()
    check_dkv(*gradients_of_rows(32, 2, head_dim, torch.bfloat16), segments, selected_tokens(blocks))


@pytest.mark.usefixtures("_available")
def test_a_chunk_is_a_list_of_one_part_where_a_program_takes_several(monkeypatch: pytest.MonkeyPatch) -> None:
    from kernels.triton import hopper_dkv

    monkeypatch.setattr(segment_dkv, "_PROGRAMS", 1)
    monkeypatch.setattr(segment_dkv, "_MOST_PART_SHARES", 1)
    names = hopper_dkv._hopper_dkv_kernel.arg_names
    q, k, v, do, terms = gradients_of_rows(16, 1, 64, torch.bfloat16, "cpu")
    blocks, offsets = selection(1, "cpu")
    launch = mock.MagicMock()
    # Only how the kernel is launched matters here.
    with (
        mock.patch.object(hopper_dkv, "_hopper_dkv_kernel", launch),
        mock.patch.object(segment_dkv, "add_chunks"),
        resources.recorded({}),
    ):
        segment_dkv.segment_dkv(do, q, k, v, terms, selected_segments(blocks, offsets, 2), 0.125)
    found = {
        call.kwargs["CHUNKS"]: dict(zip(names, call.args, strict=False))["parts_a_share"]
        for call in launch.__getitem__.return_value.call_args_list
    }
    assert found == {True: 1, False: 2}


@pytest.mark.gpu
@on_hopper
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads"), [(16, 1), (32, 2), (128, 2)])
def test_gradients_of_compressed_keys_of_several_samples(heads: int, kv_heads: int, dtype: torch.dtype) -> None:
    q, k, v, do, terms = gradients_of_rows(heads, kv_heads, 64, dtype)
    tokens = torch.tensor((0, 1, 1, 700, 703, q.shape[0]), device="cuda").int()  # the second sample is empty
    keys = torch.tensor((0, 3, 3, 70, 199, 400), device="cuda").int()
    queries = [[torch.arange(a, b, device="cuda") for a, b in tokens.unfold(0, 2, 1).tolist()]] * kv_heads
    check_dkv(q, k[:400], v[:400], do, terms, compressed_segments(tokens, keys), queries)


@pytest.mark.gpu
@on_hopper
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("head_dim", [32, 64])
@pytest.mark.parametrize(("heads", "kv_heads"), [(16, 1), (32, 2), (64, 2), (64, 1)])
@pytest.mark.parametrize("parts", [1, 3])
def test_gradients_of_queries(parts: int, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> None:
    q, k, v, do, terms = gradients_of_rows(heads, kv_heads, head_dim, dtype)
    blocks, offsets = selection(kv_heads, "cuda")
    segments = selected_segments(blocks, offsets, parts)

    def run() -> Tensor:
        return torch.cat([segment_backward.segment_dq(do, q, k, v, terms, segments, 0.125, n) for n in range(parts)])

    assert hopper.dq_config(do, q, k, v, terms, segments) is not None
    with mock.patch.object(segment_backward, "_segment_dq_kernel", None):  # nothing may launch it
        gluon, again = run(), run()
    with hopper.triton_only():
        by_triton = run()
    expected = exact_dq(q, k, v, do, terms, blocks, offsets, 0.125)
    written = ~expected.isnan()
    # Memory was NaN before: all slots with a block are written, and no other.
    assert torch.equal(~gluon.isnan(), written)
    torch.testing.assert_close(gluon, again, rtol=0, atol=0, equal_nan=True)

    def worst(dq: Tensor) -> float:
        difference = (dq.double() - expected).where(written, 0).norm(dim=-1)
        norm = expected.where(written, 0).norm(dim=-1)
        return (difference / norm.where(norm > 0, 1)).max().item()

    assert worst(gluon) <= 2 * worst(by_triton) + torch.finfo(dtype).eps


@pytest.mark.gpu
@on_hopper
def test_neither_other_segments_nor_overflow_beyond_the_last_key_reach_a_query() -> None:
    q, k, v, do, terms = gradients_of_rows(16, 1, 64, torch.bfloat16)
    blocks, offsets = selection(1, "cuda")
    k, q = -8 + k / 16, 8 * torch.ones_like(q)  # all scores lie far below zero, and the LSE with them
    terms[..., 0] -= 740
    k[offsets[5] :], v[offsets[5] :] = torch.nan, torch.inf
    segments = selected_segments(blocks, offsets, 1)
    dq = segment_backward.segment_dq(do, q, k, v, terms, segments, 0.125)
    finite = (blocks[0].flatten() >= 0) & (blocks[0].flatten() < 5)
    expected = exact_dq(q, k, v, do, terms, blocks, offsets, 0.125)
    assert expected[finite].norm() > 0
    torch.testing.assert_close(
        dq[finite].double(), expected[finite], rtol=0.05, atol=0.05 * expected[finite].std().item()
    )


@pytest.mark.gpu
@on_hopper
def test_gradients_of_keys_replay_in_a_graph_with_equal_bits() -> None:
    q, k, v, do, terms = gradients_of_rows(16, 1, 64, torch.bfloat16)
    blocks, offsets = selection(1, "cuda")
    segments = selected_segments(blocks, offsets, 2)
    segment_dkv.segment_dkv(do, q, k, v, terms, segments, 0.125)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = segment_dkv.segment_dkv(do, q, k, v, terms, segments, 0.125)
    do.copy_(torch.randn_like(do))
    graph.replay()
    for found, again in zip(captured, segment_dkv.segment_dkv(do, q, k, v, terms, segments, 0.125), strict=True):
        assert torch.equal(found, again)
