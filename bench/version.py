"""The version of the installed distribution."""

from __future__ import annotations

import importlib.metadata


def version() -> str:
    """Version of the installed `ssabench`, or "not installed" where the modules run from a bare checkout."""
    try:
        return importlib.metadata.version("ssabench")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
