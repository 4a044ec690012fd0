"""Providers: what can be measured on a problem, by name.

A provider computes [N, H, D] from the inputs of a `Problem`, whose tokens are in layout order. Whatever depends on the
voxels alone (packing, serial order, block masks) is set-up: built once per problem, outside every timed call, as a
model would share it between layers. Whatever depends on the data, such as the selection, is part of the call.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

import kernels
from bench.accounting import Costs, full_attention_costs, ssa_costs
from bench.captured import Captured
from bench.records import Shape, Stage, Workload
from kernels.baselines import dense, nsa, packed
from kernels.layout import BlockLayout
from kernels.testing import Inputs

if TYPE_CHECKING:
    from bench.workloads import Tokens

Family = Literal["ssa", "nsa", "dense", "packed"]
T = TypeVar("T")

# The oracle is no competitor.
_DENSE_IMPLS = tuple(impl for impl in dense.IMPLEMENTATIONS if impl != "reference")
_DENSE_INPUTS = ("q", "k", "v")
_SSA_INPUTS = ("q", "k", "v", "k_cmp", "v_cmp", "gates")


@dataclass(frozen=True, eq=False)
class Problem:
    """One attention problem: tokens, shape and inputs on one device."""

    workload: Workload
    shape: Shape
    layout: BlockLayout
    inputs: Inputs
    _prepared: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def topk(self) -> int:
        return self.shape.topk

    @property
    def device(self) -> torch.device:
        return self.layout.device

    @property
    def dtype(self) -> torch.dtype:
        return self.inputs.q.dtype

    def once(self, name: str, build: Callable[[], T]) -> T:
        """The set-up called `name`, built on first use and kept with the problem."""
        if name not in self._prepared:
            self._prepared[name] = build()
        built: T = self._prepared[name]
        return built


@dataclass(frozen=True)
class Branch:
    """One stage of an SSA provider as a call of its own."""

    forward: Callable[[Inputs], Tensor]
    grads: tuple[str, ...]  # inputs that get a gradient; none for the selection


def _same(problem: Problem) -> Problem:
    return problem


@dataclass(frozen=True)
class Provider:
    """One way to compute attention on a problem.

    Attributes:
        implementation: what really runs, in a few words.
        unavailable: why it cannot run on the problem, in one sentence, or None.
        forward: (problem, inputs) -> [N, H, D], differentiable in the inputs that `grads` names.
        costs: FLOPs and least bytes of each pass.
        adapt: the problem as this provider sees it; Native Sparse Attention sees the tokens in serial order.
        branches: the stages on their own, for providers of spatial sparse attention that expose them.
        selection_impl: the `impl` of `kernels.select_blocks` that makes its selection; None where there is no
            selection or it is left to "auto".
    """

    name: str
    family: Family
    implementation: Callable[[Problem], str]
    unavailable: Callable[[Problem], str | None]
    forward: Callable[[Problem, Inputs], Tensor]
    grads: tuple[str, ...]
    costs: Callable[[Problem], Costs]
    adapt: Callable[[Problem], Problem] = _same
    branches: Callable[[Problem], dict[Stage, Branch]] | None = None
    selection_impl: str | None = None


def make_problem(source: Tokens | Captured, shape: Shape, *, device: torch.device | str, seed: int) -> Problem:
    """Sort the tokens into blocks; take captured inputs, or draw them: the same numbers on every machine for one seed.

    Raises:
        ValueError: what `BlockLayout.from_coords` or `Captured.inputs` raises.
    """
    captured = source if isinstance(source, Captured) else None
    tokens = source.tokens if isinstance(source, Captured) else source
    layout = BlockLayout.from_coords(
        tokens.coords,
        resolution=tokens.resolution,
        compression_block=shape.compression_block,
        selection_block=shape.selection_block,
        window=shape.window,
        window_shift=shape.window_shift,
    ).to(device)
    workload = Workload(
        name=tokens.name,
        inputs="random" if captured is None else f"captured:{captured.digest}",
        tokens=layout.num_tokens,
        resolution=tokens.resolution,
        seed=seed,
        selection_blocks=layout.selection_coords.shape[0],
        compression_blocks=layout.compression_coords.shape[0],
    )
    if captured is None:
        inputs = _random_inputs(layout, shape, seed)
    else:
        inputs = captured.inputs(layout, getattr(torch, shape.dtype))
    return Problem(workload, shape, layout, inputs)


def provider_names() -> list[str]:
    return list(_REGISTRY)


def get_provider(name: str) -> Provider:
    """The provider of that name.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in _REGISTRY:
        raise ValueError(f"provider {name!r} is unknown; known: {', '.join(_REGISTRY)}")
    return _REGISTRY[name]


def match_providers(patterns: Sequence[str]) -> list[str]:
    """Names that match the patterns (``ssa-*``), in the order of the patterns, each once.

    Raises:
        ValueError: a pattern that matches nothing; the message lists the known names.
    """
    names: list[str] = []
    for pattern in patterns:
        found = fnmatch.filter(_REGISTRY, pattern)
        if not found:
            get_provider(pattern)
        names += [name for name in found if name not in names]
    return names


def default_providers(device: torch.device | str) -> list[str]:
    """What a comparison on that kind of device should hold."""
    if torch.device(device).type == "cpu":
        return ["ssa-eager", "nsa-eager", "dense-sdpa-cpu", "packed-sdpa-cpu"]
    dense_kernels = ["dense-sdpa-flash", "dense-sdpa-cudnn", "dense-flash-attn", "dense-flash-attn-4"]
    return ["ssa-triton", "nsa-triton", *dense_kernels, "packed-sdpa-flash"]


def block_indices(problem: Problem, impl: str = "auto") -> Tensor:
    """int32 [Hkv, N, S]: the blocks that the problem's inputs select, computed once for each implementation."""

    def select() -> Tensor:
        with torch.no_grad():
            x = problem.inputs
            return kernels.select_blocks(x.q, x.k_cmp, problem.layout, topk=problem.topk, impl=impl)

    return problem.once(f"block_indices {impl}", select)


def stages(problem: Problem, impl: str) -> dict[Stage, Branch]:
    """The stages of spatial sparse attention in the order they run, each given what an earlier one leaves behind.

    The selection gets the LSE of the compressed attention, the selected attention gets the chosen blocks.
    """
    layout, indices = problem.layout, block_indices(problem, impl)
    inputs = problem.inputs
    lse = problem.once(f"lse {impl}", lambda: kernels.compressed_lse(inputs.q, inputs.k_cmp, layout, impl=impl))
    return {
        "cmp": Branch(
            lambda x: kernels.compressed_attention(x.q, x.k_cmp, x.v_cmp, layout, impl=impl), ("q", "k_cmp", "v_cmp")
        ),
        "select": Branch(
            lambda x: kernels.select_blocks(x.q, x.k_cmp, layout, topk=problem.topk, lse=lse, impl=impl), ()
        ),
        "slc": Branch(lambda x: kernels.selected_attention(x.q, x.k, x.v, indices, layout, impl=impl), ("q", "k", "v")),
        "win": Branch(lambda x: kernels.window_attention(x.q, x.k, x.v, layout, impl=impl), ("q", "k", "v")),
    }


def _random_inputs(layout: BlockLayout, shape: Shape, seed: int) -> Inputs:
    return Inputs.random(
        layout,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        dtype=getattr(torch, shape.dtype),
        device=layout.device,
        seed=seed,
    )


# Spatial and native sparse attention.


def _sparse_provider(family: Literal["ssa", "nsa"], impl: str) -> Provider:
    spatial = family == "ssa"

    def forward(problem: Problem, x: Inputs) -> Tensor:
        return kernels.spatial_sparse_attention(
            x.q, x.k, x.v, x.k_cmp, x.v_cmp, x.gates, problem.layout, topk=problem.topk, impl=impl
        )

    return Provider(
        name=f"{family}-{impl}",
        family=family,
        implementation=lambda problem: _sparse_implementation(family, impl, problem),
        unavailable=lambda problem: _sparse_unavailable(impl, problem),
        forward=forward,
        grads=_SSA_INPUTS,
        costs=lambda problem: _sparse_costs(impl, problem),
        adapt=_same if spatial else _serial_problem,
        branches=(lambda problem: stages(problem, impl)) if spatial else None,
        selection_impl=impl,
    )


def _sparse_implementation(family: Literal["ssa", "nsa"], impl: str, problem: Problem) -> str:
    name = impl
    if impl == "triton":
        name = "triton (interpreter)" if problem.device.type == "cpu" else _triton_implementation(problem.inputs)
    return name if family == "ssa" else f"{name}, raster order, blocks of 32/64/64 tokens"


def _triton_implementation(x: Inputs) -> str:
    try:
        from kernels.triton import hopper
    except ImportError:  # kernels of an earlier revision, under `ssabench compare --base`
        return "triton"
    return "triton, gluon (sm_90)" if hopper.supported(x.q, x.k, x.v) else "triton"


def _serial_problem(problem: Problem) -> Problem:
    """The same tokens in raster order on 1-D blocks, with summaries for those blocks: drawn, or means if captured."""

    def build() -> Problem:
        layout, permutation = nsa.serialise(problem.layout, order="raster")
        if problem.workload.captured is None:
            inputs = _random_inputs(layout, problem.shape, problem.workload.seed)
        else:
            inputs = _serial_inputs(problem.inputs, layout, permutation)
        return Problem(problem.workload, problem.shape, layout, inputs)

    return problem.once("serial", build)


def _serial_inputs(x: Inputs, layout: BlockLayout, permutation: Tensor) -> Inputs:
    """Captured inputs in serial order."""
    q, k, v, gates = (tensor[permutation] for tensor in (x.q, x.k, x.v, x.gates))
    # The captured summaries are of cubes, and no model was trained on the serial blocks: the plain mean of a block's
    # keys and values stands in for a learned one.
    offsets = layout.compression_offsets.long()
    k_cmp, v_cmp = (torch.segment_reduce(y.float(), "mean", offsets=offsets, axis=0).to(y.dtype) for y in (k, v))
    return Inputs(q, k, v, k_cmp, v_cmp, gates)


def _sparse_costs(impl: str, problem: Problem) -> Costs:
    return ssa_costs(problem.layout, block_indices(problem, impl), problem.shape)["total"]


def _sparse_unavailable(impl: str, problem: Problem) -> str | None:
    try:
        kernels.resolve_impl(impl, problem.inputs.q)
    except RuntimeError as error:
        return str(error)
    return _too_large(problem, copies=4) if impl == "reference" else None


def _flex_provider() -> Provider:
    def build(layout: BlockLayout) -> Callable[..., Tensor]:
        # Imported on use: it loads the compiler, seconds that no other provider needs.
        from kernels.baselines.flex import FlexSpatialSparseAttention

        return FlexSpatialSparseAttention(layout)

    def forward(problem: Problem, x: Inputs) -> Tensor:
        attend = problem.once("flex", lambda: build(problem.layout))
        return attend(x.q, x.k, x.v, x.k_cmp, x.v_cmp, x.gates, topk=problem.topk)

    return Provider(
        name="ssa-flex",
        family="ssa",
        implementation=lambda problem: "FlexAttention, one call a branch",
        unavailable=lambda problem: dense.unavailable(
            "flex", device=problem.device, dtype=problem.dtype, head_dim=problem.shape.head_dim
        ),
        forward=forward,
        grads=_SSA_INPUTS,
        costs=lambda problem: _sparse_costs("auto", problem),
    )


# Exact attention over all tokens, and over packed regions.


def _dense_provider(impl: str) -> Provider:
    def forward(problem: Problem, x: Inputs) -> Tensor:
        return dense.full_attention(x.q, x.k, x.v, problem.layout, impl=impl)

    def costs(problem: Problem) -> Costs:
        layout = problem.layout
        return full_attention_costs(layout.num_tokens, layout.cu_seqlens.diff().tolist(), problem.shape)

    return Provider(
        name=f"dense-{impl}",
        family="dense",
        implementation=lambda problem: dense.IMPLEMENTATIONS[impl],
        unavailable=lambda problem: _dense_unavailable(impl, problem),
        forward=forward,
        grads=_DENSE_INPUTS,
        costs=costs,
    )


def _packed_provider(impl: str) -> Provider:
    def regions(problem: Problem) -> packed.PackedRegions:
        return problem.once("regions", lambda: packed.PackedRegions.from_layout(problem.layout, side=2))

    def forward(problem: Problem, x: Inputs) -> Tensor:
        return packed.packed_full_attention(x.q, x.k, x.v, regions(problem), impl=impl)

    def costs(problem: Problem) -> Costs:
        groups = regions(problem).cu_seqlens.diff().tolist()
        return full_attention_costs(problem.layout.num_tokens, groups, problem.shape)

    return Provider(
        name=f"packed-{impl}",
        family="packed",
        implementation=lambda problem: f"means of 2^3 regions, {dense.IMPLEMENTATIONS[impl]}",
        unavailable=lambda problem: _dense_unavailable(impl, problem),
        forward=forward,
        grads=_DENSE_INPUTS,
        costs=costs,
    )


def _dense_unavailable(impl: str, problem: Problem) -> str | None:
    reason = dense.unavailable(impl, device=problem.device, dtype=problem.dtype, head_dim=problem.shape.head_dim)
    if reason is None and impl == "sdpa-math":
        return _too_large(problem, copies=4)
    return reason


def _too_large(problem: Problem, copies: int) -> str | None:
    """Refuse N x N scores that cannot fit; a CPU would be killed for memory instead of raising."""
    tokens = problem.layout.num_tokens
    needed = copies * tokens**2 * problem.shape.heads * problem.inputs.q.element_size()
    if problem.device.type == "cuda":
        free = torch.cuda.mem_get_info(problem.device)[0]
    else:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed <= free:
        return None
    return f"its {tokens} x {tokens} scores need about {needed / 2**30:.0f} GiB and {free / 2**30:.0f} GiB are free"


_PROVIDERS = [
    *(_sparse_provider("ssa", impl) for impl in ("triton", "eager", "reference")),
    _flex_provider(),
    *(_sparse_provider("nsa", impl) for impl in ("triton", "eager")),
    *(_dense_provider(impl) for impl in _DENSE_IMPLS),
    *(_packed_provider(impl) for impl in _DENSE_IMPLS if impl != "flex"),
]
_REGISTRY = {provider.name: provider for provider in _PROVIDERS}
