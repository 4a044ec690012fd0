"""Every public operator refuses what does not fit with one line that begins with the argument's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import kernels
from kernels.layout import BlockLayout
from kernels.testing import Inputs

TOKENS, HEADS, KV_HEADS, HEAD_DIM = 6, 4, 2, 16


def make_layout() -> BlockLayout:
    coords = torch.tensor([[0, 0, 3 * token] for token in range(TOKENS)], dtype=torch.int32)
    return BlockLayout.from_coords(coords, resolution=18)


LAYOUT = make_layout()
BLOCKS = LAYOUT.compression_coords.shape[0]
assert BLOCKS != TOKENS  # so that tokens and blocks cannot be confused unseen

KEYS, SUMMARIES = ("k", "v"), ("k_cmp", "v_cmp")
OPERATORS: dict[str, tuple[str, ...]] = {
    "compressed_attention": ("q", *SUMMARIES, "layout"),
    "compressed_lse": ("q", "k_cmp", "layout"),
    "select_blocks": ("q", "k_cmp", "layout", "topk"),
    "selected_attention": ("q", *KEYS, "block_indices", "layout"),
    "window_attention": ("q", *KEYS, "layout"),
    "spatial_sparse_attention": ("q", *KEYS, *SUMMARIES, "gates", "layout", "topk"),
}


def fitting(operator: str, **changed: Any) -> dict[str, Any]:
    x = Inputs.random(LAYOUT, heads=HEADS, kv_heads=KV_HEADS, head_dim=HEAD_DIM, dtype=torch.float32)
    everything: dict[str, Any] = {
        **vars(x),
        "layout": LAYOUT,
        "topk": 2,
        "block_indices": torch.zeros(KV_HEADS, TOKENS, 1, dtype=torch.int32),
    }
    return {name: everything[name] for name in OPERATORS[operator]} | {"impl": "eager"} | changed


def call(operator: str, **changed: Any) -> Tensor:
    result: Tensor = getattr(kernels, operator)(**fitting(operator, **changed))
    return result


def refuses(operator: str, argument: str, **changed: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{argument} must ") as caught:
        call(operator, **changed)
    assert "\n" not in str(caught.value)


def taking(*arguments: str) -> list[tuple[str, str]]:
    """Every (operator, argument) with one of these arguments."""
    return [(operator, name) for operator, names in OPERATORS.items() for name in names if name in arguments]


def each(*arguments: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("operator", "argument"), taking(*arguments))


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_fits_runs(operator: str) -> None:
    assert call(operator).shape[-2:] == {
        "select_blocks": (TOKENS, 2),
        "compressed_lse": (TOKENS, HEADS),
    }.get(operator, (HEADS, HEAD_DIM))


@each("q", *KEYS, *SUMMARIES)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda x: x[:-1], id="one row short"),
        pytest.param(lambda x: torch.cat([x, x[:1]]), id="one row too many"),
        pytest.param(lambda x: x[:, 0], id="no head dimension"),
        pytest.param(lambda x: x[None], id="a batch dimension"),
        pytest.param(lambda x: x.int(), id="integers"),
        pytest.param(lambda x: x[:, :0], id="no heads"),
    ],
)
def test_shape_and_dtype(operator: str, argument: str, change: Callable[[Tensor], Tensor]) -> None:
    refuses(operator, argument, **{argument: change(fitting(operator)[argument])})


@each(*KEYS, *SUMMARIES)
def test_keys_have_the_dtype_device_and_head_dim_of_q(operator: str, argument: str) -> None:
    x = fitting(operator)[argument]
    refuses(operator, argument, **{argument: x.half()})
    refuses(operator, argument, **{argument: x.double()})
    refuses(operator, argument, **{argument: x.to("meta")})
    refuses(operator, argument, **{argument: torch.cat([x, x], dim=2)})


@each(*KEYS, *SUMMARIES)
@pytest.mark.parametrize("kv_heads", [3, 8])
def test_the_kv_heads_divide_the_heads(operator: str, argument: str, kv_heads: int) -> None:
    refuses(operator, argument, **{argument: torch.zeros(fitting(operator)[argument].shape[0], kv_heads, HEAD_DIM)})


@each("k", "k_cmp")
def test_a_group_has_at_most_32_heads(operator: str, argument: str) -> None:
    x = fitting(operator)
    one_kv_head = {name: x[name][:, :1] for name in (*KEYS, *SUMMARIES) if name in x}
    if "block_indices" in x:
        one_kv_head["block_indices"] = x["block_indices"][:1]
    call(operator, q=torch.zeros(TOKENS, 32, HEAD_DIM), **one_kv_head)
    if argument == "k_cmp" and operator == "spatial_sparse_attention":
        one_kv_head["k"] = one_kv_head["v"] = torch.zeros(TOKENS, 3, HEAD_DIM)
    refuses(operator, argument, q=torch.zeros(TOKENS, 33, HEAD_DIM), **one_kv_head)


@pytest.mark.parametrize(("operator", "argument"), taking("v", "v_cmp"))
def test_values_have_the_shape_of_the_keys(operator: str, argument: str) -> None:
    refuses(operator, argument, **{argument: fitting(operator)[argument][:, :1]})


def test_summaries_have_the_kv_heads_of_the_keys() -> None:
    x = fitting("spatial_sparse_attention")
    refuses("spatial_sparse_attention", "k_cmp", k_cmp=x["k_cmp"][:, :1], v_cmp=x["v_cmp"][:, :1])


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("head_dim", [8, 15, 129, 160])
def test_the_head_dim_is_from_16_to_128(operator: str, head_dim: int) -> None:
    x = fitting(operator)
    resized = {name: torch.zeros(*x[name].shape[:2], head_dim) for name in ("q", *KEYS, *SUMMARIES) if name in x}
    with pytest.raises(ValueError, match=rf"^q must have a head dim D from 16 to 128, got {head_dim}$"):
        call(operator, **resized)


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_layout_is_on_the_device_of_q(operator: str) -> None:
    refuses(operator, "layout", layout=LAYOUT.to("meta"))
    refuses(operator, "layout", q=fitting(operator)["q"].to("meta"))


@each("topk")
@pytest.mark.parametrize("topk", [0, -1, True, 2.0, "2", None])
def test_topk_is_a_positive_integer(operator: str, argument: str, topk: object) -> None:
    refuses(operator, argument, topk=topk)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -float("inf")])
def test_the_scale_is_finite(operator: str, scale: float) -> None:
    refuses(operator, "scale", scale=scale)


@pytest.mark.parametrize(
    "gates",
    [
        torch.zeros(TOKENS, 2),
        torch.zeros(TOKENS - 1, 3),
        torch.zeros(TOKENS, 3, HEADS),
        torch.zeros(TOKENS, 3, dtype=torch.float16),
        torch.zeros(TOKENS, 3, device="meta"),
    ],
    ids=["columns", "rows", "a head dimension", "dtype", "device"],
)
def test_gates(gates: Tensor) -> None:
    refuses("spatial_sparse_attention", "gates", gates=gates)


@pytest.mark.parametrize(
    "block_indices",
    [
        torch.zeros(KV_HEADS, TOKENS, dtype=torch.int32),
        torch.zeros(HEADS, TOKENS, 1, dtype=torch.int32),
        torch.zeros(KV_HEADS, TOKENS + 1, 1, dtype=torch.int32),
        torch.zeros(KV_HEADS, TOKENS, 1, dtype=torch.int64),
        torch.zeros(KV_HEADS, TOKENS, 1, dtype=torch.int32, device="meta"),
    ],
    ids=["dimensions", "heads", "rows", "dtype", "device"],
)
def test_block_indices(block_indices: Tensor) -> None:
    refuses("selected_attention", "block_indices", block_indices=block_indices)


@pytest.mark.parametrize(
    "lse",
    [
        torch.zeros(TOKENS, KV_HEADS),
        torch.zeros(TOKENS + 1, HEADS),
        torch.zeros(TOKENS, HEADS, dtype=torch.float16),
        torch.zeros(TOKENS, HEADS, dtype=torch.int32),
        torch.zeros(TOKENS, HEADS, device="meta"),
    ],
    ids=["heads", "rows", "half", "integers", "device"],
)
def test_lse(lse: Tensor) -> None:
    refuses("select_blocks", "lse", lse=lse)


@pytest.mark.parametrize("operator", [*OPERATORS, "full_attention"])
def test_an_unknown_impl_lists_the_known_ones(operator: str) -> None:
    x = fitting("window_attention" if operator == "full_attention" else operator, impl="flash")
    with pytest.raises(ValueError, match=r"^impl must be .*reference.*, got 'flash'$"):
        getattr(kernels, operator)(**x)


@pytest.mark.parametrize(
    ("argument", "change"),
    [
        ("q", {"q": torch.zeros(TOKENS - 1, HEADS, HEAD_DIM)}),
        ("q", {"q": torch.zeros(TOKENS, 3, HEAD_DIM)}),
        ("k", {"k": torch.zeros(TOKENS, KV_HEADS, 2 * HEAD_DIM)}),
        ("v", {"v": torch.zeros(TOKENS, 1, HEAD_DIM)}),
        ("v", {"v": torch.zeros(TOKENS, KV_HEADS, HEAD_DIM, device="meta")}),
        ("k", {"k": torch.zeros(TOKENS, KV_HEADS, HEAD_DIM, dtype=torch.float16)}),
    ],
)
def test_full_attention_names_the_argument(argument: str, change: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=rf"\b{argument}\b"):
        kernels.full_attention(**fitting("window_attention", impl="auto") | change)


@pytest.mark.parametrize("operator", OPERATORS)
def test_triton_without_gpu_or_interpreter_is_unavailable(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match=r"impl 'triton' cannot run here: tensors are on cpu"):
        call(operator, impl="triton")


@pytest.mark.parametrize("operator", OPERATORS)
def test_triton_that_is_not_installed_is_unavailable(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.api._TRITON_INSTALLED", False)
    with pytest.raises(RuntimeError, match=r"impl 'triton' cannot run here: the package triton is not installed"):
        call(operator, impl="triton")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_triton_is_unavailable_for_dtypes_it_gets_wrong(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, where only the interpreter could run."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    q = torch.zeros(TOKENS, HEADS, HEAD_DIM, dtype=dtype)
    with pytest.raises(RuntimeError, match=r"impl 'triton' cannot run here: .*(float64|bf16)"):
        kernels.resolve_impl("triton", q)
    assert kernels.resolve_impl("auto", q) == "eager"


def test_auto_is_triton_where_it_can_run_and_eager_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.zeros(TOKENS, HEADS, HEAD_DIM)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert kernels.resolve_impl("auto", q) == "triton"
    monkeypatch.delenv("TRITON_INTERPRET")
    assert kernels.resolve_impl("auto", q) == "eager"
    for name in ("reference", "eager"):
        assert kernels.resolve_impl(name, q) == name
