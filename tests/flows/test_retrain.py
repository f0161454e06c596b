"""What makes a retrain due, and what a watched folder brings; without a server."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import cli, guards, profiles
from flows.retrain import data, due, retrain
from flows.retrain.due import Memory, Seen
from flows.retrain.retrain import Order
from rlhf.errors import Busy, PreflowError
from tasks.journal import home
from tests.flows import small


def test_what_is_new_is_named_and_nothing_else_is_due(tmp_path: Path) -> None:
    root = small.make(tmp_path / "project")
    small.shard(root, "a", "good")
    memory = Memory()

    def seen(*settings: str) -> Seen:
        return due.look(root, profiles.resolve(root, "", settings), memory)

    first = seen()
    before = asdict(first)
    assert due.why(first, {}) == "the first retrain here"
    assert due.why(seen(), before) == ""
    small.shard(root, "b", "good")
    assert due.why(seen(), before) == "data new: preferences/b.jsonl"
    small.shard(root, "a", "flipped")
    assert "changed: preferences/a.jsonl" in due.why(seen(), before)
    assert "params changed: rl.kl_coef" in due.why(seen("rl.kl_coef=0.123"), before)


def test_slots_before_the_last_answer_are_covered() -> None:
    memory = Memory(asked=1000.0)

    def goes_on(_: str) -> bool:
        return True

    assert "has answered for it" in retrain._covered(memory, datetime.fromtimestamp(999.0, UTC), goes_on)
    assert retrain._covered(memory, datetime.fromtimestamp(1001.0, UTC), goes_on) == ""
    assert retrain._covered(memory, None, goes_on) == ""


def test_a_retrain_that_finds_its_place_taken_says_so_by_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`preflow retrain && deploy` is not to go on when nothing was done."""
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    root = small.make(tmp_path / "project")
    monkeypatch.chdir(root)
    with guards.held(home(root) / "retrain" / f"{Order().key}.lock", "another retrain"):
        done = CliRunner().invoke(cli.app, ["retrain"])
    assert done.exit_code == Busy.exit_code, done.output
    assert "retrain: not now: " in done.stdout and "another retrain" in done.stdout


NEVER, LATER = 0.0, 4e9  # 2096; a time of today would give every worker tests of other names


@pytest.mark.parametrize(
    ("flow_run", "until", "goes_on", "holds"),
    [
        ("f1", LATER, True, True),
        ("f1", LATER, False, False),  # its server was wiped, or somebody deleted the flow run
        ("f1", NEVER, True, False),
        ("", LATER, False, True),  # of a firing by hand, which no server knows
        ("", NEVER, False, False),
    ],
)
def test_a_wait_holds_up_slots_while_there_is_somebody_to_answer(
    flow_run: str, until: float, goes_on: bool, holds: bool
) -> None:
    memory = Memory(waits={"run": "r1", "flow_run": flow_run, "until": until})
    assert ("run r1 waits for a person" in retrain._covered(memory, None, lambda _: goes_on)) == holds


def test_an_answer_is_asked_for_until_it_is_too_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    for name, until in (("early", LATER), ("late", NEVER)):
        Memory(waits={"run": name, "flow_run": f"f-{name}", "until": until}).save(tmp_path, name)
    assert [bool(retrain.waiting(tmp_path, run=run)) for run in ("early", "late", "other")] == [True, False, False]
    # What Prefect lets go on was answered in time.
    assert [bool(retrain.waiting(tmp_path, flow_run=one)) for one in ("f-early", "f-late", "")] == [True, True, False]
    due.settle(tmp_path, "early", "promoted policy v2")
    assert retrain.waiting(tmp_path, run="early") is None
    assert Memory.read(tmp_path, "early").outcome == "promoted policy v2"


def test_no_two_orders_have_one_name() -> None:
    orders = [
        Order(),
        Order("a"),
        Order("a", ("b=1",)),
        Order("a_b=1"),
        Order("", ("x=1 2",)),
        Order("", ("x=1_2",)),
        Order("", ("x=[1]",)),
        Order("", ("x=(1)",)),
    ]
    keys = [order.key for order in orders]
    assert len(set(keys)) == len(keys)
    assert keys[:3] == ["default", "a", "a+b=1"]
    assert [Order(name=key).key for key in keys] == keys  # a firing knows its order by that name alone


def test_whole_shards_of_a_watched_folder_come_once_and_stay(tmp_path: Path) -> None:
    root, watched = small.make(tmp_path / "project"), tmp_path / "labels"
    (watched / "preferences").mkdir(parents=True)
    (watched / "preferences" / "one.jsonl").write_text("good")
    (watched / "preferences" / ".two.jsonl").write_text("half wri")
    assert data.bring(root, [str(watched)]) == ["preferences/one.jsonl"]
    assert data.bring(root, [str(watched)]) == []
    (watched / "preferences" / "one.jsonl").unlink()
    assert data.bring(root, [str(watched)]) == []
    assert (root / "data/inbox/preferences/one.jsonl").read_text() == "good"
    with pytest.raises(PreflowError, match="the watched folder is not there"):
        data.bring(root, [str(tmp_path / "away")])
