"""Schedules and firings on a real Prefect server, without anything that fires: whose they are, and what ends them."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flows import server as servers
from flows.retrain.due import Memory
from flows.retrain.retrain import Order
from flows.schedule import runs as schedule_runs
from flows.schedule import schedule
from flows.schedule.schedule import Slots
from rlhf.errors import PreflowError
from tasks.config import ConfigError
from tests.flows.firings import preflow

pytestmark = pytest.mark.e2e
HOURLY = Slots(every="1h")
NOBODY = "00000000-0000-4000-8000-000000000000"
Program = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def server(api: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.delenv("PREFLOW_HOME", raising=False)
    with temporary_settings({PREFECT_API_URL: api}):
        yield api


def names(root: Path, server: str) -> list[str]:
    return [one["name"] for one in schedule.listed(root, server)]


def deployment(client: Any, root: Path, name: str) -> Any:
    return next(one for one in client.read_deployments() if one.name == f"{name}@{schedule.pool_of(root)[8:]}")


def test_two_projects_on_one_server_do_not_see_each_other(server: str, tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    schedule.create(mine, Order(name="nightly"), HOURLY, "")
    schedule.create(theirs, Order(name="nightly", profile="polite"), HOURLY, "")
    schedule.create(theirs, Order(name="weekly"), HOURLY, "")
    assert (names(mine, server), names(theirs, server)) == (["nightly"], ["nightly", "weekly"])
    assert [one["profile"] for one in schedule.listed(mine, server)] == [""]
    schedule.pause(mine, "nightly", True)
    assert [one["paused"] for one in schedule.listed(theirs, server)] == [False, False]
    for touch in (schedule.run_now, schedule.delete):
        with pytest.raises(PreflowError, match="there is no schedule weekly; there are: nightly"):
            touch(mine, "weekly")
    schedule.delete(mine, "nightly")
    assert (names(mine, server), names(theirs, server)) == ([], ["nightly", "weekly"])
    # A copy of a checkout, .preflow and all, is another project.
    (tmp_path / "copy" / ".preflow").mkdir(parents=True)
    book = theirs / ".preflow" / "project.json"
    (tmp_path / "copy" / ".preflow" / "project.json").write_bytes(book.read_bytes())
    assert names(tmp_path / "copy", server) == []


def test_a_name_that_would_become_anothers_is_refused(server: str, tmp_path: Path) -> None:
    for name in ("a b", "a/b", "a@b", ".."):
        with pytest.raises(ConfigError, match="is no name"):
            schedule.create(tmp_path, Order(name=name), HOURLY, "")


@pytest.mark.parametrize(
    ("slots", "why"),
    [
        (Slots(cron="bad cron"), 'expected minute, hour, day of the month, month and weekday, as "0 3 * * *"'),
        (Slots(every="5x"), "expected a number and s, m, h or d, as 30s or 6h"),
        (Slots(rrule="X"), 'Invalid RRule string "X": not enough values to unpack (expected 2, got 1)'),
    ],
)
def test_slots_that_cannot_be_read_are_refused_in_one_sentence(slots: Slots, why: str) -> None:
    with pytest.raises(ConfigError) as told:
        slots.schedule()
    assert str(told.value) == f"{slots.cron or slots.every or slots.rrule!r} is no schedule: {why}"


def test_only_slots_that_nobody_has_begun_are_ended_as_late(server: str, tmp_path: Path) -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import AwaitingRetry, Late, Scheduled

    schedule.create(tmp_path, Order(name="late"), HOURLY, "")
    with get_client(sync_client=True) as client:
        made = deployment(client, tmp_path, "late").id
        client.request("POST", f"/deployments/{made}/schedule", json={"min_runs": 5})
        runs = sorted(_of(client, made), key=lambda one: one.expected_start_time)[:5]
        waits, retried, resumed, late, plain = runs
        until = plain.expected_start_time + timedelta(minutes=1)
        for one, state in ((retried, AwaitingRetry()), (resumed, Scheduled(name="Resuming")), (late, Late())):
            client.set_flow_run_state(one.id, state, force=True)
        assert schedule_runs.collapse(str(made), until, {str(waits.id)}) == 2
        found = {one.id: one.state.name for one in _of(client, made)}
    now = {name: found[one.id] for name, one in (("waits", waits), ("retried", retried), ("resumed", resumed))}
    assert now == {"waits": "Scheduled", "retried": "AwaitingRetry", "resumed": "Resuming"}
    assert (found[late.id], found[plain.id]) == ("Skipped", "Skipped")
    assert schedule_runs.goes_on(str(waits.id)) and not schedule_runs.goes_on(str(late.id))
    schedule_runs.close(str(waits.id), "Promoted", "by somebody else")
    assert not schedule_runs.goes_on(str(waits.id))


def _of(client: Any, made: Any) -> list[Any]:
    from prefect.client.schemas import filters

    of_deployment = filters.FlowRunFilterDeploymentId(any_=[made])
    return list(client.read_flow_runs(flow_run_filter=filters.FlowRunFilter(deployment_id=of_deployment)))


def test_a_server_that_has_just_been_started_is_waited_for(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFLOW_HOME", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)
    Memory(waits={"run": "r1", "flow_run": NOBODY, "until": time.time() + 3600}).save(toy, "nightly")
    try:
        assert preflow(toy, "promote", "r1", "--refuse")["reason"] == "refused by hand"
    finally:
        servers.stop(toy)


def test_an_answer_to_a_firing_that_is_gone_is_taken_all_the_same(server: str, toy: Path, program: Program) -> None:
    assert not schedule_runs.goes_on(NOBODY)
    waits = {"run": "r1", "flow_run": NOBODY, "until": time.time() + 3600}
    Memory(waits=waits).save(toy, "nightly")
    answered = program(toy, "promote", "r1", "--refuse", "--reason", "too short", "--json")
    out, err = answered.communicate()
    assert answered.returncode == 0, err
    assert json.loads(out)["reason"] == "refused by hand (too short)"
    left = Memory.read(toy, "nightly")
    assert (left.waits, left.outcome) == ({}, "refused by hand (too short)")


@pytest.mark.parametrize("also", [("--force", "by hand"), ("--candidate", "dpo")])
def test_no_is_not_taken_together_with_what_promotes(toy: Path, also: tuple[str, str]) -> None:
    Memory(waits={"run": "r1", "flow_run": NOBODY, "until": time.time() + 3600}).save(toy, "nightly")
    with pytest.raises(AssertionError, match="--refuse promotes nothing; leave out --force and --candidate"):
        preflow(toy, "promote", "r1", "--refuse", *also)
    assert Memory.read(toy, "nightly").waits["run"] == "r1"
