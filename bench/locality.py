"""How a problem's tokens select their blocks: the statistics in which trained and random inputs differ."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bench.providers import Problem, block_indices


@dataclass(frozen=True)
class Locality:
    """Over all tokens and kv heads of a problem."""

    own: float  # share of selections that hold the token's own block
    distance: float  # mean Chebyshev distance, in blocks, from the token's block to a selected one
    skew: float  # tokens that choose the most popular block, over the mean of all blocks; per kv head


def locality(problem: Problem) -> Locality:
    """The statistics of what the problem's inputs select."""
    layout, chosen = problem.layout, block_indices(problem)  # [Hkv, N, S]
    blocks = layout.selection_coords.shape[0]
    own = torch.repeat_interleave(torch.arange(blocks, device=problem.device), layout.selection_offsets.diff())
    used = chosen >= 0
    coords = layout.selection_coords[:, 1:]
    steps = (coords[chosen.clamp(min=0)] - coords[own][None, :, None]).abs().amax(-1)
    heads = torch.arange(chosen.shape[0], device=problem.device)[:, None, None]
    lists = (chosen + heads * blocks)[used].bincount(minlength=chosen.shape[0] * blocks)
    return Locality(
        own=(chosen == own[None, :, None]).any(2).double().mean().item(),
        distance=steps[used].double().mean().item(),
        skew=(lists.max() / lists.double().mean()).item(),
    )
