"""A stage that is claimed and does not begin is lost; one that waits for a place in a cluster says so, for an hour."""

import threading
from types import SimpleNamespace
from uuid import UUID

import pytest
from prefect.states import Cancelled, Completed, Crashed, Failed, InfrastructurePending, Pending, State

from flows import runner
from flows.pools import sending, watch
from rlhf.errors import DependencyDown


class Server:
    """Prefect's, as far as one flow run goes."""

    def __init__(self, state: State) -> None:
        self.state = state

    def read_flow_run(self, _: UUID) -> SimpleNamespace:
        return SimpleNamespace(state=self.state)

    def set_flow_run_state(self, _: UUID, state: State, force: bool) -> None:
        assert force
        self.state = state


class Clock:
    """That of the watch, which stands still but for what a test lets pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now = 1000.0
        monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: self._now))

    def passes(self, minutes: float) -> None:
        self._now += 60 * minutes


@pytest.mark.parametrize(
    ("state", "minutes", "stopping", "becomes"),
    [
        (Pending(), 4, False, "Pending"),
        (Pending(), 6, False, "Crashed"),
        (InfrastructurePending(), 59, False, "InfrastructurePending"),
        (InfrastructurePending(), 61, False, "Cancelling"),
        (InfrastructurePending(), 1, True, "Cancelling"),
    ],
)
def test_some_time_later(
    monkeypatch: pytest.MonkeyPatch, state: State, minutes: int, stopping: bool, becomes: str
) -> None:
    server, clock = Server(state), Clock(monkeypatch)
    one = watch.Watch(server, UUID(int=1))  # type: ignore[arg-type]
    one.look(False)
    clock.passes(minutes)
    one.look(stopping)
    assert server.state.name == becomes
    assert bool(one.lost) == (minutes == 61)


def test_what_waits_too_long_is_over_though_nobody_takes_its_job_away(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    one = watch.Watch(Server(InfrastructurePending()), UUID(int=1))  # type: ignore[arg-type]
    for _ in range(2):
        one.look(False)
        clock.passes(61)
    one.look(False)
    assert not one.is_over() and one.lost == "its Pod has waited for 3600 s"
    clock.passes(10)
    one.look(False)
    assert one.is_over()


@pytest.mark.parametrize(
    ("state", "answers"), [(Completed(), True), (Failed(), True), (Crashed(), False), (Cancelled(), False)]
)
def test_the_answer_of_one_that_ended_by_itself_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, state: State, answers: bool
) -> None:
    """Beyond the minute for which a mount of NFS may not see it; one that was ended has none."""
    clock = Clock(monkeypatch)
    one = watch.Watch(Server(state), UUID(int=1))  # type: ignore[arg-type]
    one.look(False)
    clock.passes(1.5)
    assert one.is_over() is not answers
    clock.passes(2)
    assert one.is_over()


def test_a_pod_that_waits_is_told_of_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    server, clock = Server(Pending()), Clock(monkeypatch)
    one = watch.Watch(server, UUID(int=1))  # type: ignore[arg-type]
    one.look(False)
    assert one.news() == ""
    server.state = InfrastructurePending(message="Kubernetes pod is pending.")
    told = []
    for _ in range(12):
        one.look(False)
        told.append(one.news())
        clock.passes(1)
    said = [text for text in told if text]
    assert told[0] and 2 <= len(said) <= 3 and "InfrastructurePending: Kubernetes pod is pending." in said[-1]


@pytest.mark.parametrize(("over", "looks", "lines"), [(True, 302, 11), (False, 900, 30)])
def test_an_exchange_that_stays_away_is_not_waited_for_where_nobody_works(
    over: bool, looks: int, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten minutes, as of all else; while a worker is at it, whose words may come yet, for as long as that takes."""
    now, said, looked = [0.0], list[str](), [0]

    def take() -> None:
        looked[0] += 1
        if looked[0] == 900:
            cancel.set()
        raise DependencyDown("no answer from the exchange")

    def sleep(seconds: float) -> None:
        now[0] += seconds

    for module in (sending, runner):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    cancel = threading.Event()
    watched = SimpleNamespace(look=lambda _: None, news=lambda: "", is_over=lambda: over or cancel.is_set())
    sender = SimpleNamespace(
        _work=SimpleNamespace(cancel=cancel),
        _exchange=SimpleNamespace(put=lambda *_: None),
        _name="sft",
        _say=said.append,
        _pool=SimpleNamespace(pool="gpu"),
    )
    order, inbox, log = SimpleNamespace(stop="stop"), SimpleNamespace(take=take), SimpleNamespace(pass_on=lambda: None)
    assert sending._Sender._watched(sender, watched, order, inbox, log) is None  # type: ignore[arg-type]
    assert (looked[0], len(said)) == (looks, lines)
