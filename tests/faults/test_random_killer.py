"""Two runs of the random killer; thirty are `python -m bench.kills`."""

from pathlib import Path

import pytest

from bench.kills import __main__ as kills


@pytest.mark.slow
@pytest.mark.faults(
    6,
    injected="kill -9 at up to five random moments of a pipeline of all stages: a stage, dvc, the engine or all, twice",
    happens="the same command, typed again, ends in the digests of the unbroken run; verify finds nothing",
)
def test_killed_at_random_it_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kills, "BUILD", tmp_path)
    whole = kills.unbroken()
    runs = [kills.broken(number, whole) for number in range(2)]
    assert [(run["code"], run["verify"], run["digest"]) for run in runs] == 2 * [(0, 0, whole["digest"])]
    assert any(run["kills"] for run in runs), "none came in time"
