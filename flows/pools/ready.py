"""What must be set up before stages can go to work pools."""

import secrets
from collections.abc import Collection, Mapping
from pathlib import Path

from flows import server
from flows.pools import workers
from flows.pools.exchange import exchange_of
from flows.releases.refs import remote_of
from rlhf.errors import PreflowError
from tasks.config import ConfigError
from tasks.config.pools import Pool
from tasks.graph import Graph


def refuse_unready(root: Path, pools: Mapping[str, Pool], graph: Graph, todo: Collection[str]) -> None:
    """Before the first stage, so that nobody waits for hours to be told.

    Raises:
        ConfigError: `pools` names a stage that there is none of, or a job variable that the pool does not have.
        PreflowError: a stage is to go to a pool, and something is not set up; the message says what to do.
    """
    if unknown := [name for name in pools if name not in graph.stages]:
        raise ConfigError(f"pools names {unknown[0]}, and there is no such stage; there are {', '.join(graph.stages)}")
    if sent := [pools[name] for name in todo if name in pools]:
        refuse_unprepared(root)
    if varied := [one for one in sent if one.job_variables]:
        server.start(root)
        for one in varied:
            workers.refuse_variables(one.pool, one.job_variables)


def refuse_unprepared(root: Path) -> None:
    """What a run and a worker need alike. Raises PreflowError as above."""
    refuse_unconnected()
    if not remote_of(root):
        raise PreflowError(f"{root} has no git remote, by which workers get stages: `git remote add origin URL`")
    exchange, probe = exchange_of(root), f"probe-{secrets.token_hex(4)}"
    exchange.put(probe, b"written")
    exchange.remove(probe)


def refuse_unconnected() -> None:
    """Raises PreflowError where nobody has said which Prefect server to meet at."""
    if not server.configured():
        raise PreflowError(
            "PREFECT_API_URL is not set: runs and workers meet at a Prefect server that both reach, and a project's "
            "own is none; docs/servers.md starts one"
        )
