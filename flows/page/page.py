"""One page a run: `reports/<run>/report.html`, written at the end of every run, and again when somebody asks for it.

It needs no other file and no network. What the flow knows beyond the run's files is kept beside it as `run.json`; a run
whose tree is gone is told of from its git ref, the DVC cache and that.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from flows import workspace
from flows.page.facts import About, Facts, gather
from flows.page.files import Files, InTree, Kept
from flows.page.render import as_html, as_markdown
from flows.releases import releases
from flows.releases.refs import is_run
from flows.request import Report, Run
from rlhf.errors import PreflowError
from tasks import sums
from tasks.redact import redacted
from tasks.tracking.runs import write_json_atomically

PAGE, TOLD = "report.html", "run.json"
_OWN = ("label", "command", "profile", "before")


def finish(this: Run) -> str:
    """Write the page of a run that has just ended; returns the same in short, as Markdown."""
    about = About(
        report=this.report,
        label=this.resolved.label,
        command=redacted(this.wish.command),
        profile=this.wish.profile,
        before=_before(this.owner, this.report.run, this.resolved.label),
        reports=this.place.reports,
    )
    about.reports.mkdir(parents=True, exist_ok=True)
    told = {"report": asdict(this.report)} | {name: getattr(about, name) for name in _OWN}
    write_json_atomically(about.reports / TOLD, told)
    facts = gather(InTree(this.tree), this.tree, about)
    _write(facts)
    return as_markdown(facts)


def find(root: Path, text: str) -> tuple[str, Path, bool]:
    """The page of a run: its name, where the page is, and whether it had to be made now.

    `text` is a run, a model (`policy`, `policy/3`, `policy@champion`) or a ref of ours; "" is the last run here.

    Raises:
        PreflowError: no such run; DependencyDown: it is not here and the git remote did not answer.
    """
    found = releases.find(root, text or _last(root))
    if not found.run:
        raise PreflowError(f"{found.ref} is no run of preflow, so it has no report")
    page = root / "reports" / found.run / PAGE
    if page.is_file():
        return found.run, page, False
    return found.run, rebuild(root, found), True


def rebuild(root: Path, found: releases.Release) -> Path:
    """Make the page of a run from what is kept of it."""
    reports = root / "reports" / found.run
    told = _told(reports / TOLD)
    label = told.get("label") or _label(root, found.commit)
    about = About(
        report=_report(told["report"]) if told else _from_ref(root, found),
        label=label,
        command=told.get("command", ""),
        profile=told.get("profile", found.profile),
        before=told.get("before") or _before(root, found.run, label),
        reports=reports,
    )
    reports.mkdir(parents=True, exist_ok=True)
    return _write(gather(Kept(root, found.commit, found.digests), root, about))


def _write(facts: Facts) -> Path:
    """The page, and beside it the validation pages that it links to."""
    for stage, folder in facts.validations.items():
        _bring(facts.files, facts, stage, folder)
    path = facts.about.reports / PAGE
    fresh = path.with_suffix(".tmp")
    fresh.write_text(as_html(facts), encoding="utf-8")
    fresh.replace(path)
    folder = facts.about.reports
    sums.seal(folder, [file for file in folder.rglob("*") if file.is_file() and file.name != sums.SUMS])
    return path


def _bring(files: Files, facts: Facts, stage: str, folder: Path) -> None:
    """The page that the stage left with its output, where this run has not written it here itself."""
    report = next((out for out in facts.graph.stages[stage].outs if Path(out).name == "report"), "")
    if stage not in facts.verdicts or (folder / PAGE).is_file():
        return
    if (page := files.read(f"{report}/{PAGE}")) is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PAGE).write_bytes(page)


def _from_ref(root: Path, found: releases.Release) -> Report:
    """All that git tells of a run which nobody here has seen."""
    made = Report(run=found.run, ref=found.ref, commit=found.commit)
    version = next(
        (one for name in releases.names(root) for one in releases.versions(root, name) if one.run == found.run), None
    )
    if version is not None:
        reason = f"promoted {version.name} v{version.version}"
        made.promotion = {"promoted": True, "name": version.name, "version": version.version, "reason": reason}
    return made


def _report(told: Mapping[str, Any]) -> Report:
    """As it was kept, by whatever version of the flow."""
    known = {field.name for field in fields(Report)}
    return Report(**{name: value for name, value in told.items() if name in known})


def _told(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found if "report" in found else {}
    except (OSError, ValueError):
        return {}


def _last(root: Path) -> str:
    """The newest run that has ended, as it left TOLD; where nothing of reports/ is kept, the newest."""
    names = [name for name, _ in _runs(root)]
    if not names:
        raise PreflowError("no run is kept in this clone yet; `preflow run` makes one")
    return next((name for name in names if (root / "reports" / name / TOLD).is_file()), names[0])


def _before(root: Path, run: str, label: str) -> str:
    """The newest run of the same label that is older."""
    return next((name for name, other in _runs(root) if other == label and name < run), "")


def _label(root: Path, commit: str) -> str:
    subject = workspace.git(root, "log", "-1", "--format=%s", commit).strip()
    return subject.partition("[")[2].removesuffix("]")


def _runs(root: Path) -> list[tuple[str, str]]:
    """Runs that this clone has, newest first, each with its label."""
    form = "--format=%(refname:lstrip=3) %(contents:subject)"
    lines = workspace.git(root, "for-each-ref", "--sort=-refname", form, "refs/preflow/runs").splitlines()
    listed = [(line.split(" ", 1)[0], line.partition("[")[2].removesuffix("]")) for line in lines]
    return [(name, label) for name, label in listed if is_run(name)]
