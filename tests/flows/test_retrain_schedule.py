"""Schedules that fire: toy stages; Prefect, DVC, MLflow, git remote and DVC remote are real.

One time is asserted, against the rule of this suite, as it is promised: how long a firing that finds nothing takes.
"""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from flows import dvc, guards, server
from flows.prefect_api import ask
from flows.releases import releases
from tasks import tracking
from tests.flows import small
from tests.flows.firings import ended, executed, firings, preflow, remembered, seconds, served, until
from tests.flows.test_notify import receiver
from tests.flows.toy import git

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
SLOT = 10
"""Seconds between slots."""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a git remote and a DVC remote beside it."""
    for key in ("PREFECT_API_URL", "PREFLOW_HOME"):
        monkeypatch.delenv(key, raising=False)
    made = small.make(tmp_path / "project")
    git(tmp_path, "init", "-q", "--bare", "origin.git")
    git(made, "remote", "add", "origin", str(tmp_path / "origin.git"))
    git(made, "push", "-q", "origin", "main")
    assert dvc.call(made, "remote", "add", "-d", "store", str(tmp_path / "store")).returncode == 0
    git(made, "commit", "-qam", "a DVC remote")
    small.shard(made, "a", "good")
    return made


def champion(root: Path) -> str:
    """Commit of the ref."""
    return git(root, "rev-parse", "refs/preflow/policy/champion").strip()


def runs(root: Path) -> list[str]:
    return git(root, "for-each-ref", "--format=%(refname)", "refs/preflow/runs").split()


def test_a_life_on_a_schedule(root: Path) -> None:
    with receiver() as (url, heard):
        with served(root):
            preflow(root, "schedule", "create", "words", "--every", f"{SLOT}s", "--notify", url)
            first = ended(root, "Promoted")
            assert "because of the first retrain here" in first["state"]["message"]
            assert executed(root, remembered(root, "words")["run"]) == {
                *("collect", "validate", "base", "rl", "evaluate", "gate")
            }
            idle = ended(root, "NothingNew")
            assert len(runs(root)) == 1

            small.shard(root, "b", "good")
            good = ended(root, "Promoted", 2)
            assert "because of data new: preferences/b.jsonl" in good["state"]["message"]
            assert "quality 2 against 1" in good["state"]["message"]
            touched = {"collect", "validate", "rl", "evaluate", "gate"}
            assert executed(root, remembered(root, "words")["run"]) == touched  # and not base
            reigns = champion(root)

            flipped = small.shard(root, "c", "flipped", "flipped")
            refused = ended(root, "NotPromoted")
            assert "quality 0 against 2" in refused["state"]["message"]
            assert champion(root) == reigns

            flipped.unlink()
            bad = small.shard(root, "d", "bad")
            stopped = ended(root, "DataRefused")
            assert "validate: a row is bad" in stopped["state"]["message"]
            assert executed(root, remembered(root, "words")["run"]) == {"collect", "validate"}
            assert champion(root) == reigns
            until("news of the refusal", lambda: len(heard) >= 4)
        # What happened is told, once each; that nothing did is not.
        told = [news["state"] for news in heard]
        assert told == ["Promoted", "Promoted", "NotPromoted", "DataRefused"]
        assert heard[1]["message"] == good["state"]["message"]

        before = len(runs(root))
        bad.unlink()
        small.shard(root, "e", "good", "good")
        away = time.time() + 3 * SLOT
        until("several slots without a server", lambda: time.time() > away)
        with served(root):
            back = ended(root, "Promoted", 3)
            assert "quality 4 against 2" in back["state"]["message"]
            ended(root, "NothingNew", len(firings(root, "NothingNew")) + 1)  # a slot after it
            assert len(runs(root)) == before + 1
            late = [one for one in firings(root, "Skipped") if "late" in one["state"]["message"]]
            assert len(late) >= 2

    _registry_is_complete(root)
    _back_and_forward(root)
    # Last, as a busy machine may break it, and the rest is worth knowing then too.
    assert seconds(idle) <= 5, "what finds nothing new ends within 5 s: a promise of the product"


HOLD = """
import time
while name == "rl" and Path("../hold").exists():
    Path("../held").touch()
    time.sleep(0.05)
"""


def test_who_ends_the_service_stops_a_firing_and_the_next_one_goes_on(root: Path) -> None:
    """Ctrl-C while it trains, and while it waits for another promotion."""
    (root / "stage.py").write_text(small.STAGE.replace("name = sys.argv[1]\n", f"name = sys.argv[1]\n{HOLD}"))
    hold, held = root.parent / "hold", root.parent / "held"
    hold.touch()
    with served(root) as serving:
        preflow(root, "schedule", "create", "words", "--every", f"{SLOT}s")
        until("stage at work", held.exists)
        stopped = _end(root, serving)
    assert stopped == ["stopped in rl; the next firing goes on from there"]
    assert remembered(root, "words")["outcome"].startswith(stopped[0])

    hold.unlink()
    with served(root) as serving, guards.promoting(root, "rollback of policy", print):
        until("wait", lambda: any("waiting for rollback of policy, process" in line for line in _said(root)))
        stopped = _end(root, serving)
    assert stopped[1:] == ["stopped; the next firing goes on from there"]
    with served(root):
        assert "quality 1 against None" in ended(root, "Promoted")["state"]["message"]


def _end(root: Path, serving: subprocess.Popen[bytes]) -> list[str]:
    """By Ctrl-C; what firings say that were stopped, when nothing goes on any more."""
    serving.send_signal(signal.SIGINT)
    assert serving.wait(120) == 0
    assert not guards.is_held(root / ".preflow" / "run.lock")
    assert not firings(root, "Running")
    return [one["state"]["message"].partition("; because")[0] for one in firings(root, "Stopped")]


def _said(root: Path) -> list[str]:
    """What firings have told Prefect."""
    if (here := server.running(root)) is None:  # it is starting
        return []
    with suppress(OSError, ValueError):
        return [one["message"] for one in ask(f"{here.url}/logs/filter", {"limit": 200, "sort": "TIMESTAMP_DESC"})]
    return []


def _registry_is_complete(root: Path) -> None:
    known = {one["version"]: one for one in tracking.versions(root)}
    assert {number: one["champion"] for number, one in known.items()} == {1: False, 2: False, 3: True}
    refs = {one.version: one for one in releases.versions(root, "policy")}
    assert refs.keys() == known.keys()
    there = git(root, "ls-remote", "origin")
    store = root.parent / "store" / "files" / "md5"
    for number, one in known.items():
        told = tracking.version(root, "policy", number)
        assert (told["path"], told["md5"]) == (one["path"], one["md5"]) == ("data/10_rl/policy", refs[number].md5)
        assert told["run"] == refs[number].run == one["run"]
        assert told["digests"]["data/10_rl/policy"] == told["md5"]
        assert f"{refs[number].commit}\trefs/preflow/policy/v{number}\n" in there
        assert (store / told["md5"][:2] / told["md5"][2:]).is_file()
    assert f"{champion(root)}\trefs/preflow/policy/champion" in there


def _back_and_forward(root: Path) -> None:
    back = preflow(root, "rollback")
    assert (back["before"], back["version"]) == (3, 2)
    assert tracking.version(root, "policy")["version"] == 2
    assert f"{champion(root)}\trefs/preflow/policy/champion" in git(root, "ls-remote", "origin")
    assert releases.find(root, "policy@champion").version == 2
    forward = preflow(root, "rollback", "policy/3")
    assert (forward["before"], forward["version"]) == (2, 3)
    assert releases.find(root, "policy@champion").version == 3


def test_a_killed_server_comes_back_and_the_schedule_goes_on(root: Path) -> None:
    with served(root):
        preflow(root, "schedule", "create", "words", "--every", f"{SLOT}s")
        ended(root, "Promoted")
        here = server.running(root)
        assert here is not None
        os.kill(here.pid, signal.SIGKILL)
        small.shard(root, "b", "good")
        ended(root, "Promoted", 2)
        assert server.running(root) not in (None, here)
        assert len(runs(root)) == 2


def test_a_person_answers(root: Path) -> None:
    with served(root):
        preflow(root, "schedule", "create", "asked", "--every", f"{SLOT}s", "--approve-by-hand")
        ended(root, "Suspended")
        run = remembered(root, "asked")["waits"]["run"]
        assert tracking.versions(root) == []
        ended(root, "Skipped")  # slots do not run while somebody is asked
        preflow(root, "promote", run)
        assert "approved by hand" in ended(root, "Promoted")["state"]["message"]
        assert [one["run"] for one in tracking.versions(root)] == [run]

        small.shard(root, "b", "good")
        ended(root, "Suspended")
        run = remembered(root, "asked")["waits"]["run"]
        preflow(root, "promote", run, "--refuse", "--reason", "too short")
        assert "refused by hand (too short)" in ended(root, "NotPromoted")["state"]["message"]
        assert len(tracking.versions(root)) == 1
