"""One of two processes is killed, or stops where it stands: the other ends, and both go on to the same bytes."""

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from rlhf import distributed
from tests.distributed import several
from tests.faults import child
from tests.tasks import tiny

UPDATES = {"sft": 12, "grpo": 6, "ppo": 6, "sft, sharded": 12, "ppo, sharded": 6, "lora, sharded": 12}
"""Optimiser steps of each trainer; checkpoints are three apart, or two."""
AT = 5
"""The update that one process does not live to see."""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("given")
    for name in UPDATES:
        several.prepared(name, folder / name)
    return folder


def work(name: str, given: Path, folder: Path, before: Callable[[int], None] = lambda rank: None) -> Any:
    """For `several.begun`: the first process works in `folder`, and goes on with what is there; the others beside."""

    def as_rank(rank: int) -> None:
        before(rank)
        several.run(name, given / name, folder if rank == 0 else folder / f"beside-{os.getpid()}")

    return as_rank


def finished(name: str, given: Path, folder: Path, count: int = 2) -> dict[str, bytes]:
    """The outputs, once `count` processes have done what was left to do."""
    assert several.ended(work(name, given, folder), count, folder) == [0] * count
    return tiny.contents(folder / "out")


def faulty_at(update: int, what: str, of: int) -> Callable[[int], None]:
    """At its update number so many, process `of` is killed, or stopped."""
    return lambda rank: child.faulty(f"step.update:{update}:{what}" if rank == of else "")


@pytest.mark.faults(
    51,
    injected="kill -9 of either of two gloo ranks of SFT, GRPO and PPO, also with FSDP2",
    happens="the other ends with a sentence at once; two go on to the same bytes",
)
@pytest.mark.parametrize(
    ("name", "killed"),
    [
        ("sft", 1),
        ("ppo", 1),
        ("sft, sharded", 0),
        ("lora, sharded", 0),
        *(pytest.param(*more, marks=pytest.mark.slow) for more in (("sft", 0), ("grpo", 1), ("ppo, sharded", 1))),
    ],
)
def test_one_is_killed(name: str, killed: int, given: Path, tmp_path: Path) -> None:
    expected = finished(name, given, tmp_path / "unbroken")
    folder = tmp_path / "broken"
    begun = time.monotonic()
    dying = work(name, given, folder, faulty_at(AT, "kill", killed))
    ends = several.ended(dying, 2, folder)
    assert (ends[killed], ends[1 - killed]) == (-signal.SIGKILL, 1)
    assert time.monotonic() - begun < 60
    said = (folder / f"stderr-{1 - killed}").read_text()
    assert "PreflowError: another of the 2 processes of this training has ended" in said
    assert list((folder / "out").iterdir()) == []
    assert saved(folder) == ([3] if UPDATES[name] == 12 else [2, 4])
    assert finished(name, given, folder) == expected
    assert len(steps(folder)) < UPDATES[name] + 2, "it began anew"


@pytest.mark.faults(
    52, injected="SIGSTOP of one of two gloo ranks",
    happens="after the time set the other says where its threads stand, and ends as one that is to be begun again",
)  # fmt: skip
def test_one_hangs(given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(distributed.TIMEOUT, "2")
    hanging = work("sft", given, tmp_path, faulty_at(AT, "stop", 1))
    first, second = several.begun(hanging, 2, tmp_path)
    try:
        assert child.waited(first) == 1
    finally:
        os.kill(second, signal.SIGKILL)
        child.waited(second)
    said = (tmp_path / "stderr-0").read_text()
    assert "rlhf.errors.Preempted: another of the 2 processes" in said
    assert "does not answer within PREFLOW_RANK_TIMEOUT" in said
    stack = said.partition("(most recent call first)")[2]
    assert "in _company" in stack and "in fit" in stack
    monkeypatch.delenv(distributed.TIMEOUT)
    assert finished("sft", given, tmp_path).keys() > {"metrics.json"}


@pytest.mark.faults(
    53,
    injected="a training of two ranks, killed, goes on with one, and one of one with two; also with FSDP2",
    happens="it does, weights within 1e-5, and says `resharded` on stderr and as a metric",
)
@pytest.mark.parametrize("name", ["sft", "sft, sharded", "lora, sharded"])
@pytest.mark.parametrize("sizes", [(2, 1), (1, 2)], ids=["2-1", "1-2"])
def test_another_number_of_processes(name: str, sizes: Sequence[int], given: Path, tmp_path: Path) -> None:
    expected = finished(name, given, tmp_path / "unbroken")
    folder, (before, after) = tmp_path / "broken", sizes
    several.ended(work(name, given, folder, faulty_at(AT, "kill", 0)), before, folder)
    assert saved(folder) == [3]
    for path in folder.glob("stderr-*"):
        path.unlink()
    found = finished(name, given, folder, after)
    assert found.keys() == expected.keys()
    assert f"resharded ({before} → {after} processes): not bitwise" in (folder / "stderr-0").read_text()
    assert steps(folder)["3"]["sft/resharded"] == 1.0
    assert "sft/resharded" not in json.dumps(steps(tmp_path / "unbroken"))
    files = [path.relative_to(tmp_path / "unbroken") for path in (tmp_path / "unbroken/out").rglob("*.safetensors")]
    weights = [
        [tensor for file in files for tensor in load_file(one / file).values()]
        for one in (tmp_path / "unbroken", folder)
    ]
    assert max((one - other).abs().max().item() for one, other in zip(*weights, strict=True)) < 1e-5


def test_each_process_keeps_its_share(given: Path, tmp_path: Path) -> None:
    """What the second one writes is about half of the blocks' weights, and of both moments."""
    several.ended(work("sft, sharded", given, tmp_path, faulty_at(AT, "kill", 0)), 2, tmp_path)
    (folder,) = tmp_path.rglob("checkpoints/step-*")
    first, second = (load_file(folder / name) for name in ("tensors.safetensors", "tensors-1.safetensors"))
    blocks = {name for name in first if ".layers." in name and first[name].dim()}
    assert second.keys() == blocks and len(blocks) == 3 * 9
    sizes = [sum(part[name].numel() for name in blocks) for part in (first, second)]
    assert sizes[0] == sizes[1] == 3 * (4 * 16 * 16 + 3 * 16 * 32 + 2 * 16) / 2


def test_each_process_keeps_its_share_of_an_adapter(given: Path, tmp_path: Path) -> None:
    """Of both halves of every layer, with their moments; rows of control tokens lie outside of the blocks."""
    several.ended(work("lora, sharded", given, tmp_path, faulty_at(AT, "kill", 0)), 2, tmp_path)
    (folder,) = tmp_path.rglob("checkpoints/step-*")
    first, second = (load_file(folder / name) for name in ("tensors.safetensors", "tensors-1.safetensors"))
    halves = {name for name in first if "lora_" in name and first[name].dim()}
    assert second.keys() == halves and len(halves) == 3 * 2 * 7
    assert all(first[name].shape == second[name].shape for name in halves)


def steps(folder: Path) -> dict[str, dict[str, float]]:
    """What the last attempt logged, by step."""
    found: dict[str, dict[str, float]] = json.loads((folder / "steps.json").read_text())
    return found


def saved(folder: Path) -> list[int]:
    """Steps of the checkpoints there."""
    return sorted(int(path.name.split("-")[1]) for path in folder.rglob("checkpoints/step-*"))
