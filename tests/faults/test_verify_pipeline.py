"""One flipped bit in each kind of file of a real pipeline that trains adapters: `verify` names and mends it."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.kills.checkout import SHORT
from flows import dvc
from flows.cache import files_of
from tasks.lineage import read_tree
from tests.flows.verify_story import flip
from tests.test_end_to_end import copied, environ, typed

pytestmark = pytest.mark.slow
ADAPTER = "adapter_model.safetensors"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    root = copied(tmp_path / "project", SHORT | {"training.method": "lora", "training.rank": 4})
    yield root
    preflow(root, "stop")


def preflow(root: Path, *arguments: str, code: int = 0) -> str:
    done = typed(root, *arguments)
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout


def verify(root: Path, *options: str, code: int) -> dict[tuple[str, str], Any]:
    """What is wrong by kind and stage: how it was mended, if it was."""
    found = json.loads(preflow(root, "verify", "--json", *options, code=code))
    assert found["missing"] == []
    return {(one["kind"], one["stage"]): one["mended"] for one in found["wrong"]}


def killed_with_two_checkpoints(root: Path) -> list[Path]:
    """Run until SFT has two checkpoints, then kill -9 all of the run; the checkpoints."""
    run = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run"],
        cwd=root,
        env=environ(),
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    there: list[Path] = []
    while len(there) < 2:
        assert run.poll() is None, "the run ended before SFT had two checkpoints"
        threading.Event().wait(0.05)
        there = sorted(path.parent for path in root.glob(".preflow/scratch/sft-*/*/step-*/manifest.json"))
    for process in [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]:
        process.send_signal(signal.SIGKILL)
    run.wait()
    return there


@pytest.mark.faults(
    14,
    injected="one bit in a checkpoint's weights, one in the manifest of the one before, of a real SFT that was killed",
    happens="verify names both and sets them aside; the run goes on and ends",
)
@pytest.mark.faults(
    37,
    injected="one bit in each of: a data file, a cached object, an adapter, the rollout store of a real pipeline",
    happens="DVC sees nothing; verify names each with its stage and mends it; dvc.lock stays as it was",
)
def test_one_flipped_bit_in_each_kind_of_file(project: Path) -> None:
    older, newer = killed_with_two_checkpoints(project)[-2:]
    flip(newer / "tensors.safetensors")
    (older / "manifest.json").write_text((older / "manifest.json").read_text().replace("sha256", "sha257"))
    assert set(verify(project, code=1)) == {("checkpoint", "sft")}
    assert all(verify(project, "--fix", code=0).values())
    preflow(project, "run", "--no-promote")
    assert verify(project, code=0) == {}
    lock = (project / "dvc.lock").read_bytes()

    policy = str(read_tree(project).digests()["data/05_sft/policy"])
    before = files_of(dvc.cache(project), policy)
    name = next(name for name in before if name.endswith(ADAPTER))
    cached = before[name]
    assert cached is not None
    same = (project / "data/05_sft/policy" / name).stat().st_ino == cached.stat().st_ino
    assert not same, "the cache and the working copy are one file: flip them apart"
    data = project / "data"
    trained = data / "10_rl/policy"  # the adapters of stages before it are there too
    adapter = next(path for path in trained.rglob(ADAPTER) if path.relative_to(trained).as_posix() not in before)
    rollouts = next((data / "08_samples/rollouts").glob("*"))
    for path in (cached, data / "02_prepared/demonstrations/rows.jsonl", adapter, rollouts):
        flip(path)
    status = dvc.call(project, "status")
    assert "up to date" in status.stdout
    expected = {("object", "sft"), ("output", "prepare"), ("output", "rl"), ("output", "sample")}
    assert set(verify(project, code=1)) == expected
    mended = verify(project, "--fix", code=0)
    assert set(mended) == expected
    assert all(mended.values())
    assert verify(project, code=0) == {}
    assert (project / "dvc.lock").read_bytes() == lock

    lists = (project / "mlruns/artifacts").glob("*/artifacts/SHA256SUMS")
    flip(max(lists, key=lambda path: path.stat().st_mtime).with_name("samples.json"))
    assert verify(project, code=1) == {("artifact", ""): None}
