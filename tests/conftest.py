"""Fixtures for all tests."""

import os
from pathlib import Path

import pytest

from flows.environment import set_defaults

set_defaults()  # tests call home as little as runs do
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and tiny pretrained models, where they are: `PREFLOW_SHARED`, else `shared` beside the checkout."""
    folder = Path(os.environ.get("PREFLOW_SHARED") or Path(__file__).parents[2] / "shared")
    if not (folder / "models").is_dir():
        pytest.skip(f"no shared data at {folder.name}: set PREFLOW_SHARED")
    return folder
