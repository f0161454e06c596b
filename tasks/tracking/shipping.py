"""Journals into MLflow, while stages run: a parent run, a child run for each attempt at a stage, and what they say.

Exactly once: runs are found again by their tags; params, tags, tables and files are overwritten with themselves; a
metric point carries the time of its event, and MLflow's database keeps one of equal points. Cursors are saved last.
"""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from rlhf.errors import PreflowError
from tasks.config import read_yaml
from tasks.graph import Graph, GraphError, load_graph, lookup
from tasks.journal import alive
from tasks.redact import masked_value
from tasks.tracking import artifacts, comparisons, describe
from tasks.tracking.runs import Journal, RunRecord
from tasks.tracking.store import Store, connect, identified, name_of
from tasks.tracking.system import facts_of_this_machine
from tasks.tracking.values import chunks, params_of, plottable, text

METRICS_A_CALL = 1000
PARAMS_A_CALL = 100
USED = ("cpu_seconds", "peak_memory_gib", "peak_cuda_gib")


def ship_run(run: RunRecord) -> None:
    """What is new since the last time; nothing is opened where nothing is."""
    with run.exclusive(wait=False) as mine:
        if mine and _has_news(run):
            Shipment(run).live()


class Shipment:
    """One run on its way into one store. Its state is on disk after every step."""

    def __init__(self, run: RunRecord) -> None:
        self.run = run
        store, state = connect(run.root), run.state()
        fresh: dict[str, Any] = {"store": store.name, "children": {}}
        self.state = state if state.get("store") == store.name else fresh
        self.store: Store = replace(store, sums=self.state.setdefault("sums", {}))
        self._known: dict[str, str] | None = None

    @property
    def client(self) -> Any:
        return self.store.client

    @property
    def experiment(self) -> str:
        return str(self.state["experiment"])

    @property
    def parent(self) -> str:
        return str(self.state["run"])

    @cached_property
    def graph(self) -> Graph | None:
        """None where it cannot be read: a worktree that is gone took its graph with it."""
        try:
            return load_graph(self.run.described)
        except (PreflowError, OSError):
            return None

    def live(self) -> None:
        """Parent run, then each journal from its cursor on."""
        self._open_parent()
        for journal in self.run.journals():
            self._ship(journal)

    def child(self, key: str, name: str, start: float, tags: Mapping[str, str]) -> str:
        """Id of a child run; `key` names it for good ("rl-1", "rl cached"), across crashes."""
        if self._known is None:
            query = f"tags.`mlflow.parentRunId` = '{self.parent}'"
            found = self.client.search_runs([self.experiment], query)
            self._known = {run.data.tags.get("preflow.journal", ""): str(run.info.run_id) for run in found}
        if key not in self._known:
            every = {"mlflow.parentRunId": self.parent, "preflow.journal": key, "preflow.run": self.run.run_id}
            self._known[key] = self._create(name, start, every | dict(tags))
        return self._known[key]

    def log(self, run: str, metrics: Sequence[Any] = (), params: Mapping[str, str] | None = None,
            tags: Mapping[str, str] | None = None) -> None:  # fmt: skip
        """Any number of metrics, params and tags, in calls as large as MLflow takes."""
        from mlflow.entities import Param, RunTag

        words = [RunTag(name, text(value)) for name, value in (tags or {}).items()]
        knobs = [Param(name, value) for name, value in (params or {}).items()]
        if len(metrics) + len(words) + len(knobs) < PARAMS_A_CALL:
            self.client.log_batch(run, metrics, knobs, words)
            return
        for points in chunks(metrics, METRICS_A_CALL):
            self.client.log_batch(run, metrics=points)
        for number in range(0, max(len(words), len(knobs)), PARAMS_A_CALL // 2):
            part = slice(number, number + PARAMS_A_CALL // 2)
            self.client.log_batch(run, params=knobs[part], tags=words[part])

    def table(self, run: str, name: str, rows: Sequence[Mapping[str, Any]], kept: list[str]) -> None:
        """A table as `mlflow.log_table` writes it, but over an old one, not behind it. `kept`: tables so far."""
        columns = list(dict.fromkeys(column for row in rows for column in row))
        path = f"{name}.json"
        told = {"columns": columns, "data": masked_value([[row.get(column) for column in columns] for row in rows])}
        artifacts.add_text(self.store, run, json.dumps(told, indent=2, default=str), path)
        if path not in kept:
            kept.append(path)
        logged = json.dumps([{"path": each, "type": "table"} for each in kept])
        self.client.set_tag(run, "mlflow.loggedArtifacts", logged)

    def save(self) -> None:
        """Remember what has been told, where it was MLflow that heard it."""
        self.store.vouch()
        self.run.save(self.state)

    def _open_parent(self) -> None:
        if "run" in self.state:
            return
        registry = str(self.run.info.get("registry") or "policy")
        experiment = self.store.experiment(registry.replace("policy", "preflow", 1))
        self.state["experiment"] = experiment
        query = f"tags.`preflow.run` = '{self.run.run_id}' AND tags.`preflow.kind` = 'pipeline'"
        found = self.client.search_runs([experiment], query, max_results=1)
        begun, info = float(self.run.facts["begun"]), self.run.info
        name = text(info.get("name") or self.run.run_id, 200)
        tags = {"preflow.kind": "pipeline", "preflow.run": self.run.run_id}
        run = str(found[0].info.run_id) if found else self._create(name, begun, tags)
        self.log(run, params=params_of(self._params()), tags=self._tags())
        self.state["run"] = run
        self.save()

    def _params(self) -> dict[str, Any]:
        """What some stage of the graph reads: settings of methods that do not run would only hide what differs."""
        params = self.run.info.get("params") or read_yaml(self.run.described / "params.yaml")
        if self.graph is None:
            return dict(params)
        try:
            return {name: lookup(params, name) for stage in self.graph.stages.values() for name in stage.params}
        except GraphError:
            return dict(params)

    def _tags(self) -> dict[str, str]:
        return describe.parent_tags(self.run) | comparisons.parent_tags(self.run) | facts_of_this_machine()

    def _create(self, name: str, start: float, tags: Mapping[str, str]) -> str:
        told = {key: text(value) for key, value in tags.items()}
        made = self.client.create_run(self.experiment, start_time=int(start * 1000), tags=told, run_name=name)
        return identified(made.info.run_id)

    def _ship(self, journal: Journal) -> None:
        kept = self.state["children"].setdefault(journal.name, {"offset": 0, "status": None, "tables": []})
        events, offset = journal.read(kept["offset"]) if journal.size() > kept["offset"] else ([], kept["offset"])
        points: list[Any] = []
        for event in events:
            self._tell(journal, kept, event, points)
        if points:
            self.log(kept["run"], points)
        if offset != kept["offset"]:
            kept["offset"] = offset
            self.save()
        if kept["status"] is None and "pid" in kept and not _is_alive(kept):
            if journal.size() > offset:
                return  # it has said more meanwhile, its end perhaps
            self.end(kept, "KILLED", "its process is gone without a word", kept["last"])

    def _tell(self, journal: Journal, kept: dict[str, Any], event: dict[str, Any], points: list[Any]) -> None:
        from mlflow.entities import Metric

        if event["event"] != "start" and "run" not in kept:
            return  # its beginning is lost, and with it what the rest would be told of
        when = int(event["time"] * 1000)
        kept["last"] = event["time"]
        files = journal.path / "files"
        match event["event"]:
            case "start":
                self._start(journal, kept, event)
            case "metrics":
                shown = event["metrics"].items()
                points.extend(Metric(name, plottable(value), when, event["step"]) for name, value in shown)
            case "table":
                rows = json.loads((files / event["file"]).read_text(encoding="utf-8"))
                self.table(kept["run"], event["name"], rows, kept["tables"])
            case "file":
                artifacts.add(self.store, kept["run"], [files / event["file"]], event["folder"])
            case "end":
                used = event.get("used") or {}
                numbers = {name: used[name] for name in USED if name in used}
                numbers["seconds"] = event["time"] - kept["begun"]
                if "logging_seconds" in event:
                    numbers["logging_seconds"] = event["logging_seconds"]
                points.extend(Metric(f"system/{name}", value, when, 0) for name, value in numbers.items())
                words = {f"system.{name}": str(value) for name, value in used.items() if name not in numbers}
                self.log(kept["run"], points, tags=words)
                points.clear()
                kept["outs"] = event.get("outs") or {}
                self.end(kept, event["status"], event.get("reason", ""), event["time"])

    def _start(self, journal: Journal, kept: dict[str, Any], event: Mapping[str, Any]) -> None:
        name = journal.stage if journal.attempt == 1 else f"{journal.stage} (attempt {journal.attempt})"
        tags = {"preflow.stage": journal.stage, "preflow.state": "ran", "preflow.key": str(event.get("key", ""))}
        tags |= describe.child_tags(self.graph, journal.stage)
        kept["run"] = self.child(journal.name, name, event["time"], tags)
        kept["pid"], kept["started"], kept["begun"] = event["pid"], event["process_started"], event["time"]
        kept["host"] = event.get("owner", {}).get("host", platform.node())
        self.log(kept["run"], params=params_of(event.get("config") or {}))

    def end(self, kept: dict[str, Any], status: str, reason: str, when: float) -> None:
        """Close a child run."""
        if status != "FINISHED":
            self.log(kept["run"], tags={"preflow.state": "failed", "preflow.reason": reason})
        self.client.set_terminated(kept["run"], status, end_time=int(when * 1000))
        kept["status"] = status
        self.save()


def _has_news(run: RunRecord) -> bool:
    state = run.state()
    if state.get("store") != name_of(run.root) or "run" not in state:
        return True
    cursors = state["children"]
    for journal in run.journals():
        kept = cursors.get(journal.name)
        if kept is None or journal.size() > kept["offset"]:
            return True
        if kept["status"] is None and "pid" in kept and not _is_alive(kept):
            return True
    return False


def _is_alive(kept: Mapping[str, Any]) -> bool:
    """On another machine nobody here can tell, and it counts as alive."""
    return kept["host"] != platform.node() or alive(kept["pid"], kept["started"])
