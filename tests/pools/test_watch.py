"""A stage that is claimed and does not begin is lost, unless it only waits for a place in a cluster."""

from types import SimpleNamespace
from uuid import UUID

import pytest
from prefect.states import InfrastructurePending, Pending, State

from flows.pools import watch


class Server:
    """Prefect's, as far as one flow run goes."""

    def __init__(self, state: State) -> None:
        self.state = state

    def read_flow_run(self, _: UUID) -> SimpleNamespace:
        return SimpleNamespace(state=self.state)

    def set_flow_run_state(self, _: UUID, state: State, force: bool) -> None:
        assert force
        self.state = state


@pytest.mark.parametrize(
    ("state", "stopping", "becomes"),
    [
        (Pending(), False, "Crashed"),
        (InfrastructurePending(), False, "InfrastructurePending"),
        (InfrastructurePending(), True, "Cancelling"),
    ],
)
def test_an_hour_later(monkeypatch: pytest.MonkeyPatch, state: State, stopping: bool, becomes: str) -> None:
    server = Server(state)
    one = watch.Watch(server, UUID(int=1))  # type: ignore[arg-type]
    one.look(False)
    before = watch.time.monotonic()
    monkeypatch.setattr(watch.time, "monotonic", lambda: before + 3600)
    one.look(stopping)
    assert server.state.name == becomes
