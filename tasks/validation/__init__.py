"""The data gate: facts about rows as columns, suites over them, and a verdict that accounts for every row.

A row is looked at by itself (`facts`, `texts`, `personal`, `arithmetic`), against the protected splits (`context`,
`overlap`) and among the others of its kind (`table`, `labels`, `words`); `suites` asserts, `verdict` sorts, `page`
shows.

`check` judges rows of one kind and moves what breaks a rule into quarantine; `check_preferences` does so for pairs that
are born inside the pipeline; `write_report` keeps the verdict, the quarantine and a page to read. Great Expectations is
imported when a check is made, which costs about three seconds once.
"""

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.errors import DataRefused
from rlhf.records import Row, write_json, write_rows
from tasks.config.validate import Validate
from tasks.validation.context import Context
from tasks.validation.stored import Stored
from tasks.validation.verdict import Finding, Verdict, judged, summary

__all__ = ["Context", "Finding", "Stored", "Verdict", "check", "check_preferences", "refuse_if_stopped", "write_report"]


def check(
    kind: str,
    rows: Iterable[Row],
    config: Validate,
    context: Context,
    *,
    expectations: Path,
    rejects: Sequence[Row] = (),
    reference: Mapping[str, Any] | None = None,
) -> Verdict:
    """Judge canonical rows of one kind by the suite `<expectations>/<kind>.yaml`.

    Args:
        rows: gone through some times; `Stored` ones are never all in memory.
        context: groups, questions and words of the protected splits, of all kinds together.
        rejects: rows of this kind that could not be read at all (quarantine.jsonl of `prepare`).
        reference: the profile of this kind that drift is measured from; None for none.
    """
    from tasks.validation.suites import assert_rules, load_suite
    from tasks.validation.table import tabulate

    rules = load_suite(expectations / f"{kind}.yaml", config)
    if kind not in config.required and not rejects and next(iter(rows), None) is None:
        return Verdict.absent(kind)
    table = tabulate(kind, rows, rejects, context, reference or {})
    return judged(rows, rejects, assert_rules(rules, table.facts), table, config)


def check_preferences(
    rows: Sequence[Row],
    report: Path,
    config: Validate,
    *,
    expectations: Path,
    protected: Iterable[Row] = (),
    stage: str = "annotate",
) -> list[Row]:
    """The gate for pairs born inside the pipeline: writes the report and returns the clean pairs, in their order.

    `protected` are rows of the splits eval and val, of any kind, whose questions the pairs may not give away.
    Raises DataRefused where a rule says stop; the report is then in the reports folder of the stage `stage`.
    """
    verdict = check("preferences", rows, config, Context.of([*protected, *rows]), expectations=expectations)
    kept = write_report({"preferences": verdict}, report, stage)
    refuse_if_stopped([verdict], kept)
    return [row for row, clean in zip(rows, verdict.kept) if clean]


def write_report(verdicts: Mapping[str, Verdict], report: Path, stage: str) -> Path:
    """Write verdict.json, quarantine.jsonl, profile.json and report.html into `report`, an output of the stage, and
    into a folder that outlives a refusal, when outputs go; returns the latter.

    That is validation/ (of other stages than `validate`: validation/<stage>/) in the folder of the run, which
    $PREFLOW_REPORTS names, or in reports/by_hand.
    """
    from tasks.validation.page import page

    kept = Path(os.environ.get("PREFLOW_REPORTS") or "reports/by_hand") / "validation"
    if stage != "validate":
        kept /= stage
    write_json(kept / "verdict.json", summary(verdicts))
    findings = [finding for verdict in verdicts.values() for finding in verdict.quarantined + verdict.stopped]
    write_rows(kept / "quarantine.jsonl", (finding.as_row() for finding in findings))
    write_json(kept / "profile.json", {kind: verdict.profile for kind, verdict in verdicts.items() if verdict.total})
    (kept / "report.html").write_text(page(verdicts), encoding="utf-8", newline="\n")
    report.mkdir(parents=True, exist_ok=True)
    for name in ("verdict.json", "quarantine.jsonl", "profile.json", "report.html"):
        shutil.copyfile(kept / name, report / name)
    return kept


def refuse_if_stopped(verdicts: Iterable[Verdict], kept: Path) -> None:
    """Raise DataRefused with file, line, rule and reason of what stopped the run; the last line is where to read on."""
    stopped = [finding for verdict in verdicts for finding in verdict.stopped]
    if not stopped:
        return
    shown = [f"  {finding.place}: {finding.rule}: {finding.reason}" for finding in stopped[:10]]
    more = [f"  and {len(stopped) - 10} more"] if len(stopped) > 10 else []
    lines = [f"the data was refused, nothing was trained on it ({len(stopped)} to mend):", *shown, *more]
    raise DataRefused("\n".join([*lines, f"verdict, quarantine and page: {kept.resolve() / 'report.html'}"]))
