"""A run in which nothing has to run: Prefect is told of it over its API, where a server is up.

Its flow would say the same, but importing Prefect, a thread a task and sending what they say take seconds.
"""

import time
import urllib.error
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from flows.prefect_api import ask
from flows.work import Work
from tasks.outcome import StageResult

FLOW = "pipeline"
CACHED = "unchanged, or restored from the run cache"
_TRIES = 50  # a server on SQLite answers 503 while it writes something else


def execute(work: Work, api: str) -> Mapping[str, StageResult] | None:
    """One result a stage, as `flows.pipeline.execute` gives them; `api` is Prefect's, "" where no server is up.

    None where it wants to know more of who asks than we do, and was told nothing. A server that is no use otherwise
    costs a line, as nothing has to run on it.
    """
    flow_run = ""
    try:
        flow_run = _begin(work, api) if api else ""
    except (OSError, ValueError, LookupError, TypeError) as error:  # the last three: the answer is none of Prefect's
        if getattr(error, "code", None) in (401, 403):
            return None
        work.on_trouble(f"Prefect: {type(error).__name__}: {error}; it has no whole page of this run")
    if flow_run:
        work.on_flow(flow_run)
        try:
            _record(work, api, flow_run)
        except (OSError, ValueError) as error:
            work.on_trouble(f"Prefect: {type(error).__name__}: {error}; its page of this run may be incomplete")
    results = {name: StageResult(name, "cached") for name in work.graph.stages}
    for result in results.values():
        work.on_result(result)
    return results


def show_report(api: str, flow_run: str, text: str) -> None:
    """Show a Markdown text with a flow run, which may have ended; OSError where Prefect does not take it."""
    about = "the run's report in short"
    shown = {"key": "report", "type": "markdown", "description": about, "data": text, "flow_run_id": flow_run}
    _ask(f"{api}/artifacts/", shown)


def _begin(work: Work, api: str) -> str:
    flow = _ask(f"{api}/flows/", {"name": FLOW})["id"]
    running = {"type": "RUNNING", "name": "Running"}
    asked = {"flow_id": flow, "name": work.place.run, "state": running}
    return str(_ask(f"{api}/flow_runs/", asked)["id"])


def _record(work: Work, api: str, flow_run: str) -> None:
    """A task run a stage, behind those that it waits for; then the end."""
    ids = {name: str(uuid4()) for name in work.graph.stages}
    for name, upstream in work.graph.upstream.items():
        waited = [{"input_type": "task_run", "id": ids[other]} for other in upstream]
        made = {"id": ids[name], "flow_run_id": flow_run, "name": name, "task_key": name, "dynamic_key": "0"}
        state = {"type": "COMPLETED", "name": "Cached", "message": CACHED}
        _ask(f"{api}/task_runs/", made | {"task_inputs": {"wait_for": waited}, "state": state})
    state = {"type": "COMPLETED", "name": "Completed", "message": f"0 ran, {len(ids)} cached"}
    _ask(f"{api}/flow_runs/{flow_run}/set_state", {"state": state, "force": True})


def _ask(url: str, question: dict[str, Any]) -> Any:
    for _ in range(_TRIES):
        try:
            return ask(url, question)
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
        time.sleep(0.1)
    return ask(url, question)
