"""From broken rules to a verdict: which rows are clean, which are set aside, what stops the run."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rlhf.records import SPLITS, Row
from tasks.config.validate import Validate
from tasks.redact import redacted
from tasks.validation.personal import masked
from tasks.validation.profile import LENGTHS
from tasks.validation.stored import picked
from tasks.validation.suites import Outcome

if TYPE_CHECKING:
    from tasks.validation.table import Table  # pandas

MAX_EXAMPLES = 5  # a rule, in the verdict and on the page; quarantine.jsonl has them all
MAX_EXCERPT = 300  # characters of a row that are shown
MAX_READ = 3000  # characters that are looked through for what must be masked before the rest is cut off


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
    """What the gate says about one kind of data. `stopped` empty means: go on with the clean rows."""

    kind: str
    total: int
    kept: list[bool]  # of each row that could be read, in order: is it clean
    splits: dict[str, int]  # of the clean rows
    quarantined: list[Finding]
    stopped: list[Finding]
    rules: list[RuleResult]
    lengths: dict[str, list[float]] = field(default_factory=dict)  # column → one number a row, for the page
    figures: dict[str, Any] = field(default_factory=dict)  # annotators, words that tell
    profile: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def absent(cls, kind: str) -> "Verdict":
        """A kind that this run has no rows of and does not need."""
        return cls(kind, 0, [], {}, [], [], [])

    @property
    def clean(self) -> int:
        """Number of rows that go on."""
        return sum(self.kept)

    @property
    def set_aside(self) -> int:
        """Rows (not findings: a row may break several rules) that are not clean."""
        return self.total - self.clean


def judged(
    rows: Iterable[Row], rejects: Sequence[Row], outcomes: Sequence[Outcome], table: "Table", config: Validate
) -> Verdict:
    """Sort rows and findings by the severity of the rules they break, then look at what is left. Of the rows, those
    that a finding is about are read again."""
    kind, readable = table.kind, len(table.sources)
    shown = {index for outcome in outcomes for index, _ in _to_be_told(outcome)}
    places = {index: _card(row) for index, row in picked(rows, {index for index in shown if index < readable})}
    places |= {index: _card(rejects[index - readable]) for index in shown if index >= readable}
    results = [_result(kind, outcome, places) for outcome in outcomes]
    by_severity: dict[str, list[Finding]] = {"stop": [], "quarantine": [], "note": []}
    dirty: set[int] = set()
    for outcome, (result, findings) in zip(outcomes, results, strict=True):
        by_severity[result.severity] += findings
        if result.severity != "note":
            dirty.update(index for index, _ in outcome.broken)
    kept = [index not in dirty for index in range(readable)]
    splits = dict(Counter(split for split, clean in zip(table.splits, kept) if clean))
    total = readable + len(rejects)
    aside = {index for outcome in outcomes if outcome.rule.severity == "quarantine" for index, _ in outcome.broken}
    left = _what_is_left(kind, splits, total, len(aside), by_severity["quarantine"], config)
    return Verdict(
        kind=kind,
        total=total,
        kept=kept,
        splits=splits,
        quarantined=_in_order(by_severity["quarantine"]),
        stopped=_in_order(by_severity["stop"] + left),
        rules=[result for result, _ in results],
        lengths=_lengths(table),
        figures=table.figures,
        profile=table.profile,
    )


def _lengths(table: "Table") -> dict[str, list[float]]:
    hidden = ("completion_chars",) if table.kind == "preferences" else ()
    return {name: table.facts[name].dropna().tolist() for name in LENGTHS if name in table.facts and name not in hidden}


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
        "clean": verdict.clean,
        "set_aside": verdict.set_aside,
        "splits": verdict.splits,
        "figures": verdict.figures,
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


def _to_be_told(outcome: Outcome) -> list[tuple[int, Any]]:
    """Every row that is set aside is told of; of what is only noted some are enough."""
    return outcome.broken[:MAX_EXAMPLES] if outcome.rule.severity == "note" else outcome.broken


def _result(kind: str, outcome: Outcome, places: Mapping[int, Mapping[str, Any]]) -> tuple[RuleResult, list[Finding]]:
    rule, severity = outcome.rule, outcome.rule.severity
    told = _to_be_told(outcome)
    findings = [_about_row(kind, outcome, severity, places[index], value) for index, value in told]
    if not outcome.passed and not outcome.broken:
        findings = [Finding(kind, rule.rule, severity, _about_table(outcome), f"{kind}/")]
    result = RuleResult(
        rule=rule.rule,
        says=rule.says,
        severity=severity,
        expectation=rule.expectation,
        kwargs=outcome.kwargs,
        passed=outcome.passed,
        observed=outcome.observed,
        broken=max(len(outcome.broken), len(findings)),
        examples=findings[:MAX_EXAMPLES],
    )
    return result, findings


def _about_table(outcome: Outcome) -> str:
    """What was found, what was expected, and what the rule is for."""
    limits = {key: value for key, value in outcome.kwargs.items() if key != "column"}
    found: Any = outcome.observed
    if ranges := limits.pop("quantile_ranges", None):
        found = _each(found["quantiles"], found["values"])
        limits["quantiles"] = _each(ranges["quantiles"], [f"{low} to {high}" for low, high in ranges["value_ranges"]])
    words = {"min_value": "at least", "max_value": "at most", "quantiles": "as"}
    expected = " and ".join(f"{words.get(key, key)} {limits[key]}" for key in sorted(limits, reverse=True))
    about = outcome.rule.kwargs.get("column", "rows")
    return f"{about}: found {found}, expected {expected or outcome.rule.expectation}: {outcome.rule.says}"


def _each(quantiles: Sequence[float], values: Sequence[Any]) -> str:
    return ", ".join(f"{quantile:.0%} below {value}" for quantile, value in zip(quantiles, values, strict=True))


def _about_row(kind: str, outcome: Outcome, severity: str, card: Mapping[str, Any], value: Any) -> Finding:
    return Finding(
        kind=kind,
        rule=outcome.rule.rule,
        severity=severity,
        reason=masked(redacted(outcome.rule.reason.format(**{**outcome.kwargs, "value": value}))),
        **{**card, "file": str(card.get("file", f"{kind}/"))},
    )


def _card(row: Row) -> dict[str, Any]:
    """What a finding says of a row; the rest of it, which may be long, is let go."""
    known = {name: row[name] for name in ("file", "line", "source", "id", "split") if name in row}
    return known | {"excerpt": _excerpt(row)}


def _excerpt(row: Row) -> str:
    """The text of a row, for people to recognise it by; secrets masked before it is cut."""
    if "excerpt" in row:
        return masked(redacted(str(row["excerpt"])))[:MAX_EXCERPT]
    texts = [str(message.get("content")) for message in row.get("messages", []) if isinstance(message, dict)]
    texts += [str(row[key]) for key in ("text", "completion", "chosen", "rejected") if key in row]
    return masked(redacted(" ⏎ ".join(texts)[:MAX_READ]))[:MAX_EXCERPT]


def _what_is_left(
    kind: str, splits: Mapping[str, int], total: int, aside: int, quarantined: Sequence[Finding], config: Validate
) -> list[Finding]:
    """Too much set aside is a sign that the data is not what it should be; so is nothing left to train on."""
    found = []
    if total and aside > config.max_quarantine_share * total:
        counts = Counter(item.rule for item in quarantined)
        rules = ", ".join(f"{rule} {count}" for rule, count in counts.most_common(5))
        reason = (
            f"{aside} of {total} rows set aside ({aside / total:.1%}), "
            f"at most {config.max_quarantine_share:.1%} (validate.max_quarantine_share): {rules}"
        )
        found.append(Finding(kind, "quarantine_share", "stop", reason, f"{kind}/"))
    wanted = "eval" if kind == "eval" else "train"
    if total and kind in config.required and not splits.get(wanted):
        reason = f"no clean row in the split {wanted}, found {dict(splits) or 'none at all'}"
        found.append(Finding(kind, "nothing_left", "stop", reason, f"{kind}/"))
    return found


def _in_order(findings: list[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda item: (item.file, item.line or 0, item.rule))


def splits_of(kind: str) -> tuple[str, ...]:
    """Splits that a kind of data can have rows in."""
    return ("eval",) if kind == "eval" else SPLITS
