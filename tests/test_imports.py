"""Imports run one way: kernels <- models <- {bench, eval} <- reports <- cli."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
# What each package may import. A dotted name allows that module and nothing beside it.
ALLOWED: dict[str, set[str]] = {
    "kernels": set(),
    "models": {"kernels"},
    "bench": {"kernels", "models"},
    "eval": {"kernels", "models"},
    "reports": {"kernels", "models", "eval", "bench.records"},
    "cli": {"kernels", "models", "bench", "eval", "reports"},
}
MODULES = [
    path.relative_to(REPOSITORY).as_posix()
    for package in ALLOWED
    for path in sorted((REPOSITORY / package).rglob("*.py"))
]


def imported(source: str) -> Iterator[str]:
    """Every module, or name of a module, that the source imports anywhere: also in functions and for types only."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide their package"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def forbidden(package: str, source: str) -> list[str]:
    """Imports of the project's packages that `package` may not make."""
    return [
        name
        for name in imported(source)
        if (root := name.split(".")[0]) in ALLOWED
        and root != package
        and not any(name == allowed or name.startswith(f"{allowed}.") for allowed in ALLOWED[package])
    ]


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    assert forbidden(module.split("/")[0], (REPOSITORY / module).read_text()) == []


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("kernels", "import bench"),
        ("kernels", "from bench.workloads import gyroid"),
        ("kernels", "def f():\n    import cli.app"),
        ("models", "from bench import records"),
        ("bench", "from eval.metrics import chamfer"),
        ("eval", "import bench.records"),
        ("bench", "if TYPE_CHECKING:\n    from reports.study import Study"),
        ("reports", "from bench.timing import measure"),
        ("reports", "from bench import timing"),
        ("reports", "import bench"),
        ("reports", "from cli import output"),
    ],
)
def test_a_forbidden_import_is_found(package: str, source: str) -> None:
    assert len(forbidden(package, source)) == 1


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("kernels", "import torch\nfrom kernels.layout import BlockLayout"),
        ("bench", "from kernels import api"),
        ("reports", "from bench.records import Record\nfrom bench import records"),
        ("cli", "import bench.speed, reports, kernels"),
        ("bench", "import benchmarks, evaluate"),  # names that merely begin alike
    ],
)
def test_an_allowed_import_passes(package: str, source: str) -> None:
    assert forbidden(package, source) == []


def test_there_are_modules_to_look_at() -> None:
    assert {"kernels/api.py", "bench/records.py", "reports/tables.py", "cli/app.py"} <= set(MODULES)


def test_the_command_line_starts_without_torch() -> None:
    code = (
        "import sys, cli.app; print(sorted({'torch', 'triton', 'pandas', 'matplotlib', 'plotly'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
