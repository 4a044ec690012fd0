"""A small dataset, prepared once, of what a folder of meshes may hold."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helpers, for the tests and for the processes that they spawn

from mesh_folder import SETTINGS, write_meshes

from models.data.dataset.prepare import prepare


@pytest.fixture(scope="session")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five good meshes, one of them twice, and bad ones."""
    return write_meshes(tmp_path_factory.mktemp("meshes"))


@pytest.fixture(scope="session")
def dataset(meshes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("datasets") / "dataset"
    prepare(str(meshes), out, SETTINGS, workers=0)
    return out
