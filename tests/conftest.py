"""Fixtures for all tests."""

import os
import sys
from pathlib import Path

import pytest

from flows.environment import set_defaults

set_defaults()  # tests call home as little as runs do
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole pipelines first: beside a file that takes minutes another worker does all the rest."""
    items.sort(key=lambda item: item.get_closest_marker("e2e") is None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests that need a GPU say so where there is none."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device, or a torch that was built without CUDA")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and tiny pretrained models, where they are: `PREFLOW_SHARED`, else `shared` beside the checkout."""
    folder = Path(os.environ.get("PREFLOW_SHARED") or Path(__file__).parents[2] / "shared")
    if not (folder / "models").is_dir():
        pytest.skip(f"no shared data at {folder.name}: set PREFLOW_SHARED")
    return folder


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where transformers copies a model's own code to before it runs it, with nothing loaded from an earlier test.

    It does not run a module again whose name and bytes it has already loaded, whatever folder they came from.
    """
    from transformers import dynamic_module_utils

    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))  # for processes that the test starts
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path / "modules"
