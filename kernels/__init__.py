"""Spatial Sparse Attention and the attention operators it is measured against.

Importing this package loads neither torch nor triton: names are resolved on first use. It defines no version
attribute either. Both rules exist because `kernels` is also the name of a package on the public index that other
libraries probe for by importing it (see CONTRIBUTING.md).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kernels.api import (
        compressed_attention,
        compressed_lse,
        full_attention,
        resolve_impl,
        select_blocks,
        selected_attention,
        spatial_sparse_attention,
        window_attention,
    )
    from kernels.layout import BlockLayout

_HOME = {
    "BlockLayout": "kernels.layout",
    "compressed_attention": "kernels.api",
    "compressed_lse": "kernels.api",
    "full_attention": "kernels.api",
    "resolve_impl": "kernels.api",
    "select_blocks": "kernels.api",
    "selected_attention": "kernels.api",
    "spatial_sparse_attention": "kernels.api",
    "window_attention": "kernels.api",
}

__all__ = [
    "BlockLayout",
    "compressed_attention",
    "compressed_lse",
    "full_attention",
    "resolve_impl",
    "select_blocks",
    "selected_attention",
    "spatial_sparse_attention",
    "window_attention",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'kernels' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
