"""Find tile sizes for a GPU: every candidate of every kernel is compared with the present choice, then timed.

The comparison with the present choice guards against miscompiled variants; proof against the oracle is `ssabench
check`, to be run with the table that comes out.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench import timing
from bench.providers import Problem
from kernels.segments import Segments, compressed_segments, selected_segments, selection_parts, window_segments
from kernels.triton import hopper
from kernels.triton.configs import KERNEL_NAMES, KernelName, TileConfig, TunedTable, overridden, padded
from kernels.triton.gradient_terms import gradient_terms
from kernels.triton.kept_outputs import in_units
from kernels.triton.segment_backward import segment_dq
from kernels.triton.segment_dkv import segment_dkv
from kernels.triton.segment_forward import segment_forward
from kernels.triton.select import select_blocks

# Variants differ by the rounding of sums in another order.
_MOST_ERROR = 1e-2
_MOST_CHANGED_BLOCKS = 1e-3
_SAMPLES = 5

Measure = Callable[[Callable[[], object]], float]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Trial:
    """One candidate of one kernel."""

    kernel: KernelName
    config: TileConfig
    milliseconds: float | None  # None if it failed
    reason: str | None = None  # why it failed


def candidates(kernel: KernelName) -> list[TileConfig]:
    """Configurations worth trying on any GPU with matrix units for fp16 and bf16."""
    sizes = [(64, 32, 4), (64, 64, 4), (128, 64, 4), (128, 64, 8), (64, 128, 4), (128, 128, 8)]
    stages: Sequence[int] = (2, 3, 4)
    if kernel.endswith("_dkv"):
        sizes = [(64, 64, 4), (32, 64, 4), (32, 128, 4), (64, 128, 8), (128, 64, 4)]
        stages = (2, 3, 4, 5, 6)
    if kernel == "block_scores":
        sizes = [(64, 64, 4), (128, 64, 4), (64, 128, 4), (128, 128, 8)]
    return [TileConfig(m, n, warps, depth) for (m, n, warps), depth in itertools.product(sizes, stages)]


def tune(
    problem: Problem,
    base: TunedTable,
    origin: str,
    *,
    kernels: Sequence[KernelName] = KERNEL_NAMES,
    tried: Callable[[KernelName], Sequence[TileConfig]] = candidates,
    measure: Measure | None = None,
    progress: Progress | None = None,
) -> Iterator[tuple[TunedTable, list[Trial]]]:
    """Choose the fastest configuration of one kernel after another for the problem's head dim.

    Args:
        problem: what is timed; its selection must fill every token's top-k.
        base: the present choice; other head dims keep theirs.
        origin: what the table says of itself.
        measure: milliseconds of a call; by default the median of CUDA-event samples.
        progress: called before each candidate, and once at the end.

    Yields:
        After each kernel, the table so far and the kernel's trials, the present choice first.

    Raises:
        ValueError: fewer selection blocks than top-k. RuntimeError: the present choice itself does not run.
    """
    device = problem.device
    measure = measure or (
        lambda call: timing.summarise(timing.measure(call, device, min_samples=_SAMPLES).samples_ms).p50
    )
    width = padded(problem.shape.head_dim)
    plans = {
        kernel: list(dict.fromkeys([base.config(kernel, problem.shape.head_dim), *tried(kernel)])) for kernel in kernels
    }
    done, total = 0, sum(len(plan) for plan in plans.values())
    if bool((problem.layout.cu_selection.diff() < problem.topk).any()):
        raise ValueError(f"the tokens must lie in at least topk={problem.topk} selection blocks to tune on")
    try:
        with overridden(base), hopper.triton_only():
            calls = _calls(problem)
    except Exception as error:  # whatever the compiler raises
        raise RuntimeError(f"the present tile sizes do not run: {error}") from error
    table = dataclasses.replace(base, origin=origin)
    for kernel, plan in plans.items():
        expected: list[Tensor] = []
        trials: list[Trial] = []
        for config in plan:
            if progress is not None:
                progress(f"{kernel}: {config.block_m} x {config.block_n}, {config.num_warps} warps", done, total)
            done += 1
            with overridden(_with(base, kernel, width, config)), hopper.triton_only():
                trials.append(_try(kernel, config, calls[kernel], expected, measure))
            if len(trials) == 1 and trials[0].milliseconds is None:
                raise RuntimeError(f"{kernel} does not run with {config}: {trials[0].reason}")
        best = min(trials, key=lambda trial: math.inf if trial.milliseconds is None else trial.milliseconds)
        table = _with(table, kernel, width, best.config)
        yield table, trials
    if progress is not None:
        progress("done", total, total)


def _try(
    kernel: KernelName,
    config: TileConfig,
    call: Callable[[], list[Tensor]],
    expected: list[Tensor],
    measure: Measure,
) -> Trial:
    """Time a candidate; the first one fills `expected`, later ones must agree with it."""
    try:
        found = call()
        if not expected:
            expected.extend(found)
        elif reason := _disagreement(expected, found):
            return Trial(kernel, config, None, reason)
        del found
        return Trial(kernel, config, measure(call))
    except Exception as error:  # a candidate may not compile, or not fit the device
        return Trial(kernel, config, None, (str(error).strip() or type(error).__name__).splitlines()[0])


def _disagreement(expected: list[Tensor], found: list[Tensor]) -> str | None:
    for ours, theirs in zip(found, expected, strict=True):
        if ours.dtype == torch.int32:
            changed = (ours != theirs).float().mean().item()
            if not changed <= _MOST_CHANGED_BLOCKS:
                return f"chooses other blocks in {changed:.2%} of the places"
        else:
            error = ((ours.float() - theirs.float()).norm() / theirs.float().norm()).item()
            if not error <= _MOST_ERROR:
                return f"results differ by {error:.1e}"
    return None


def _with(table: TunedTable, kernel: KernelName, width: int, config: TileConfig) -> TunedTable:
    rows = dict(table.kernels[kernel])
    # A narrower head dim without a row of its own had this width's old row: it keeps it.
    rows[width] = config
    return dataclasses.replace(table, kernels={**table.kernels, kernel: tuple(sorted(rows.items()))})


def _calls(problem: Problem) -> Mapping[KernelName, Callable[[], list[Tensor]]]:
    """Each kernel on its own, on what the operator would hand to it."""
    layout, x = problem.layout, problem.inputs
    scale = problem.shape.head_dim**-0.5
    compressed = compressed_segments(layout.cu_seqlens, layout.cu_compression)
    window = window_segments(layout.window_order, layout.window_offsets)
    (v, v_cmp), units = in_units(x.v, x.v_cmp)
    kept, lse_cmp = segment_forward(x.q, x.k_cmp, v_cmp, compressed, scale)

    def select() -> list[Tensor]:
        chosen = select_blocks(
            *(x.q, x.k_cmp, lse_cmp, layout.cu_seqlens, layout.cu_compression, layout.cu_selection),
            *(layout.selection_compression, layout.compression_per_selection, problem.topk, scale),
        )
        return [chosen]

    chosen = select()[0]
    selected = selected_segments(chosen, layout.selection_offsets, selection_parts(x.q, problem.topk))
    gathered = [(selected, x.k, x.v), (window, x.k, x.v)]
    summaries = [(compressed, x.k_cmp, x.v_cmp)]
    # Any output and LSE of the right size load the backward kernels in the same way.
    do = torch.randn_like(x.q)
    terms = gradient_terms(do, kept, units[1:], lse_cmp)

    def forward(work: list[tuple[Segments, Tensor, Tensor]]) -> list[Tensor]:  # of values in units
        return [
            segment_forward(x.q, k, v, segments, scale, part)[0]
            for segments, k, v in work
            for part in range(segments.parts)
        ]

    def dq(work: list[tuple[Segments, Tensor, Tensor]]) -> list[Tensor]:
        return [
            segment_dq(do, x.q, k, v, terms, segments, scale, part)
            for segments, k, v in work
            for part in range(segments.parts)
        ]

    def dkv(work: list[tuple[Segments, Tensor, Tensor]]) -> list[Tensor]:
        return [grad for segments, k, v in work for grad in segment_dkv(do, x.q, k, v, terms, segments, scale)]

    return {
        "compressed_forward": lambda: forward([(compressed, x.k_cmp, v_cmp)]),
        "compressed_dq": lambda: dq(summaries),
        "compressed_dkv": lambda: dkv(summaries),
        "gathered_forward": lambda: forward([(selected, x.k, v), (window, x.k, v)]),
        "gathered_dq": lambda: dq(gathered),
        "gathered_dkv": lambda: dkv(gathered),
        "block_scores": select,
    }
