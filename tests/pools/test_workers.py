"""Slots: who has a device in common with another takes turns with it, however either names it."""

import os
import platform
from pathlib import Path

import pytest

from flows.pools.workers import slots_of

SMI = """#!/bin/sh
echo '0, GPU-8a1f0000-0000'
echo '1, GPU-8b2e0000-0000'
echo '2, GPU-8b3d0000-0000'
"""


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose driver tells of three."""
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def devices(**environ: str) -> list[str]:
    return [slot.removeprefix(f"preflow-{platform.node()}-") for slot in slots_of(environ)]


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("visible", "found"),
    [
        ("0", ["gpu-0"]),
        (" 1,0", ["gpu-0", "gpu-1"]),
        ("GPU-8b2e0000-0000", ["gpu-1"]),
        ("GPU-8a", ["gpu-0"]),  # CUDA takes as much of it as tells one from the others
        ("0,-1,1", ["gpu-0"]),
        ("MIG-GPU-8a1f/1/0", ["gpu-MIG-GPU-8a1f_1_0"]),
        ("", ["cpu"]),
        ("-1", ["cpu"]),
    ],
)
def test_a_slot_is_a_device(visible: str, found: list[str]) -> None:
    assert devices(CUDA_VISIBLE_DEVICES=visible) == found


@pytest.mark.usefixtures("gpus")
def test_who_names_none_may_use_all() -> None:
    assert devices() == ["gpu-0", "gpu-1", "gpu-2"]


def test_without_a_driver_there_is_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert devices() == ["cpu"]
    assert devices(CUDA_VISIBLE_DEVICES="1,0") == ["gpu-0", "gpu-1"]
