from pathlib import Path

import pytest
import torch

from rlhf import checkpoints
from rlhf.checkpoints import Checkpoints
from rlhf.errors import NumericsError


def save(kept: Checkpoints, *steps: int) -> None:
    for step in steps:
        kept.save(step, {"w": torch.full((3,), float(step))}, {"extra": {"kl_coef": step / 10}})


def test_newest_comes_back_with_tensors_and_state(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every=1)
    assert checkpoints.newest() is None
    save(checkpoints, 9, 10, 100)
    found = checkpoints.newest()
    assert found is not None
    assert (found.step, found.tensors["w"].tolist(), found.state) == (100, [100.0] * 3, {"extra": {"kl_coef": 10.0}})


def test_keeps_the_newest_two(tmp_path: Path) -> None:
    save(Checkpoints(tmp_path, every=1), 1, 2, 3, 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000003", "step-000004"]


def spoil(path: Path, how: str) -> None:
    data = path.read_bytes()
    middle = len(data) // 2
    if how == "truncated":
        path.write_bytes(data[:-1])
    elif how == "bit flipped":
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["truncated", "bit flipped", "missing"])
@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
def test_a_spoilt_newest_falls_back_to_the_one_before(name: str, how: str, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every=1)
    save(checkpoints, 1, 2)
    spoil(tmp_path / "step-000002" / name, how)
    found = checkpoints.newest()
    assert found is not None and found.step == 1
    assert (tmp_path / "broken-step-000002" / "reason.txt").read_text().strip()
    save(checkpoints, 2)
    again = checkpoints.newest()
    assert again is not None and again.step == 2


def test_retention_does_not_count_spoilt_ones(tmp_path: Path) -> None:
    """With 1 good, 2 spoilt and 3 new, removing 1 would leave a single good one."""
    checkpoints = Checkpoints(tmp_path, every=1)
    save(checkpoints, 1, 2)
    spoil(tmp_path / "step-000002" / "tensors.safetensors", "truncated")
    save(checkpoints, 3)
    assert (tmp_path / "step-000001").is_dir()
    spoil(tmp_path / "step-000003" / "state.json", "bit flipped")
    found = checkpoints.newest()
    assert found is not None and found.step == 1


def test_half_written_folders_are_ignored_and_replaced(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every=1)
    save(checkpoints, 1)
    (tmp_path / ".tmp-000002").mkdir()
    (tmp_path / ".tmp-000002" / "tensors.safetensors").write_bytes(b"half")
    found = checkpoints.newest()
    assert found is not None and found.step == 1
    save(checkpoints, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000002"]


def test_nonfinite_tensors_are_not_saved(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, every=1)
    save(checkpoints, 1)
    with pytest.raises(NumericsError, match="1 tensors are not finite"):
        checkpoints.save(2, {"w": torch.tensor([1.0, float("nan")])}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


def test_one_that_takes_long_says_what_who_is_asked_to_stop_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for saving, told in ((3600.0, False), (0.0, True)):
        monkeypatch.setattr(checkpoints, "SAVING", saving)
        Checkpoints(tmp_path / str(told), every=1).save(1, {}, {})
        assert ("PREFLOW_SAVING gives more" in capsys.readouterr().err) == told


def test_equal_state_is_equal_bytes(tmp_path: Path) -> None:
    save(Checkpoints(tmp_path / "a", every=1), 1)
    save(Checkpoints(tmp_path / "b", every=1), 1)
    for name in ("tensors.safetensors", "state.json", "manifest.json"):
        assert (tmp_path / "a/step-000001" / name).read_bytes() == (tmp_path / "b/step-000001" / name).read_bytes()


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every=0"):
        Checkpoints(tmp_path, every=0)
