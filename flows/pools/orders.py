"""What a run asks of a worker, and what it answers; both travel as JSON."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from flows.plan.measured import Measured
from flows.processes import SAVING
from tasks.outcome import StageResult

Type = Literal["process", "docker", "kubernetes"]
"""Of Prefect work pools that stages can go to; in the last two each gets a container, which Prefect's worker starts."""
REFS = "refs/preflow-work"
"""Where the git remote has the commits that stages of pools start from, while they are at work."""
FLOW = "preflow-stage"
"""Prefect's flow of one stage; the deployment of a pool has the pool's name."""
BEAT = 30
"""Seconds between two signs of life of a stage, to Prefect."""
WINDOW = 3 * BEAT
"""Seconds without one after which Prefect calls the stage Crashed, and the run sends it again."""
SENDING = 4
"""Times what a stage has to save its step it has to save and to send that off."""
GRACE = SENDING * SAVING
"""Seconds that a stage gets when its worker is ended."""


@dataclass(frozen=True)
class Order:
    """One attempt at a stage of a run."""

    run: str
    stage: str
    ref: str
    """Below `REFS`."""
    commit: str
    """Code, parameters and the dvc.lock to start from."""
    mail: str
    """Folder of the exchange for what the stage says."""
    flow_run: str
    """The run's own in Prefect: a stage whose run is over is stopped."""
    force: bool = False
    planned: bool = True
    """Whether to refuse what cannot fit."""

    def __post_init__(self) -> None:
        """Raises ValueError where it could lead out of a worker's folders: it comes through a server."""
        well = re.fullmatch(r"[\w-]+", self.run) and re.fullmatch(r"[\w@.-]+", self.stage) and ".." not in self.stage
        if not well or self.ref != f"{REFS}/{self.run}/{self.stage}" or not self.mail.startswith("mail/"):
            raise ValueError(f"no order of ours: {self}")

    @property
    def stop(self) -> str:
        """File of the exchange that ends the stage: cancelled by Prefect, it had no time to send what it saved."""
        return f"{self.mail}/stop"

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Answer:
    """What became of it."""

    result: StageResult
    host: str
    entry: str = ""
    """Of dvc.lock, as text; "" unless the stage is up to date there."""
    cached: str = ""
    """DVC's run cache of it: the path of the entry below `runs/`, a line break, its text."""
    scratch: str = ""
    """Folder of the exchange with what it has saved, which the run removes when it has the outputs."""
    measured: Sequence[Measured] = ()
    """What its memory came to beside what was planned, which corrects plans on other hosts too."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Answer":
        """Raises KeyError, TypeError or ValueError where it is none."""
        host, entry, cached, scratch = (str(told[name]) for name in ("host", "entry", "cached", "scratch"))
        measured = [(str(name), (float(said), float(took))) for name, (said, took) in told["measured"]]
        return cls(StageResult(**told["result"]), host, entry, cached, scratch, measured)
