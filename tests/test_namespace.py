"""The name `kernels` is also that of a public package which other libraries probe for; ours must not pass for it."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import kernels

REPOSITORY = Path(__file__).resolve().parents[1]
TOP_LEVEL = ("kernels", "models", "bench", "eval", "reports", "cli")


def fresh_interpreter(code: str) -> str:
    ran = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def test_importing_kernels_loads_neither_torch_nor_triton() -> None:
    code = "import sys, kernels; print(sorted({name.split('.')[0] for name in sys.modules} & {'torch', 'triton'}))"
    assert fresh_interpreter(code) == "[]"


def test_a_public_name_loads_torch_on_first_use() -> None:
    assert fresh_interpreter("import sys, kernels; kernels.BlockLayout; print('torch' in sys.modules)") == "True"


def test_kernels_has_no_version_to_be_probed() -> None:
    assert not hasattr(kernels, "__version__")


@pytest.mark.parametrize("name", kernels.__all__)
def test_every_public_name_resolves_to_the_object_of_its_module(name: str) -> None:
    found = getattr(kernels, name)
    assert found.__name__ == name
    assert getattr(sys.modules[found.__module__], name) is found
    assert found.__module__.startswith("kernels.")


def test_public_names_are_listed_once_and_in_order() -> None:
    assert dir(kernels) == sorted(set(kernels.__all__)) == kernels.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'kernels' has no attribute 'get_kernel'"):
        _ = kernels.get_kernel  # type: ignore[attr-defined]  # what libraries look for in the other package


def test_the_other_distribution_is_not_installed() -> None:
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.distribution("kernels")
    assert Path(kernels.__file__ or "").resolve().parent == REPOSITORY / "kernels"


def test_the_wheel_lists_exactly_the_packages_that_exist() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    listed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    existing = [name for name in TOP_LEVEL if (REPOSITORY / name / "__init__.py").exists()]
    assert sorted(listed) == sorted(existing)
    assert not any(dependency.startswith("kernels") for dependency in project["project"]["dependencies"])
