"""Options of `pytest bench`."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ssabench")
    group.addoption(
        "--tokens",
        type=int,
        action="append",
        help="Token count. Repeatable. Default: 8192 and 32768; on a CPU 512 and 1024.",
    )
    group.addoption(
        "--provider", action="append", help="Provider, * allowed. Repeatable. Default: ssa-triton; on a CPU ssa-eager."
    )
    group.addoption("--workload", default="gyroid", help="gyroid, sphere, mesh:NAME or mesh:PATH. Default: gyroid.")
    group.addoption("--device", help="cpu, cuda or cuda:N. Default: cuda where there is one.")
