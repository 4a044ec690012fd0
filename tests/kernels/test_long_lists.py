"""Query lists of very different lengths: every position is walked once, by no program further than the limit."""

from __future__ import annotations

import pytest
import torch

import kernels
from kernels import segments as segment_lists
from kernels.segments import Segments, selected_segments
from kernels.testing import Inputs, compare_ssa, random_layout
from kernels.triton import configs, long_lists
from kernels.triton.configs import KERNEL_NAMES, TileConfig, TunedTable
from kernels.triton.primitives import tile_list

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOKENS, BLOCK_N = 2, 4


def crowded(kv_heads: int, tokens: int, blocks: int, parts: int) -> Segments:
    """Every second choice is the first block; of the others some have one token, some none."""
    generator = torch.Generator().manual_seed(blocks)
    choice = torch.randint(blocks, (kv_heads, tokens, 2), generator=generator, dtype=torch.int32)
    choice[:, :, 0] = 0
    choice[:, ::3, 1] = -1
    sizes = torch.randint(1, 3 * BLOCK_N, (blocks,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int32), sizes.cumsum(0).int()])
    return selected_segments(choice.to(DEVICE), offsets.to(DEVICE), parts)


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize(
    ("kv_heads", "tokens", "blocks", "parts", "most"),
    [(1, 300, 7, 1, 2048), (2, 200, 9, 3, 2048), (2, 100, 30, 2, 5), (1, 40, 1, 1, 2048), (1, 3, 5, 1, 2048)],
)
def test_every_position_of_a_list_is_walked_once_for_each_tile_of_keys(
    kv_heads: int, tokens: int, blocks: int, parts: int, most: int, splits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_lists, "_MOST_CHUNKS", most)
    monkeypatch.setattr(long_lists, "_LEAST_TILES", 1)
    segments = crowded(kv_heads, tokens, blocks, parts)
    keys = int(segments.key_offsets[-1])
    tiles = tile_list(segments.key_offsets[None], segments.key_offsets, BLOCK_N, keys)[0].cpu()
    found = long_lists.long_lists(segments, TOKENS, BLOCK_N, splits, len(tiles))
    offsets = segments.query_offsets.cpu()
    for kv_head in range(kv_heads):
        limit = int(found.limits[kv_head])
        assert limit % TOKENS == 0
        walked = torch.zeros(len(tiles), 2 * tokens, dtype=torch.int32)
        expected = walked.clone()
        for tile, segment in enumerate(tiles[:, 0].tolist()):
            for part in range(parts) if segment >= 0 else ():
                first, last = offsets[part, kv_head, segment : segment + 2].tolist()
                expected[tile, first:last] += 1
                walked[tile, first : min(first + splits * limit, last)] += 1
        used = [chunk for chunk in found.chunks[kv_head].tolist() if chunk[0] >= 0]
        for tile, first, last in used:
            assert 0 < last - first <= limit
            walked[tile, first:last] += 1
        assert torch.equal(walked, expected)
        assert len(used) == int(found.offsets[kv_head, -1]) <= found.room


def test_lists_of_like_lengths_have_no_chunks() -> None:
    choice = torch.arange(512, dtype=torch.int32, device=DEVICE).remainder(8).view(1, 512, 1)
    segments = selected_segments(choice, torch.arange(9, dtype=torch.int32, device=DEVICE) * 8, 1)
    found = long_lists.long_lists(segments, TOKENS, 8, splits=4, num_tiles=8 + 8)
    assert int(found.offsets[0, -1]) == 0
    assert bool((found.chunks[..., 0] == -1).all())


@pytest.mark.parametrize(
    ("kv_heads", "head_dim", "part_tokens", "dtype"),
    [(1, 16, None, torch.float16), (2, 24, None, torch.float32), (2, 16, 24, torch.float32)],
    ids=str,
)
def test_gradients_where_all_tokens_choose_one_block(
    kv_heads: int, head_dim: int, part_tokens: int | None, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(long_lists, "_LEAST_TILES", 1)
    monkeypatch.setattr("kernels.triton.segment_dkv._PROGRAMS", 1)  # lists are not split for the sake of their number
    layout = random_layout([60, 0, 9], device=DEVICE)
    x = Inputs.random(layout, heads=4, kv_heads=kv_heads, head_dim=head_dim, dtype=dtype, device=DEVICE)
    # The summary of the first block points along the queries' mean, which all other summaries are far from.
    toward = torch.ones(head_dim, dtype=dtype, device=DEVICE)
    k_cmp = 0.1 * x.k_cmp
    k_cmp[0] += toward
    popular = Inputs(x.q + toward, x.k, x.v, k_cmp, x.v_cmp, x.gates)
    if part_tokens is not None:
        part_bytes = part_tokens * 2 * 4 * head_dim * x.q.element_size()
        monkeypatch.setattr(segment_lists, "_PART_BYTES", part_bytes)
        monkeypatch.setattr("kernels.triton.segment_dkv._MOST_PART_SHARES", 2)  # so that shares have several parts
    table = TunedTable("test", dict.fromkeys(KERNEL_NAMES, ((128, TileConfig(16, 16, 4, 2)),)))
    chunks = []
    plain = long_lists.add_chunks
    monkeypatch.setattr(
        "kernels.triton.segment_dkv.add_chunks",
        lambda *arguments: (chunks.append(int(arguments[4].offsets[:, -1].min())), plain(*arguments)),
    )
    with configs.overridden(table):
        blocks = kernels.select_blocks(popular.q, popular.k_cmp, layout, topk=2, impl="triton")
        assert bool((blocks[:, :60] == 0).any(2).all())
        compared = compare_ssa(
            lambda inputs: kernels.spatial_sparse_attention(*inputs.tensors(), layout, topk=2, impl="triton"),
            *(blocks, popular, layout),
            plain="eager",
        )
    assert chunks[0] > 0
    assert [item for item in compared if not item.passed] == []
