"""The file of captured inputs: what goes in comes out, rows follow their voxels and blocks, and nonsense is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_shape import small_shape
from torch import Tensor

from bench.captured import load_captured, save_captured
from bench.providers import get_provider, make_problem
from bench.workloads import Tokens, make_tokens
from kernels.layout import BlockLayout
from kernels.testing import Inputs

SHAPE = small_shape(topk=3)
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return make_tokens("mesh:deer", 200)


@pytest.fixture(scope="module")
def layout(tokens: Tokens) -> BlockLayout:
    return BlockLayout.from_coords(tokens.coords, resolution=tokens.resolution)


@pytest.fixture(scope="module")
def inputs(layout: BlockLayout) -> Inputs:
    return Inputs.random(layout, heads=4, kv_heads=2, head_dim=16, dtype=torch.float32)


@pytest.fixture
def path(tmp_path: Path, tokens: Tokens, layout: BlockLayout, inputs: Inputs) -> Path:
    path = tmp_path / "deer.safetensors"
    save_captured(path, tokens, layout, inputs, "a test")
    return path


@pytest.fixture
def content(tokens: Tokens, layout: BlockLayout, inputs: Inputs) -> Tensors:
    """The tensors of a file as a user would lay them out."""
    by_token = {name: layout.unsort(getattr(inputs, name)) for name in ("q", "k", "v", "gates")}
    by_block = {name: getattr(inputs, name) for name in ("k_cmp", "v_cmp")}
    blocks = layout.compression_coords[:, 1:].contiguous()
    return {"coords": tokens.coords, "compression_coords": blocks, **by_token, **by_block}


METADATA = {
    "format_version": "1",
    "workload": "mesh:deer",
    "resolution": "13",
    "compression_block": "4",
    "source": "a test",
}


def same(ours: Inputs, theirs: Inputs) -> bool:
    return all(torch.equal(x, y) for x, y in zip(ours.tensors(), theirs.tensors(), strict=True))


def test_what_is_saved_is_loaded(path: Path, tokens: Tokens, layout: BlockLayout, inputs: Inputs) -> None:
    captured = load_captured(path)
    assert (captured.heads, captured.kv_heads, captured.head_dim, captured.compression_block) == (4, 2, 16, 4)
    assert (captured.tokens.name, captured.tokens.resolution, captured.source) == (
        "mesh:deer",
        tokens.resolution,
        "a test",
    )
    assert torch.equal(captured.tokens.coords, tokens.coords)
    assert same(captured.inputs(layout, torch.float32), inputs)
    assert [entry.name for entry in path.parent.iterdir()] == ["deer.safetensors"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_narrow_dtype_is_kept_and_widened_on_request(
    dtype: torch.dtype, tmp_path: Path, tokens: Tokens, layout: BlockLayout, inputs: Inputs
) -> None:
    narrow = Inputs(*(x.to(dtype) for x in inputs.tensors()))
    save_captured(tmp_path / "narrow", tokens, layout, narrow, "a test")
    captured = load_captured(tmp_path / "narrow")
    assert same(captured.inputs(layout, dtype), narrow)
    assert same(captured.inputs(layout, torch.float32), Inputs(*(x.float() for x in narrow.tensors())))


def test_rows_follow_their_voxels_and_blocks_into_any_layout(path: Path, tokens: Tokens) -> None:
    """Each row says where it is from: voxel or block coordinates in its first numbers."""
    layout = BlockLayout.from_coords(tokens.coords, resolution=tokens.resolution, selection_block=4)
    voxels, blocks = layout.coords[:, 1:].float(), layout.compression_coords[:, 1:].float()
    marked = Inputs(
        q=torch.zeros(200, 4, 16),
        k=torch.zeros(200, 2, 16),
        v=torch.zeros(200, 2, 16),
        k_cmp=torch.zeros(len(blocks), 2, 16),
        v_cmp=torch.zeros(len(blocks), 2, 16),
        gates=voxels / tokens.resolution,
    )
    for x in (marked.q, marked.k, marked.v):
        x[:, :, :3] = voxels[:, None]
    for x in (marked.k_cmp, marked.v_cmp):
        x[:, :, :3] = blocks[:, None]
    save_captured(path, tokens, layout, marked, "a test")
    captured = load_captured(path)

    other = BlockLayout.from_coords(
        captured.tokens.coords, resolution=tokens.resolution, selection_block=8, window_shift=3
    )
    assert not torch.equal(other.compression_coords, layout.compression_coords)
    found = captured.inputs(other, torch.float32)
    voxels, blocks = other.coords[:, 1:].float(), other.compression_coords[:, 1:].float()
    assert all(torch.equal(x[:, 0, :3], voxels) for x in (found.q, found.k, found.v))
    assert all(torch.equal(x[:, 1, :3], blocks) for x in (found.k_cmp, found.v_cmp))
    assert torch.equal(found.gates, voxels / tokens.resolution)


def test_the_order_of_a_users_rows_does_not_matter(
    path: Path, content: Tensors, layout: BlockLayout, tokens: Tokens, inputs: Inputs
) -> None:
    shuffled = {}
    for names in (("coords", "q", "k", "v", "gates"), ("compression_coords", "k_cmp", "v_cmp")):
        order = torch.randperm(len(content[names[0]]))
        shuffled |= {name: content[name][order] for name in names}
    before = load_captured(path)
    save_file(shuffled, path, METADATA | {"resolution": str(tokens.resolution)})
    captured = load_captured(path)
    assert torch.equal(captured.tokens.coords, tokens.coords)
    assert same(captured.inputs(layout, torch.float32), inputs)
    assert captured.digest == before.digest


def test_the_digest_tells_files_apart_and_ignores_the_source(
    path: Path, tokens: Tokens, layout: BlockLayout, inputs: Inputs
) -> None:
    first = load_captured(path).digest
    save_captured(path, tokens, layout, inputs, "another sentence")
    assert load_captured(path).digest == first
    inputs = inputs.leaves()
    inputs.v_cmp.data[0, 0, 0] += 1
    save_captured(path, tokens, layout, inputs, "a test")
    assert load_captured(path).digest != first


def drop(name: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__delitem__(name)


def put(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        tensors[name] = change(tensors[name].clone()).contiguous()

    return edit


def first(value: float) -> Callable[[Tensor], Tensor]:
    def change(x: Tensor) -> Tensor:
        x[0] = value
        return x

    return change


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop("k_cmp"), "tensor 'k_cmp' is missing"),
        (drop("coords"), "tensor 'coords' is missing"),
        (put("coords", lambda x: x.long()), "coords must be int32 with rows of 3, got torch.int64 [200, 3]"),
        (put("coords", lambda x: x[:, :2]), "coords must be int32 with rows of 3, got torch.int32 [200, 2]"),
        (put("coords", first(99)), "coords must lie in [0, resolution="),
        (put("coords", first(-1)), "coords must lie in [0, resolution="),
        (put("coords", lambda x: torch.cat([x[1:2], x[1:]])), "coords must not repeat a voxel"),
        (put("compression_coords", lambda x: x.flip(1)), "compression_coords must hold each of the"),
        (put("compression_coords", lambda x: torch.cat([x[1:2], x[1:]])), "blocks of coords // 4 once"),
        (put("q", lambda x: x.double()), "q and k must be [N, heads, head dim] in bfloat16, float16 or float32"),
        (put("q", lambda x: x[1:]), "q must be torch.float32 [200, 4, 16], got torch.float32 [199, 4, 16]"),
        (put("v", lambda x: x[:, :1]), "v must be torch.float32 [200, 2, 16], got torch.float32 [200, 1, 16]"),
        (put("v_cmp", lambda x: x[:-1]), "v_cmp must be torch.float32 ["),
        (put("k", lambda x: x.half()), "k must be torch.float32 [200, 2, 16], got torch.float16"),
        (put("gates", lambda x: x[:, :2]), "gates must be torch.float32 [200, 3]"),
        (put("gates", first(1.5)), "gates must lie in [0, 1], got values in"),
        (put("v", first(float("nan"))), "v has values that are not finite"),
        (put("k_cmp", first(float("inf"))), "k_cmp has values that are not finite"),
    ],
)
def test_a_wrong_tensor_is_named_with_its_file(
    edit: Callable[[Tensors], None], message: str, path: Path, content: Tensors, tokens: Tokens
) -> None:
    edit(content)
    save_file(content, path, METADATA | {"resolution": str(tokens.resolution)})
    with pytest.raises(ValueError, match=r"deer\.safetensors: ") as caught:
        load_captured(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": "2"}, "format_version must be '1', got '2'"),
        ({"workload": ""}, "metadata 'workload' is missing"),
        ({"source": " "}, "metadata 'source' is missing"),
        ({"resolution": "many"}, "metadata 'resolution' must be a whole number from 1 to 2048, got 'many'"),
        ({"compression_block": "0"}, "metadata 'compression_block' must be a whole number"),
    ],
)
def test_wrong_metadata_is_named(changes: dict[str, str], message: str, path: Path, content: Tensors) -> None:
    save_file(content, path, METADATA | changes)
    with pytest.raises(ValueError, match=r"deer\.safetensors: ") as caught:
        load_captured(path)
    assert message in str(caught.value)


def test_other_files_are_refused_in_one_line(path: Path, content: Tensors) -> None:
    save_file(content, path)
    with pytest.raises(ValueError, match="format_version must be '1', got None"):
        load_captured(path)
    path.write_text("no tensors")
    for wrong in (path, path.parent / "missing.safetensors", path.parent):
        with pytest.raises(ValueError, match=f"{wrong}: not a readable safetensors file: .") as caught:
            load_captured(wrong)
        assert "\n" not in str(caught.value)


def test_what_could_not_be_loaded_is_not_written(
    path: Path, tokens: Tokens, layout: BlockLayout, inputs: Inputs
) -> None:
    before = load_file(path)
    broken = inputs.leaves()
    broken.q.data[0] = float("nan")
    with pytest.raises(ValueError, match="not written: q has values that are not finite"):
        save_captured(path, tokens, layout, broken, "a test")
    assert torch.equal(load_file(path)["q"], before["q"])
    assert len(list(path.parent.iterdir())) == 1


def test_a_layout_of_other_tokens_or_blocks_is_refused(path: Path, tokens: Tokens) -> None:
    captured = load_captured(path)
    others = make_tokens("gyroid", 200)
    for coords, side, block in (
        (tokens.coords, tokens.resolution, 2),
        (others.coords, others.resolution, 4),
        (tokens.coords[:50], tokens.resolution, 4),
    ):
        layout = BlockLayout.from_coords(coords, resolution=side, compression_block=block)
        with pytest.raises(ValueError, match="layout must be of the captured tokens, in compression blocks of 4"):
            captured.inputs(layout, torch.float32)


def test_values_that_a_dtype_cannot_hold_are_refused(
    path: Path, tokens: Tokens, layout: BlockLayout, inputs: Inputs
) -> None:
    large = inputs.leaves()
    large.v.data[0] = 1e6
    save_captured(path, tokens, layout, large, "a test")
    with pytest.raises(ValueError, match=r"captured values do not fit into torch\.float16"):
        load_captured(path).inputs(layout, torch.float16)


def test_a_problem_takes_captured_inputs_and_says_so(path: Path, inputs: Inputs) -> None:
    captured = load_captured(path)
    problem = make_problem(captured, SHAPE, device="cpu", seed=5)
    assert problem.workload.inputs == f"captured:{captured.digest}"
    assert problem.workload.captured == captured.digest
    assert problem.workload.label == "mesh:deer, captured"
    assert same(problem.inputs, inputs)


def test_native_sparse_attention_gets_the_captured_rows_and_the_means_of_its_own_blocks(path: Path) -> None:
    captured = load_captured(path)
    problem = make_problem(captured, SHAPE, device="cpu", seed=0)
    local = get_provider("nsa-eager").adapt(problem)
    assert local.workload == problem.workload
    assert same(  # raster order is the order of the tokens
        Inputs(local.inputs.q, local.inputs.k, local.inputs.v, *captured.rows.tensors()[3:5], local.inputs.gates),
        captured.rows,
    )
    for summaries, rows in ((local.inputs.k_cmp, captured.rows.k), (local.inputs.v_cmp, captured.rows.v)):
        expected = torch.stack([part.mean(0) for part in rows.split(32)])
        torch.testing.assert_close(summaries, expected)
