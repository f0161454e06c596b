"""The end of a run in MLflow: dead stages closed, cached stages added, lineage linked, the whole described."""

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlhf.comparison import JUDGED_BY
from tasks import sums
from tasks.costs import costs_of
from tasks.graph import Graph
from tasks.lineage import Linker, Tree, matches, policies_of, read_tree
from tasks.redact import redacted
from tasks.tracking import artifacts, describe, snapshots, views
from tasks.tracking.headlines import headlines, judged_policies, spending, spent, summary, tables
from tasks.tracking.pictures import copy_shown, gather
from tasks.tracking.runs import RunRecord
from tasks.tracking.shipping import Shipment
from tasks.tracking.store import Store, connect, database_of, folder_of, uri_of
from tasks.tracking.values import numbers_of, params_of

Results = dict[str, dict[str, Any]]


def close_run(run: RunRecord) -> dict[str, Any]:
    """Ship all that is left of a run that is over, and say so on disk. Returns the ids of `tracking.finish_run`."""
    with run.exclusive(wait=True):
        if not (run.folder / "shipped").exists():
            closing = _Closing(run)
            closing.close()
            sums.seal(run.folder, run.record())
            closing.show_page()
            (run.folder / "shipped").touch()
        snapshots.forget(run.begun, run.ended)
        state = run.state()
    made = {key.rsplit("-", 1)[0]: kept["run"] for key, kept in state["children"].items() if "run" in kept}
    return {"run": state["run"], "experiment": state["experiment"], "stages": made | state.get("others", {})}


def _only(tree: Tree, stages: Sequence[str]) -> Tree:
    return replace(tree, graph=Graph({name: stage for name, stage in tree.graph.stages.items() if name in stages}))


def log_page(run: RunRecord, page: Path) -> None:
    """Give a closed run its page. One that is not closed yet finds the page itself when it is."""
    with run.exclusive(wait=True):
        if (run.folder / "shipped").exists():
            state, database = run.state(), database_of(run.root)
            is_here = folder_of(database, state["run"]) is not None  # then MLflow need not be imported
            store = Store(uri_of(run.root), None, database) if is_here else connect(run.root)
            store = replace(store, sums=state.setdefault("sums", {}))
            artifacts.add(store, state["run"], [page], "report")
            artifacts.seal(store, state["run"])
            store.vouch()
            run.save(state)


class _Closing(Shipment):
    """A shipment's last trip."""

    def __init__(self, run: RunRecord) -> None:
        super().__init__(run)
        self._shown_by: dict[str, str] = {}
        """Of cached stages the pipeline run that ran them."""

    def close(self) -> None:
        self.live()
        for kept in self.state["children"].values():
            if kept["status"] is None and "run" in kept:
                self.end(kept, "KILLED", "the run ended before it did", kept["last"])
        others: dict[str, str] = self.state.setdefault("others", {})
        places = (self.run.ended, self.run.tree, self.run.begun)
        place = next((place for place in places if (place / "dvc.yaml").exists()), None)
        if place is None:  # a worktree that is gone took its graph with it
            told = self.run.outcome
            self._end_parent(told["results"] if told else {}, told["status"] if told else "KILLED")
            return
        tree = read_tree(place, self.run.described)
        self.graph = tree.graph
        status, given = self._outcome(tree)
        linker = Linker(self.client, self.experiment, self.run.run_id, tree)
        own = []
        for stage in tree.graph.stages:
            state = given.get(stage, {}).get("state")
            if state == "cached":
                others[stage] = self._cached(linker, tree, stage)
            elif state == "failed" and not self._attempts(stage):
                others[stage] = self._failed(stage, given[stage].get("reason") or "it failed before it began")
            elif state == "stopped":
                self._tell_stopped(stage, given[stage].get("reason") or "")
            is_linked = self._link_attempts(linker, tree, stage)
            if state == "cached" or is_linked or (state == "ran" and place == self.run.ended):
                own.append(stage)
        self.save()
        self._conclude(linker, _only(tree, own), given, status)

    def show_page(self) -> None:
        """Last of all: a flow that does not wait for us any longer may have written it only now."""
        if (page := self.run.root / "reports" / self.run.run_id / "report.html").exists():
            artifacts.add(self.store, self.parent, [page], "report")
            artifacts.seal(self.store, self.parent)
            self.save()

    def _outcome(self, tree: Tree) -> tuple[str, Results]:
        """As the flow told; else from what the stages left behind."""
        told = self.run.outcome
        if told:
            return told["status"], told["results"]
        guessed = self._guess(tree)
        if not self.run.info.get("by_hand"):
            return "KILLED", guessed
        return ("FAILED" if any(result["state"] == "failed" for result in guessed.values()) else "FINISHED"), guessed

    def _guess(self, tree: Tree) -> Results:
        """What became of each stage of a run that nobody told the end of.

        dvc looks at the stages it is asked for and at all before them; those that left no journal, and are locked with
        what their producers are locked with, it skipped.
        """
        results: Results = {}
        for key, kept in self.state["children"].items():
            done = kept["status"] == "FINISHED"
            results[key.rsplit("-", 1)[0]] = {"state": "ran" if done else "failed"}
        if self.run.info.get("by_hand"):
            named = set(shlex.split(self.run.info["command"])) & set(tree.graph.stages)
            seen = tree.graph.ancestors(named | set(results)) if named else set(tree.graph.stages)
            for stage in seen - set(results):
                if tree.consistent(stage):
                    results[stage] = {"state": "cached"}
        return results

    def _link_attempts(self, linker: Linker, tree: Tree, stage: str) -> bool:
        """Lineage of the attempts at a stage, where the lock speaks of what they wrote. False where it does of none."""
        made = [
            one for one in self._attempts(stage) if one["status"] == "FINISHED" and matches(tree, stage, one["outs"])
        ]
        for kept in made:
            linker.link(kept["run"], stage)
            self.log(kept["run"], self._final_metrics(tree, stage))
        return bool(made)

    def _attempts(self, stage: str) -> list[dict[str, Any]]:
        return [kept for key, kept in self.state["children"].items() if key.rsplit("-", 1)[0] == stage]

    def _cached(self, linker: Linker, tree: Tree, stage: str) -> str:
        """A light child run, linked to the one that made the bytes and comparable with it."""
        origin = linker.producer(stage)
        tags = {"preflow.stage": stage, "preflow.state": "cached", "cached": "true"}
        tags |= describe.child_tags(self.graph, stage)
        if origin:
            tags["cached_from"] = origin
        link = f"[run {origin[:8]}]({self._link(origin)})" if origin else None
        tags["mlflow.note.content"] = describe.cached_note(tags.get("mlflow.note.content", ""), link)
        child = self.child(f"{stage} cached", f"{stage} (cached)", time.time(), tags)
        self.log(child, self._final_metrics(tree, stage), params_of(tree.params(stage)))
        linker.link(child, stage)
        if origin and (parent := copy_shown(self.store, origin, child)):
            self._shown_by[stage] = parent
        self.client.set_terminated(child, "FINISHED")
        return child

    def _failed(self, stage: str, reason: str) -> str:
        tags = {"preflow.stage": stage, "preflow.state": "failed", "preflow.reason": reason}
        child = self.child(f"{stage} failed", stage, time.time(), tags | describe.child_tags(self.graph, stage))
        self.client.set_terminated(child, "FAILED")
        return child

    def _tell_stopped(self, stage: str, reason: str) -> None:
        """Its process could not say why it ended, and a kill alone reads as a failure."""
        for key, kept in self.state["children"].items():
            if key.rsplit("-", 1)[0] == stage and kept["status"] != "FINISHED" and "run" in kept:
                self.log(kept["run"], tags={"preflow.state": "stopped", "preflow.reason": reason})

    def _final_metrics(self, tree: Tree, stage: str) -> list[Any]:
        """The numbers of the stage's metrics file, as section `final`."""
        from mlflow.entities import Metric

        when = int(float(self.run.facts["begun"]) * 1000)
        for out in tree.graph.stages[stage].outs:
            if Path(out).name == "metrics.json" and (tree.root / out).exists():
                values = json.loads((tree.root / out).read_text(encoding="utf-8"))
                return [Metric(name, value, when, 0) for name, value in numbers_of(values, "final").items()]
        return []

    def _conclude(self, linker: Linker, tree: Tree, results: Results, status: str) -> None:
        """The parent run: headline numbers, lineage, tables, plots, configuration, reports, description, end.

        `tree` has the stages alone whose outputs there are this run's: a checkout may have gone on, and what was there
        before a run that failed is there still.
        """
        children, when = self._children(), int(float(self.run.facts["begun"]) * 1000)
        linker.sum_up(self.parent, list(tree.graph.stages))
        gather(self.store, children, self.parent, self._shown_by)
        if status == "FINISHED":
            self.log(self.parent, headlines(tree, when))
            self._prepare_view(tree)
            for stage, points in judged_policies(tree, linker, results, when).items():
                if stage in children:
                    self.log(children[stage], points)
            for name, rows in tables(tree).items():
                self.table(self.parent, name, rows, self.state.setdefault("tables", []))
        self.log(self.parent, summary(results, self._ended() - when / 1000, when))
        costs = costs_of(self.run.root, self.run.run_id, tree, results)
        self.log(self.parent, spending(costs, results, when))
        for stage, cost in costs.items():
            self.log(children[stage], spent(cost, when, cached=results[stage]["state"] == "cached"))
        links = {stage: self._link(child) for stage, child in children.items()}
        self._add_files(tree)
        note = describe.parent_note(self.run, tree, self.graph, results, links)
        kept = (self.run.outcome or {}).get("commit")
        commit = {"git.commit": kept, "mlflow.source.git.commit": kept} if kept else {}
        self.log(self.parent, tags={"mlflow.note.content": note} | describe.ending_tags(tree) | commit)
        self._end_parent(results, status)

    def _add_files(self, tree: Tree) -> None:
        """What it was to do; where outputs are its own, the lock and the reports on data too."""
        config = [self.run.described / name for name in snapshots.DESCRIBED]
        config += [tree.root / snapshots.LOCK] if tree.graph.stages else []
        for file in filter(Path.exists, config):
            text = redacted(file.read_text("utf-8"))
            artifacts.add_text(self.store, self.parent, text, f"config/{file.name}")
        for stage in tree.graph.stages.values():
            for out in stage.outs:
                if (page := tree.root / out / "report.html").exists():
                    artifacts.add(self.store, self.parent, [page], f"validation/{stage.name}")

    def _prepare_view(self, tree: Tree) -> None:
        """Have the experiment's view show the measures and policies of this run."""
        if scores := describe.read_out(tree, "scores.json"):
            known = [name for name in policies_of(tree.graph) if name in scores["policies"]]
            view = views.overview(scores["judge"], JUDGED_BY[scores["judge"]], known)
            self.client.set_experiment_tag(self.experiment, views.TAG, view)

    def _end_parent(self, results: Results, status: str) -> None:
        reasons = [f"{stage}: {result['reason']}" for stage, result in results.items() if result.get("reason")]
        if status != "FINISHED" and reasons:
            self.log(self.parent, tags={"preflow.reason": "; ".join(reasons)})
        artifacts.seal(self.store, self.parent)
        self.client.set_tag(self.parent, artifacts.SEALED, sums.SUMS)
        self.client.set_terminated(self.parent, status, end_time=int(self._ended() * 1000))
        self.save()

    def _ended(self) -> float:
        """When the run was over; without a word on it, when the last stage said something."""
        told = self.run.outcome
        spoken = [kept["last"] for kept in self.state["children"].values() if "last" in kept]
        return float(told["time"]) if told else max([float(self.run.facts["begun"]), *spoken])

    def _children(self) -> dict[str, str]:
        """Child run of each stage: its last attempt, or the light one."""
        made = {key.rsplit("-", 1)[0]: kept["run"] for key, kept in self.state["children"].items() if "run" in kept}
        return made | self.state["others"]

    def _link(self, run: str) -> str:
        return f"#/experiments/{self.experiment}/runs/{run}?workflowType=machine_learning"
