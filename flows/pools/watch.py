"""A stage's flow run as its run sees it in Prefect, from the order to the end."""

import time
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Cancelling, Crashed, State

from flows.pools.orders import GRACE

_BEGUN = 300.0  # seconds in which a worker that has claimed a stage must have begun it
_WAITS = "InfrastructurePending"
"""What Prefect calls a stage whose Pod waits: for a GPU, a node, an image, or for what will never come."""
_WAITED = 3600.0  # seconds of that after which it is lost
_TOLD = 300.0  # seconds between two lines about it
_LAST = 6.0  # seconds in which the last parcel of a stage that was ended may come
_ANSWERED = 180.0
"""The same of one that ended by itself: it has sent its answer before, and says so. A mount of NFS takes a name that it
has missed for missing for as long as it remembers the folder, which is up to a minute."""


class Watch:
    """Looks at it now and then. A server that does not answer changes nothing: worker and run go on."""

    def __init__(self, client: SyncPrefectClient, flow_run: UUID) -> None:
        self._client, self._flow_run = client, flow_run
        self.state: State[Any] = Crashed(message="Prefect never told of it")
        self.lost = ""
        """Why this attempt was ended from here, "" where it was not."""
        self._pending: tuple[str, float] = ("", 0.0)
        self._told: float | None = None
        self._stopping: float | None = None
        self._over: float | None = None

    def look(self, stopping: bool) -> None:
        """Ask how it is. One that nobody has begun is cancelled where `stopping`, and lost where its worker was."""
        now = time.monotonic()
        self._stopping = (self._stopping or now) if stopping or self.lost else None
        try:
            self.state = self._client.read_flow_run(self._flow_run).state or self.state
            name = self.state.name or "" if self.state.is_pending() else ""
            if name != self._pending[0]:
                self._pending, self._told = (name, now), None
            waited = now - self._pending[1]
            if self.state.is_final():
                self._over = self._over or now
            elif stopping and self.state.is_scheduled():
                self._set(Cancelled())
            elif name == _WAITS and waited > _WAITED:
                self._lose(f"its Pod has waited for {_WAITED:.0f} s")
            elif stopping and name == _WAITS:
                self._set(Cancelling())  # at which Prefect's worker takes its Job away
            elif name not in ("", _WAITS) and waited > _BEGUN:
                # It has sent no sign of life yet, without which Prefect waits for none.
                self._set(Crashed(message=f"claimed by a worker and not begun for {_BEGUN:.0f} s"))
        except ObjectNotFound:
            self.state, self._over = Crashed(message="Prefect does not know it any more"), self._over or now
        except Exception:  # it is away: of whatever kind, the next look may be better
            return

    def news(self) -> str:
        """What it waits for, at first and every few minutes, else "": what never comes would be waited for unseen."""
        now = time.monotonic()
        if self._pending[0] != _WAITS or (self._told is not None and now - self._told < _TOLD):
            return ""
        self._told = now
        return f"{_WAITS}: {self.state.message or 'no more is known'} `kubectl describe pods` says why"

    def is_over(self) -> bool:
        """Whether nothing of it is to be expected any more."""
        now = time.monotonic()
        if self._over is not None:
            answered = self.state.is_completed() or self.state.is_failed()
            return now - self._over > (_ANSWERED if answered else _LAST)
        return self._stopping is not None and now - self._stopping > GRACE

    def give_up(self) -> None:
        """Nobody listens to it any more."""
        if not self.state.is_final():
            try:
                self._set(Cancelled())
            except Exception:  # the worker asks by itself, too
                return

    def _lose(self, why: str) -> None:
        """Cancelled, so that Prefect's worker takes its Job away, and yet lost: the run sends it again."""
        self.lost = why
        self._set(Cancelling(message=why))

    def _set(self, state: State[Any]) -> None:
        self._client.set_flow_run_state(self._flow_run, state, force=True)
