"""A stage's flow run as its run sees it in Prefect, from the order to the end."""

import time
from contextlib import suppress
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.states import Cancelled, Cancelling, Crashed, State

from flows.pools.serving import GRACE

_BEGUN = 300.0  # seconds in which a worker that has claimed a stage must have begun it
_LAST = 6.0  # seconds in which the last parcel of a stage that has ended may come


class Watch:
    """Looks at it now and then. A server that does not answer changes nothing: worker and run go on."""

    def __init__(self, client: SyncPrefectClient, flow_run: UUID) -> None:
        self._client, self._flow_run = client, flow_run
        self.state: State[Any] = Crashed(message="Prefect never told of it")
        self._claimed: float | None = None
        self._asked: float | None = None
        self._over: float | None = None

    def look(self, cancel: bool) -> None:
        """Ask how it is; have it end where `cancel` says so, or where its worker has claimed it and was lost then."""
        now = time.monotonic()
        with suppress(Exception):
            self.state = self._client.read_flow_run(self._flow_run).state or self.state
            if self.state.is_final():
                self._over = self._over or now
                return
            self._claimed = (self._claimed or now) if self.state.is_pending() else None
            if self._claimed and now - self._claimed > _BEGUN:
                # It has sent no sign of life yet, without which Prefect waits for none.
                self._set(Crashed(message=f"claimed by a worker and not begun for {_BEGUN:.0f} s"))
            if cancel and self._asked is None:
                self._set(Cancelled() if self.state.is_scheduled() else Cancelling())
                self._asked = now

    def is_over(self) -> bool:
        """Whether nothing of it is to be expected any more."""
        now = time.monotonic()
        if self._over is not None:
            return now - self._over > _LAST
        return self._asked is not None and now - self._asked > GRACE

    def _set(self, state: State[Any]) -> None:
        self._client.set_flow_run_state(self._flow_run, state, force=True)
