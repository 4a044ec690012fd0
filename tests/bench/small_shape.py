"""The attention shape of tests on tiny problems."""

from __future__ import annotations

from typing import Any

from bench.records import Shape


def small_shape(**changes: Any) -> Shape:
    """Four heads of width 16 in two key-value groups, fp32, the top two blocks; or with other fields."""
    fields: dict[str, Any] = {
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 16,
        "dtype": "float32",
        "compression_block": 4,
        "selection_block": 8,
        "window": 8,
        "window_shift": 0,
        "topk": 2,
    }
    return Shape(**(fields | changes))
