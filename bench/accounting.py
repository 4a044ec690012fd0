"""Operations, exponentials and least memory traffic of a measurement, from the real layout and the real selection.

A multiplication and an addition count as two operations. Exponentials are counted apart: one for each score, in
backward too, which recomputes the scores once. Forward attention of n queries
to m keys takes two matrix products, 4 n m D per head; backward recomputes one and adds four: 2.5 times the forward
count, the convention of FlashAttention. Bytes count every input tensor read once and every output tensor written once:
what no implementation can go below, not an estimate of what it moves.

Legend: b samples, w windows, N_b tokens, M_b compression blocks, n_w tokens of a window, H heads, Hkv key-value heads,
D head width, S blocks chosen by a token.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.records import Pass, Shape, Stage
from kernels.layout import BlockLayout

BACKWARD_OVER_FORWARD = 2.5
_ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_INDEX_BYTES = 4


@dataclass(frozen=True)
class Cost:
    flops: float
    bytes: float
    exponentials: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes, self.exponentials + other.exponentials)


Costs = dict[Pass, Cost]


def full_attention_costs(tokens: int, groups: Iterable[int], shape: Shape) -> Costs:
    """Attention in which every token of a group attends to its whole group.

    Forward FLOPs ``4 H D sum_g n_g^2``; forward bytes q, k, v and o.

    Args:
        tokens: N, rows of q, k, v and o.
        groups: n_g, attended size of each group: tokens of a sample for dense attention, of a window for the window
            branch, regions of a sample for packed attention.
    """
    flops = 4.0 * shape.heads * shape.head_dim * sum(float(size) ** 2 for size in groups)
    return _attention_costs(
        flops, inputs=_query_bytes(tokens, shape) + 2 * _key_bytes(tokens, shape), tokens=tokens, shape=shape
    )


def ssa_costs(layout: BlockLayout, block_indices: Tensor, shape: Shape) -> dict[Stage, Costs]:
    """Costs of Spatial Sparse Attention: each branch, the selection, and their total.

    Forward FLOPs:

    * cmp: ``4 H D sum_b N_b M_b``
    * select: ``2 H D sum_b N_b M_b``, the scores alone, from q, k_cmp and the fp32 LSE; it has no backward
    * slc: ``4 H D / Hkv`` times the tokens in the chosen blocks, summed over tokens and key-value heads
    * win: ``4 H D sum_w n_w^2``

    The total reads q, k, v, k_cmp, v_cmp and the three gates once and writes o once.

    Args:
        block_indices: int32 [Hkv, N, S], ids of the chosen selection blocks, padded with -1.
    """
    tokens, summaries = layout.num_tokens, layout.compression_coords.shape[0]
    width = float(shape.heads * shape.head_dim)
    samples = (layout.cu_seqlens.diff().double() * layout.cu_compression.diff().double()).sum().item()
    windows = layout.window_offsets.diff().tolist()
    query, key, summary = _query_bytes(tokens, shape), _key_bytes(tokens, shape), _key_bytes(summaries, shape)
    chosen = block_indices.numel() * _INDEX_BYTES
    lse = 4 * tokens * shape.heads

    stages: dict[Stage, Costs] = {
        "cmp": _attention_costs(4 * width * samples, inputs=query + 2 * summary, tokens=tokens, shape=shape),
        "select": {"fwd": Cost(2 * width * samples, query + summary + lse + chosen, shape.heads * samples)},
        "slc": _attention_costs(
            4 * width * chosen_tokens(layout, block_indices) / shape.kv_heads,
            inputs=query + 2 * key,
            tokens=tokens,
            shape=shape,
            index_bytes=chosen,
        ),
        "win": full_attention_costs(tokens, windows, shape),
    }
    forward = sum(costs["fwd"].flops for costs in stages.values())
    backward = sum(costs["bwd"].flops for costs in stages.values() if "bwd" in costs)
    exponentials = sum(costs["fwd"].exponentials for costs in stages.values())
    backward_exponentials = sum(costs["bwd"].exponentials for costs in stages.values() if "bwd" in costs)
    gates = 3 * tokens * _ITEM_BYTES[shape.dtype]
    stages["total"] = _attention_costs(
        forward,
        inputs=query + 2 * key + 2 * summary + gates,
        tokens=tokens,
        shape=shape,
        backward_flops=backward,
        exponentials=(exponentials, backward_exponentials),
    )
    return stages


def chosen_tokens(layout: BlockLayout, block_indices: Tensor) -> int:
    """Tokens in the chosen selection blocks, summed over all tokens and key-value heads; -1 counts nothing."""
    sizes = layout.selection_offsets.diff().long()
    sizes = torch.cat([sizes, sizes.new_zeros(1)])  # index -1 is the padding
    return sum(int(sizes[head.long()].sum()) for head in block_indices)


def _attention_costs(
    flops: float,
    *,
    inputs: int,
    tokens: int,
    shape: Shape,
    index_bytes: int = 0,
    backward_flops: float | None = None,
    exponentials: tuple[float, float] | None = None,
) -> Costs:
    """Backward reads the inputs, the output and its gradient, and writes a gradient of each differentiable input.

    Exponentials are those of forward and backward; by default one for each score, of which forward makes one with every
    ``4 D`` FLOPs.
    """
    output = _query_bytes(tokens, shape)
    scores = flops / (4 * shape.head_dim)
    forward_exponentials, backward_exponentials = exponentials or (scores, scores)
    forward = Cost(flops, inputs + index_bytes + output, forward_exponentials)
    backward = Cost(
        BACKWARD_OVER_FORWARD * flops if backward_flops is None else backward_flops,
        2 * inputs + index_bytes + 2 * output,
        backward_exponentials,
    )
    return {"fwd": forward, "bwd": backward, "fwd_bwd": forward + backward}


def _query_bytes(tokens: int, shape: Shape) -> int:
    return tokens * shape.heads * shape.head_dim * _ITEM_BYTES[shape.dtype]


def _key_bytes(tokens: int, shape: Shape) -> int:
    return tokens * shape.kv_heads * shape.head_dim * _ITEM_BYTES[shape.dtype]
