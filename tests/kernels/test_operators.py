"""The Triton operators as torch citizens: registrations, torch.compile, checkpointing, autocast."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

import kernels
from kernels import BlockLayout
from kernels.testing import Inputs
from kernels.triton import ops

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Inductor generates C++ or Triton around the operators; on a CPU the graph capture is what can go wrong.
BACKEND = "inductor" if DEVICE == "cuda" else "aot_eager"


def problem(tokens: int = 24) -> tuple[BlockLayout, Inputs]:
    voxel = torch.arange(tokens, dtype=torch.int32) * 37 % 16**3
    coords = torch.stack([voxel // 256, voxel // 16 % 16, voxel % 16], dim=1)
    layout = BlockLayout.from_coords(coords, resolution=16, window_shift=4).to(DEVICE)
    return layout, Inputs.random(layout, heads=2, kv_heads=1, head_dim=16, dtype=torch.float32, device=DEVICE)


def attend(x: Inputs, layout: BlockLayout) -> Tensor:
    return kernels.spatial_sparse_attention(*x.tensors(), layout, topk=2, impl="triton")


def gradients(o: Tensor, x: Inputs) -> list[Tensor]:
    return list(torch.autograd.grad(o, x.tensors(), torch.ones_like(o)))


def test_opcheck_of_the_whole_operator() -> None:
    layout, inputs = problem()
    arguments = (
        *inputs.leaves().tensors(),
        *(layout.cu_seqlens, layout.cu_compression, layout.cu_selection, layout.selection_compression),
        *(layout.selection_offsets, layout.window_order, layout.window_offsets),
        *(layout.compression_per_selection, 2, 0.25),
    )
    torch.library.opcheck(ops._spatial_sparse_attention, arguments)


def test_opcheck_of_segment_attention() -> None:
    layout, inputs = problem()
    x = inputs.leaves()
    lists = (layout.window_order[None], layout.window_offsets[None, None])
    segments = (*lists, layout.window_order, layout.window_offsets)
    torch.library.opcheck(ops._segment_attention, (x.q, x.k, x.v, *segments, None, 0.25))


def test_opcheck_of_the_selection() -> None:
    layout, x = problem()
    lse = kernels.compressed_lse(x.q, x.k_cmp, layout, impl="triton")
    partitions = (layout.cu_seqlens, layout.cu_compression, layout.cu_selection, layout.selection_compression)
    torch.library.opcheck(
        ops._select_blocks, (x.q, x.k_cmp, lse, *partitions, layout.compression_per_selection, 2, 0.25)
    )


def test_compile_captures_one_graph_and_gives_the_same_numbers() -> None:
    layout, inputs = problem()
    compiled = torch.compile(attend, fullgraph=True, backend=BACKEND)
    x, y = inputs.leaves(), inputs.leaves()
    o, expected = compiled(x, layout), attend(y, layout)
    torch.testing.assert_close(o, expected, rtol=0, atol=0)
    for grad, expected_grad in zip(gradients(o, x), gradients(expected, y), strict=True):
        torch.testing.assert_close(grad, expected_grad, rtol=0, atol=0)


def test_compile_of_the_branches_captures_one_graph() -> None:
    layout, x = problem()

    def branches(x: Inputs) -> Tensor:
        blocks = kernels.select_blocks(x.q, x.k_cmp, layout, topk=2, impl="triton")
        o = kernels.compressed_attention(x.q, x.k_cmp, x.v_cmp, layout, impl="triton")
        o = o + kernels.selected_attention(x.q, x.k, x.v, blocks, layout, impl="triton")
        return o + kernels.window_attention(x.q, x.k, x.v, layout, impl="triton")

    compiled = torch.compile(branches, fullgraph=True, backend=BACKEND)
    torch.testing.assert_close(compiled(x), branches(x))


def test_another_number_of_tokens_stops_recompiling_once_sizes_are_known_to_vary() -> None:
    torch.compiler.reset()
    counter = CompileCounterWithBackend(BACKEND)
    compiled = torch.compile(attend, fullgraph=True, backend=counter)

    def graphs_after(*sizes: int) -> int:
        for tokens in sizes:
            layout, inputs = problem(tokens)
            compiled(inputs, layout)
        return counter.frame_count

    # A size that did not change with the first new N (here the number of windows) counts as fixed until it does.
    assert graphs_after(24, 30, 37) == graphs_after(41, 44, 47)


def test_activation_checkpointing_gives_the_same_gradients() -> None:
    layout, inputs = problem()
    x, y = inputs.leaves(), inputs.leaves()
    o = checkpoint(attend, x, layout, use_reentrant=False)
    for grad, expected in zip(gradients(o, x), gradients(attend(y, layout), y), strict=True):
        torch.testing.assert_close(grad, expected, rtol=0, atol=0)


def test_autocast_leaves_the_operator_in_its_input_dtype() -> None:
    layout, inputs = problem()
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        o = attend(inputs, layout)
    assert o.dtype == torch.float32


def test_gradient_flows_only_to_the_inputs_that_ask_for_it() -> None:
    layout, inputs = problem()
    x = inputs.leaves()
    q_only = Inputs(x.q, *(tensor.detach() for tensor in x.tensors()[1:]))
    attend(q_only, layout).sum().backward()
    assert x.q.grad is not None
    assert x.k.grad is None


@pytest.mark.gpu
def test_forward_and_backward_can_be_captured_in_a_cuda_graph() -> None:
    layout, inputs = problem(250)
    x = inputs.leaves()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):  # warm up, as capture requires
        gradients(attend(x, layout), x)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        o = attend(x, layout)
        captured = gradients(o, x)
    graph.replay()
    torch.cuda.synchronize()
    for grad, expected in zip(captured, gradients(attend(x, layout), x), strict=True):
        torch.testing.assert_close(grad, expected, rtol=0, atol=0)
