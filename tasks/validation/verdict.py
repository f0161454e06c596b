"""From broken rules to a verdict: which rows are clean, which are set aside, what stops the run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rlhf.records import SPLITS, Row
from tasks.config.validate import Validate
from tasks.redact import redacted
from tasks.validation.suites import Outcome

MAX_EXAMPLES = 5  # a rule, in the verdict and on the page; quarantine.jsonl has them all
MAX_EXCERPT = 300  # characters of a row that are shown


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule broken by one row; or, without a line, by a kind of data as a whole."""

    kind: str
    rule: str
    severity: str  # stop, quarantine, note
    reason: str
    file: str
    line: int | None = None
    source: str | None = None
    id: str | None = None
    split: str | None = None
    excerpt: str | None = None

    @property
    def place(self) -> str:
        """`file:line`."""
        return self.file if self.line is None else f"{self.file}:{self.line}"

    def as_row(self) -> dict[str, Any]:
        """For quarantine.jsonl."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RuleResult:
    """One rule of the suite and what came of it."""

    rule: str
    says: str
    severity: str
    expectation: str
    kwargs: dict[str, Any]
    passed: bool
    observed: Any
    broken: int
    examples: list[Finding]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says about one kind of data. `stopped` empty means: go on with `clean`."""

    kind: str
    total: int
    clean: list[Row]
    quarantined: list[Finding]
    stopped: list[Finding]
    rules: list[RuleResult]
    lengths: dict[str, list[float]] = field(default_factory=dict)  # column → one number a row, for the page

    @classmethod
    def absent(cls, kind: str) -> "Verdict":
        """A kind that this run has no rows of and does not need."""
        return cls(kind, 0, [], [], [], [])

    @property
    def set_aside(self) -> int:
        """Rows (not findings: a row may break several rules) that are not clean."""
        return self.total - len(self.clean)


def judged(
    kind: str, rows: Sequence[Row], rejects: Sequence[Row], outcomes: Sequence[Outcome], table: Any, config: Validate
) -> Verdict:
    """Sort rows and findings by the severity of the rules they break, then look at what is left."""
    places = [*rows, *rejects]
    results = [_result(kind, outcome, places) for outcome in outcomes]
    by_severity: dict[str, list[Finding]] = {"stop": [], "quarantine": [], "note": []}
    dirty: set[int] = set()
    for outcome, (result, findings) in zip(outcomes, results, strict=True):
        by_severity[result.severity] += findings
        if result.severity != "note":
            dirty.update(index for index, _ in outcome.broken)
    clean = [row for index, row in enumerate(rows) if index not in dirty]
    stopped = by_severity["stop"] + _what_is_left(kind, clean, len(places), by_severity["quarantine"], config)
    shown = (
        "prompt_chars",
        *(("chosen_chars", "rejected_chars") if kind == "preferences" else ("completion_chars", "chars")),
    )
    lengths = {name: table[name].dropna().tolist() for name in shown if name in table.columns}
    return Verdict(
        kind=kind,
        total=len(places),
        clean=clean,
        quarantined=_in_order(by_severity["quarantine"]),
        stopped=_in_order(stopped),
        rules=[result for result, _ in results],
        lengths=lengths,
    )


def summary(verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
    """The canonical verdict: no time, no path outside the data, no random id."""
    stopped = [finding for verdict in verdicts.values() for finding in verdict.stopped]
    return {
        "passed": not stopped,
        "stopped": len(stopped),
        "kinds": {kind: _kind_summary(verdict) for kind, verdict in verdicts.items()},
    }


def _kind_summary(verdict: Verdict) -> dict[str, Any]:
    return {
        "rows": verdict.total,
        "clean": len(verdict.clean),
        "set_aside": verdict.set_aside,
        "splits": dict(Counter(row["split"] for row in verdict.clean)),
        "stopped": [finding.as_row() for finding in verdict.stopped[:MAX_EXAMPLES]],
        "rules": [
            {
                "rule": result.rule,
                "says": result.says,
                "severity": result.severity,
                "expectation": result.expectation,
                "kwargs": result.kwargs,
                "passed": result.passed,
                "observed": result.observed,
                "broken": result.broken,
                "examples": [f"{finding.place}: {finding.reason}" for finding in result.examples],
            }
            for result in verdict.rules
        ],
    }


def _result(kind: str, outcome: Outcome, places: Sequence[Row]) -> tuple[RuleResult, list[Finding]]:
    rule, severity = outcome.rule, outcome.rule.severity
    findings = [_about_row(kind, outcome, severity, places[index], value) for index, value in outcome.broken]
    if not outcome.passed and not outcome.broken:
        limits = ", ".join(f"{key} {value}" for key, value in sorted(outcome.kwargs.items()) if key != "column")
        about = str(rule.kwargs.get("column", "rows"))
        reason = f"{about}: found {outcome.observed}, expected {limits}"
        findings = [Finding(kind, rule.rule, severity, reason, f"{kind}/")]
    result = RuleResult(
        rule=rule.rule,
        says=rule.says,
        severity=severity,
        expectation=rule.expectation,
        kwargs=outcome.kwargs,
        passed=outcome.passed,
        observed=outcome.observed,
        broken=len(findings),
        examples=findings[:MAX_EXAMPLES],
    )
    return result, findings


def _about_row(kind: str, outcome: Outcome, severity: str, row: Row, value: Any) -> Finding:
    return Finding(
        kind=kind,
        rule=outcome.rule.rule,
        severity=severity,
        reason=redacted(outcome.rule.reason.format(value=value, **outcome.kwargs)),
        file=str(row.get("file", f"{kind}/")),
        line=row.get("line"),
        source=row.get("source"),
        id=row.get("id"),
        split=row.get("split"),
        excerpt=_excerpt(row),
    )


def _excerpt(row: Row) -> str:
    """The text of a row, for people to recognise it by; secrets masked before it is cut."""
    if "excerpt" in row:
        return redacted(str(row["excerpt"]))[:MAX_EXCERPT]
    texts = [str(message.get("content")) for message in row.get("messages", []) if isinstance(message, dict)]
    texts += [str(row[key]) for key in ("text", "chosen", "rejected") if key in row]
    return redacted(" ⏎ ".join(texts))[:MAX_EXCERPT]


def _what_is_left(
    kind: str, clean: Sequence[Row], total: int, quarantined: Sequence[Finding], config: Validate
) -> list[Finding]:
    """Too much set aside is a sign that the data is not what it should be; so is nothing left to train on."""
    found = []
    aside = len({(item.file, item.line) for item in quarantined})
    if total and aside > config.max_quarantine_share * total:
        counts = Counter(item.rule for item in quarantined)
        rules = ", ".join(f"{rule} {count}" for rule, count in counts.most_common(5))
        reason = (
            f"{aside} of {total} rows set aside ({aside / total:.1%}), "
            f"at most {config.max_quarantine_share:.1%} (validate.max_quarantine_share): {rules}"
        )
        found.append(Finding(kind, "quarantine_share", "stop", reason, f"{kind}/"))
    wanted = "eval" if kind == "eval" else "train"
    if total and kind in config.required and not any(row.get("split") == wanted for row in clean):
        splits = dict(Counter(str(row.get("split")) for row in clean))
        reason = f"no clean row in the split {wanted}, found {splits or 'none at all'}"
        found.append(Finding(kind, "nothing_left", "stop", reason, f"{kind}/"))
    return found


def _in_order(findings: list[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda item: (item.file, item.line or 0, item.rule))


def splits_of(kind: str) -> tuple[str, ...]:
    """Splits that a kind of data can have rows in."""
    return ("eval",) if kind == "eval" else SPLITS
