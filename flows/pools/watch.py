"""A stage's flow run as its run sees it in Prefect, from the order to the end."""

import time
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling, Crashed, State

from flows.pools.serving import GRACE

_BEGUN = 300.0  # seconds in which a worker that has claimed a stage must have begun it
_WAITS = "InfrastructurePending"
"""What Prefect calls a stage whose Pod waits: for a GPU, a node, an image, as long as that takes."""
_LAST = 6.0  # seconds in which the last parcel of a stage that has ended may come


class Watch:
    """Looks at it now and then. A server that does not answer changes nothing: worker and run go on."""

    def __init__(self, client: SyncPrefectClient, flow_run: UUID) -> None:
        self._client, self._flow_run = client, flow_run
        self.state: State[Any] = Crashed(message="Prefect never told of it")
        self._claimed: float | None = None
        self._stopping: float | None = None
        self._over: float | None = None

    def look(self, stopping: bool) -> None:
        """Ask how it is. One that nobody has begun is cancelled where `stopping`, and lost where its worker was."""
        now = time.monotonic()
        self._stopping = (self._stopping or now) if stopping else None
        try:
            self.state = self._client.read_flow_run(self._flow_run).state or self.state
            waits = self.state.name == _WAITS
            if self.state.is_final():
                self._over = self._over or now
            elif stopping and self.state.is_scheduled():
                self._set(Cancelled())
            elif stopping and waits:
                self._set(Cancelling())  # at which Prefect's worker takes its Job away
            self._claimed = (self._claimed or now) if self.state.is_pending() and not waits else None
            if self._claimed and now - self._claimed > _BEGUN:
                # It has sent no sign of life yet, without which Prefect waits for none.
                self._set(Crashed(message=f"claimed by a worker and not begun for {_BEGUN:.0f} s"))
        except ObjectNotFound:
            self.state, self._over = Crashed(message="Prefect does not know it any more"), self._over or now
        except Exception:  # it is away: of whatever kind, the next look may be better
            return

    def is_over(self) -> bool:
        """Whether nothing of it is to be expected any more."""
        now = time.monotonic()
        if self._over is not None:
            return now - self._over > _LAST
        return self._stopping is not None and now - self._stopping > GRACE

    def give_up(self) -> None:
        """Nobody listens to it any more."""
        if not self.state.is_final():
            try:
                self._set(Cancelled())
            except Exception:  # the worker asks by itself, too
                return

    def _set(self, state: State[Any]) -> None:
        self._client.set_flow_run_state(self._flow_run, state, force=True)
