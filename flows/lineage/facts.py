"""What became of rows over all runs, in the order in which it happened: data versions, verdicts, models, versions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.lineage.rows import Finder, Held, Wanted
from flows.lineage.runs import CHECKOUT, Known, Version, module_of
from flows.lineage.touch import RETIRED, Touched, touched
from rlhf.errors import PreflowError

_SHOWN = ("id", "file", "line", "source", "group", "split", "annotator", "origin", "pool")


Looked = Sequence[tuple[Known, Mapping[str, Held]]]
Reached = Sequence[tuple[Known, Mapping[str, Touched]]]


@dataclass(frozen=True)
class Verdict:
    """What the gate said of the rows in one version of the data."""

    version: str
    clean: int
    findings: tuple[Mapping[str, Any], ...]
    """Of those that were set aside: id, rule, severity, reason."""
    refused: int
    """Rows that `prepare` could not read."""
    runs: list[str]

    @property
    def says(self) -> str:
        """ "clean", "quarantined by RULE", or both with counts."""
        rules = sorted({str(one["rule"]) for one in self.findings})
        aside = len({one.get("id") for one in self.findings}) + self.refused
        names = ", ".join([*rules, *(["not readable"] if self.refused else [])])
        if not aside:
            return "clean" if self.clean else "not judged: the run ended before"
        return f"quarantined by {names}" if not self.clean else f"{self.clean} clean, {aside} quarantined by {names}"


@dataclass
class Facts:
    """Everything that is known of the rows that were asked for."""

    wanted: Wanted
    rows: dict[str, Mapping[str, Any]]
    """Rows by id, as the first stage that gave them one wrote them."""
    reached: Reached
    """Runs that the rows were in, and what they reached in each."""
    verdicts: list[Verdict]
    versions: list[tuple[Version, Touched]]
    """Registered versions that the rows reached, by one of the words of `flows.lineage.touch`."""
    held: Looked = field(default_factory=list)

    @property
    def sources(self) -> list[str]:
        return sorted({str(row.get("source")) for row in self.rows.values()})

    @property
    def title(self) -> str:
        if len(self.rows) == 1:
            row = next(iter(self.rows.values()))
            who = f" by {row['annotator']}" if row.get("annotator") else ""
            return f"{row.get('file')}:{row.get('line')}{who}"
        return f"{len(self.rows)} rows"

    @property
    def unread(self) -> list[str]:
        """Outs that the cache has not whole, so that there may be more."""
        return sorted({f"{path} of {run.name}" for run, held in self.held for path, one in held.items() if one.unread})

    def models(self) -> list[tuple[Touched, list[str]]]:
        """Each model that the rows reached once, in the order of the graph, with the runs that have it."""
        found: dict[tuple[str, str, str], tuple[Touched, list[str]]] = {}
        for run, reached in self.reached:
            for one in reached.values():
                if one.item.is_model:
                    found.setdefault((one.item.path, one.item.md5, one.word), (one, []))[1].append(run.name)
        return list(found.values())

    def retired(self) -> list[tuple[Touched, list[str]]]:
        """Models that would be others without the rows."""
        return [(one, runs) for one, runs in self.models() if one.word in RETIRED]

    def retired_versions(self) -> list[tuple[Version, Touched]]:
        """Registered versions of such models."""
        return [(version, one) for version, one in self.versions if one.word in RETIRED]

    def annotated(self) -> list[tuple[str, list[str]]]:
        """What stage `annotate` did with the rows: one phrase, and the runs in which it did."""
        found: dict[str, list[str]] = {}
        for run, reached in self.reached:
            if phrase := _in_pairs(run, reached):
                found.setdefault(phrase, []).append(run.name)
        return list(found.items())

    def told(self) -> dict[str, Any]:
        """For programs."""
        only = next(iter(self.rows.values())) if len(self.rows) == 1 else {}
        return {
            "rows": len(self.rows),
            "row": {key: only[key] for key in _SHOWN if key in only} or None,
            "data_versions": [
                {"version": one.version, "verdict": one.says, "clean": one.clean, "runs": one.runs}
                | {"findings": [{key: each.get(key) for key in ("id", "rule", "reason")} for each in one.findings]}
                for one in self.verdicts
            ],
            "preferences": [{"says": phrase, "runs": runs} for phrase, runs in self.annotated()],
            "models": [
                {"path": one.item.path, "md5": one.item.md5, "stage": one.stage, "word": one.word}
                | {"because": one.because, "retire": one.word in RETIRED, "runs": runs}
                for one, runs in self.models()
            ],
            "versions": [
                {"name": version.name, "version": version.number, "champion": version.is_champion}
                | {"run": version.run, "path": one.item.path, "word": one.word, "retire": one.word in RETIRED}
                for version, one in self.versions
            ],
            "not_in_cache": self.unread,
        }


def facts_of(cache: Path, wanted: Wanted, runs: Sequence[Known], released: Sequence[Version]) -> Facts:
    """Look all runs through.

    Raises:
        PreflowError: no run that is kept here has such a row.
    """
    finder = Finder(cache, wanted)
    held: Looked = [(run, finder.held(run)) for run in runs]
    reached = [(run, reach) for run, one in held if (reach := touched(run, one))]
    if not reached:
        gone = f"; the DVC cache lacks files of {len(runs)} runs: `dvc fetch`" if any(one for _, one in held) else ""
        raise PreflowError(f"{wanted.text}: no run that is kept here has such rows{gone}")
    rows: dict[str, Mapping[str, Any]] = {}
    for run, one in held:
        for stage in run.stages:
            if module_of(run.tree.graph, stage) in ("prepare", "annotate"):
                for item in run.tree.outs(stage):
                    for row in one.get(item.path, Held()).rows:
                        if "id" in row and wanted.holds(row):
                            rows.setdefault(str(row["id"]), row)
    return Facts(wanted, rows, reached, _verdicts(reached), list(_versions(released, reached)), held)


def _verdicts(reached: Reached) -> list[Verdict]:
    found: dict[str, Verdict] = {}
    for run, touches in reached:
        if run.data_version in found:
            found[run.data_version].runs.append(run.name)
            continue
        by_module = [(module_of(run.tree.graph, one.stage), one) for one in touches.values()]
        gate = "validate" if any(module == "prepare" for module, _ in by_module) else "annotate"  # it judges its own
        clean = [one for module, one in by_module if module == gate and not one.item.path.endswith("/report")]
        report = [one for module, one in by_module if module == gate and one.item.path.endswith("/report")]
        refused = [one for module, one in by_module if module == "prepare" and one.item.path.endswith("/quarantine")]
        found[run.data_version] = Verdict(
            version=run.data_version,
            clean=len({row.get("id") for one in clean for row in one.rows}),
            findings=tuple(row for one in report for row in one.rows),
            refused=sum(one.count for one in refused),
            runs=[run.name],
        )
    return list(found.values())


def _in_pairs(run: Known, reached: Mapping[str, Touched]) -> str:
    """Where the pairs of a run have the rows; why not, where its preferences had them."""
    stages = [stage for stage in run.stages if module_of(run.tree.graph, stage) == "annotate"]
    for stage in stages:
        for item in run.tree.outs(stage):
            if item.path in reached and item.path.endswith("/pairs"):
                one = reached[item.path]
                return f"{one.count} of them in {item.path}: {one.because}" if one.count > 1 else f"in {one.because}"
        given = [item.path for item in run.tree.deps(stage) if item.path in reached and "preferences" in item.path]
        if given:
            use = (run.params.get("annotate") or {}).get("train_on", "on_policy")
            return f"read and left out of {stage}'s pairs (annotate.train_on={use}, or the pair did not fit)"
    return ""


def _versions(released: Sequence[Version], reached: Reached) -> Iterator[tuple[Version, Touched]]:
    """The run that a version names first, then any other that wrote the same bytes, but for the checkout."""
    for version in released:
        same = [
            (run.name != version.run, run.name == CHECKOUT, touches[version.path])
            for run, touches in reached
            if version.path in touches and touches[version.path].item.md5 == version.md5
        ]
        if same:
            yield version, min(same, key=lambda one: one[:2])[2]
