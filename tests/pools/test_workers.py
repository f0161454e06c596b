"""Slots: who has a device in common with another takes turns with it, however either names it."""

import os
import platform
from pathlib import Path

import pytest

from flows.pools import serving
from flows.pools.workers import CHECKOUT, SLOTS, slots_of
from tasks import redact
from tasks.redact import logged

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


def test_homes_have_names_that_a_file_system_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    host = "ip-10-0-12-34.some-region.compute.internal"
    slots = [f"preflow-{host}-gpu-{number}" for number in range(16)]
    names = [serving._place_of(some) for some in (slots, slots[:15], slots[1:], slots[:1])]
    assert max(map(len, names)) < 128 and len(set(names)) == 4
    assert names[-1] == slots[0]


def test_what_a_worker_is_told_of_itself_may_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redact, "_hidden", redact._hidden.__wrapped__)  # not as the environment was
    for name in (SLOTS, CHECKOUT):
        monkeypatch.setenv(name, "preflow-box-gpu-0")
        assert logged("in preflow-box-gpu-0") == "in preflow-box-gpu-0"
        monkeypatch.delenv(name)
