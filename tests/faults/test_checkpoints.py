"""Checkpoints that are torn, damaged, foreign, or have no room: the one before is used, and the end is the same."""

import errno
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf import checkpoints as module
from rlhf.checkpoints import Checkpoints
from rlhf.errors import PreflowError
from rlhf.manifests import problem
from rlhf.trainer import OptimizerSettings
from tests.faults.child import ended
from tests.rlhf.test_trainer import make_module, run, weights


@pytest.fixture(scope="module")
def unbroken() -> list[bytes]:
    trained = make_module()
    run(trained)
    return weights(trained)


def train(folder: Path, **more: Any) -> Any:
    """Twelve steps with a checkpoint after each third; the weights it ends with and the step it went on from."""
    trained = make_module()
    result = run(trained, Checkpoints(folder, every=3), **more)
    return weights(trained), result.resumed_from


def valid(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("step-*") if problem(path) is None)


def killed(folder: Path, where: str) -> None:
    assert ended(lambda: train(folder), fault=f"{where}:kill") == -signal.SIGKILL


def only_checkpoints(folder: Path) -> bool:
    return all(path.name.startswith("step-") for path in folder.iterdir())


@pytest.mark.faults(
    2, injected="kill -9 after the first file of a save", happens="the half is removed, the one before is used"
)
def test_killed_while_a_checkpoint_is_written(tmp_path: Path, unbroken: list[bytes]) -> None:
    killed(tmp_path, "checkpoint.tensors:2")
    assert (tmp_path / ".tmp-000006/tensors.safetensors").exists()
    assert valid(tmp_path) == ["step-000003"]
    assert train(tmp_path) == (unbroken, 3)
    assert only_checkpoints(tmp_path)


@pytest.mark.faults(
    3, injected="kill -9 between the manifest and the rename", happens="the draft is removed, the one before is used"
)
def test_killed_before_the_rename(tmp_path: Path, unbroken: list[bytes]) -> None:
    killed(tmp_path, "checkpoint.rename:2")
    assert problem(tmp_path / ".tmp-000006") is None, "the draft was whole, and only lacked its name"
    assert valid(tmp_path) == ["step-000003"]
    assert train(tmp_path) == (unbroken, 3)
    assert only_checkpoints(tmp_path)


@pytest.mark.parametrize("point", ["retired.rename", "retired.unlink", "retired.rmdir"])
@pytest.mark.faults(
    18, injected="kill -9 while old checkpoints are removed", happens="two that verify remain, the rest is cleared away"
)
def test_killed_while_old_ones_are_removed(point: str, tmp_path: Path, unbroken: list[bytes]) -> None:
    """The oldest goes once a third is there: its rename, then its files one by one."""
    train(tmp_path / "whole")
    assert valid(tmp_path / "whole") == ["step-000009", "step-000012"]
    folder = tmp_path / "run"
    killed(folder, f"{point}:1")
    assert {"step-000006", "step-000009"} <= set(valid(folder))
    assert train(folder) == (unbroken, 9)
    assert only_checkpoints(folder)


def halved(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1  # in the last weight: safetensors reads the file without a word
    path.write_bytes(data)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        pytest.param(halved, "tensors.safetensors", marks=pytest.mark.faults(
            13, injected="half of the tensors cut off", happens="set aside with the reason, the one before is used")),
        pytest.param(flipped, "tensors.safetensors", marks=pytest.mark.faults(
            14, injected="one bit of a weight flipped", happens="set aside with the reason, the one before is used")),
        pytest.param(Path.unlink, "tensors.safetensors", marks=pytest.mark.faults(
            15, injected="the file of weights and moments removed",
            happens="set aside with the reason, the one before is used")),
        pytest.param(Path.unlink, "state.json", marks=pytest.mark.faults(
            15, injected="the trainer's state removed", happens="set aside with the reason, the one before is used")),
        pytest.param(emptied, "manifest.json", marks=pytest.mark.faults(
            16, injected="manifest or state emptied, or cut in half",
            happens="set aside with the reason, the one before is used")),
        (halved, "manifest.json"),
        (emptied, "state.json"),
        (halved, "state.json"),
    ],
)  # fmt: skip
def test_a_damaged_one_is_set_aside_and_said(
    damage: Callable[[Path], None], name: str, tmp_path: Path, unbroken: list[bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    killed(tmp_path, "checkpoint.tensors:4")  # in the save after step 12
    damage(tmp_path / "step-000009" / name)
    assert train(tmp_path) == (unbroken, 6)
    reason = (tmp_path / "broken-step-000009/reason.txt").read_text().strip()
    assert f"checkpoint step-000009 cannot be used ({reason})" in capfd.readouterr().err


@pytest.mark.faults(
    13, injected="every checkpoint cut short", happens="all are set aside, and it is said that step 0 comes next"
)
def test_where_all_are_damaged_it_says_that_it_begins_anew(
    tmp_path: Path, unbroken: list[bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    killed(tmp_path, "checkpoint.tensors:4")
    for name in ("step-000006", "step-000009"):
        halved(tmp_path / name / "tensors.safetensors")
    assert train(tmp_path) == (unbroken, 0)
    assert "none of 2 checkpoints can be used: begun anew at step 0" in capfd.readouterr().err


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("place", ["rlhf.manifests.fingerprint", "rlhf.checkpoints.load_file", "os.listdir"])
@pytest.mark.faults(
    14, injected="checkpoints that cannot be read for a while: no file handle, an I/O error, a stale mount",
    happens="the training does not begin, all are left as they are; later it goes on from the newest",
)  # fmt: skip
def test_what_cannot_be_read_just_now_is_left_as_it_is(
    place: str, number: int, tmp_path: Path, unbroken: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    killed(tmp_path, "checkpoint.tensors:4")
    monkeypatch.setattr(place, failing)
    with pytest.raises(PreflowError, match=rf"cannot be read: .*{os.strerror(number)}; they are left as they are"):
        train(tmp_path)
    monkeypatch.undo()
    assert valid(tmp_path) == ["step-000006", "step-000009"]
    assert train(tmp_path) == (unbroken, 9)


def test_what_cannot_be_read_while_training_goes_on_is_not_removed(
    tmp_path: Path, unbroken: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows then which two are good."""

    def failing(_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(module, "problem", failing)
    assert train(tmp_path) == (unbroken, 0)
    assert valid(tmp_path) == [f"step-{step:06d}" for step in (3, 6, 9, 12)]


@pytest.mark.faults(
    19, injected="modification times of checkpoints in the wrong order", happens="the highest step counts"
)
def test_scrambled_times_do_not_matter(tmp_path: Path, unbroken: list[bytes]) -> None:
    killed(tmp_path, "checkpoint.tensors:4")
    for age, step in enumerate(("step-000009", "step-000006")):  # the older one is the newer file
        for path in (*(tmp_path / step).iterdir(), tmp_path / step):
            os.utime(path, (1e9 + age, 1e9 + age))
    assert train(tmp_path) == (unbroken, 9)
    assert valid(tmp_path) == ["step-000009", "step-000012"]


@pytest.mark.faults(
    17,
    injected="the checkpoints of other settings, of wider layers, of another vocabulary",
    happens="refused, the settings that differ are named",
)
def test_a_checkpoint_of_another_training_is_refused_by_what_differs(tmp_path: Path) -> None:
    train(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(PreflowError, match=r"another training \(optimizer\.lr: there 0\.05, here 0\.07\)"):
        train(tmp_path, settings=OptimizerSettings(lr=0.07, warmup_steps=2, weight_decay=0.1))
    wider = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    with pytest.raises(PreflowError, match=r"weight model\.0\.weight: there \[4, 3\] .*, here \[5, 3\]"):
        run(wider, Checkpoints(tmp_path, every=3))
    with pytest.raises(PreflowError, match=r"vocabulary: there None, here abc"):
        run(make_module(), Checkpoints(tmp_path, every=3, of={"vocabulary": "abc"}))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.system(f"mount -t tmpfs -o size=64k preflow {folder} 2>{tmp_path / 'why'}") != 0:
        pytest.skip("no right to mount a file system")
    yield folder
    os.system(f"umount {folder}")


def fill(folder: Path, leave: int) -> None:
    """All of the disk but some bytes."""
    free = shutil.disk_usage(folder).free
    (folder / "ballast").write_bytes(bytes(free - leave))


@pytest.mark.faults(
    10, injected="a file system of 64 kB that is full at the third save",
    happens="ends with bytes needed and free; once there is room goes on from the last save",
)  # fmt: skip
def test_a_full_disk_at_a_save(small_disk: Path, unbroken: list[bytes]) -> None:
    folder = small_disk / "checkpoints"

    def filled(step: int) -> float:
        if step == 8:
            fill(small_disk, 0)
        return 1.0

    with pytest.raises(PreflowError, match=r"of step 9 cannot be written .*needs [\d,]+ bytes and 0 are free"):
        train(folder, spoil=filled)
    assert valid(folder) == ["step-000003", "step-000006"] and only_checkpoints(folder)
    with pytest.raises(PreflowError, match="what is trained cannot be written"):
        train(folder)  # still full: said before another step is trained
    (small_disk / "ballast").unlink()
    assert train(folder) == (unbroken, 6)


@pytest.mark.parametrize("refusal", ["ENOSPC", "EDQUOT", "EFBIG"])
@pytest.mark.parametrize("point", ["checkpoint.begin", "checkpoint.state", "checkpoint.sync"])
@pytest.mark.faults(
    10, injected="no space, a quota, a limit of file sizes: in each part of a save",
    happens="ends with bytes needed and free; once there is room goes on from the last save",
)  # fmt: skip
def test_a_disk_that_is_full_in_the_middle_of_a_save(
    point: str, refusal: str, tmp_path: Path, unbroken: list[bytes]
) -> None:
    """What others write beside us cannot be foreseen."""
    folder, errors = tmp_path / "run", tmp_path / "errors"
    assert ended(lambda: train(folder), errors, f"{point}:3:{refusal}") == 1
    why = os.strerror(getattr(errno, refusal))
    assert re.search(rf"PreflowError: .*of step 9 .*{why}.*[\d,]+ bytes and [\d,]+ are free", errors.read_text())
    assert valid(folder) == ["step-000003", "step-000006"] and only_checkpoints(folder)
    assert train(folder) == (unbroken, 6)


@pytest.mark.faults(
    10, injected="room for one checkpoint where there will be three and a model",
    happens="ends before the first step with the bytes that are needed and free",
)  # fmt: skip
def test_what_will_not_fit_until_the_end_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint of 21 weights and two moments of each is 252 bytes: two stay, and one more is being written."""
    killed(tmp_path / "later", "checkpoint.tensors:3")  # two are there, and two are to come
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=300))
    trained = make_module()
    before = weights(trained)
    first = r"needs 1,008 bytes \(checkpoints: 3 of 252; the model: 84; a fifth more\) and 300 are free"
    with pytest.raises(PreflowError, match=first):
        run(trained, Checkpoints(tmp_path / "first", every=3))
    with pytest.raises(PreflowError, match=r"needs 404 bytes \(checkpoints: 1 of 252; the model: 84;"):
        train(tmp_path / "later")
    with pytest.raises(PreflowError, match=r"needs 404 bytes \(checkpoints: 1 of 252; the model: 84;"):
        run(trained, Checkpoints(tmp_path / "once", every=100))  # saved at its end alone
    assert weights(trained) == before
