"""Tables of a run, as rows of text: the same ones on the page and in its short form."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flows.page.facts import Facts, Numbers
from flows.report import BOUND, COLUMNS
from rlhf.comparison import JUDGED_BY
from tasks.lineage import Item
from tasks.outcome import in_story_order


@dataclass(frozen=True)
class Row:
    """Cells of a row, and a class of the page's style."""

    cells: Sequence[str]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table to be shown; the first column holds names."""

    head: Sequence[str]
    rows: Sequence[Row]
    note: str = ""
    words: Collection[int] = field(default=(0,))
    """Columns that hold words, which stand on the left; numbers stand on the right."""


def policies(facts: Facts) -> Table | None:
    """A policy a row, mean and half a 95% interval of each measure; the gate's candidate is marked."""
    scores = facts.scores
    if not scores:
        return None
    rows = scores["policies"]
    shown = [key for key in COLUMNS if any(row.get(key) for row in rows.values())]
    candidate = facts.gate["candidate"] if facts.gate else None
    about = scores["evaluation_set"]
    note = (
        f"{about['prompts']} held-out prompts × {about['samples_per_prompt']} answers, judge: {scores['judge']}; "
        "± is half a 95% interval over prompts" + ("; ★ is what the gate looked at" if candidate else "")
    )
    return Table(
        ["policy", *(COLUMNS[key] for key in shown)],
        [
            Row(
                [name + " ★" * (name == candidate), *(mean(rows[name].get(key)) for key in shown)],
                "chosen" if name == candidate else "",
            )
            for name in in_story_order(rows)
        ],
        note,
    )


def differences(facts: Facts) -> Table | None:
    """Paired differences by what the judge goes by."""
    scores = facts.scores
    if not scores:
        return None
    metric = JUDGED_BY[scores["judge"]]
    rows = []
    for against in in_story_order(scores["differences"]):
        for name in in_story_order(scores["differences"][against]):
            gain = scores["differences"][against][name].get(metric)
            if gain:
                kind = "up" if gain["ci_low"] > 0 else "down" if gain["ci_high"] < 0 else ""
                rows.append(Row([f"{name} − {against}", signed(gain["mean"]), interval(gain, "+")], kind))
    note = "paired over prompts; green or red where the 95% interval leaves out zero"
    return Table(["pair", metric.replace("_", " "), "95% interval"], rows, note) if rows else None


def checks(facts: Facts) -> Table | None:
    """The gate's checks, each with what was found and what is allowed."""
    if not facts.gate:
        return None
    rows = [
        Row(
            [
                check["name"].replace("_", " "),
                value(check["value"]),
                f"{BOUND.get(check['name'], '=')} {value(check['limit'])}",
                "✓ passed" if check["passed"] else "✗ failed",
            ],
            "" if check["passed"] else "down",
        )
        for check in facts.gate["checks"]
    ]
    return Table(["check", "found", "allowed", "outcome"], rows, words=(0, 3))


def trust(report: Numbers) -> Table:
    """What a reward model's report comes to."""
    accuracy = report["accuracy"]
    rows = [("held-out accuracy", f"{accuracy['mean']:.3f} {interval(accuracy)}")]
    names = {
        "ceiling": "ceiling",
        "calibration_error": "calibration error",
        "length_correlation": "correlation, length",
        "gold_agreement": "agreement with gold",
        "gold_correlation": "correlation, gold",
        "padding_gap": "padding gap",
    }
    rows += [(says, value(report[key])) for key, says in names.items() if report.get(key) is not None]
    rows += [("held-out pairs", f"{report['pairs']:,}")]
    if "train_pairs" in report:
        rows.append(("pairs to train on", f"{report['train_pairs']:,}"))
    return Table(["measure", "found"], [Row(row) for row in rows])


def data(facts: Facts, stage: str) -> Table | None:
    """Rows of each kind: how many came, went on, and into which split."""
    kinds = facts.verdicts[stage]["kinds"]
    rows = []
    for kind, found in kinds.items():
        if found["rows"] or found["stopped"]:
            splits = [found["splits"].get(split, 0) for split in ("train", "val", "eval")]
            counts = [found["rows"], found["clean"], found["set_aside"], *splits]
            cells = [kind, *(f"{count:,}" if count else "–" for count in counts)]
            rows.append(Row(cells, "down" if found["stopped"] else ""))
    head = ["kind", "rows", "clean", "set aside", "train", "val", "eval"]
    return Table(head, rows) if rows else None


def broken_rules(facts: Facts, stage: str) -> Table | None:
    """Rules that some rows broke, the gravest first."""
    found = [
        (rule["severity"], kind, rule)
        for kind, verdict in facts.verdicts[stage]["kinds"].items()
        for rule in verdict["rules"]
        if rule["broken"]
    ]
    order = ("stop", "quarantine", "note")
    found.sort(key=lambda one: (order.index(one[0]), -one[2]["broken"]))
    rows = [
        Row([rule["rule"], kind, severity, f"{rule['broken']:,}", rule["says"]], "down" if severity == "stop" else "")
        for severity, kind, rule in found
    ]
    return Table(["rule", "kind", "severity", "rows", "what it says"], rows, words=(0, 1, 2, 4)) if rows else None


def lengths(facts: Facts, stage: str) -> Table | None:
    """Lengths of each kind of text, in characters."""
    rows = [
        Row([kind, name.removesuffix("_chars").replace("_", " "), *(f"{quantiles[at]:,}" for at in (1, 3, 5, 6))])
        for kind, profile in facts.profiles.get(stage, {}).items()
        for name, one in profile.get("lengths", {}).items()
        if len(quantiles := one["quantiles"]) == 7
    ]
    head = ["kind", "text", "5% up to", "half up to", "95% up to", "longest"]
    return Table(head, rows, "in characters", words=(0, 1)) if rows else None


def lineage(facts: Facts) -> Table | None:
    """Each policy that was compared, by digest, and what its stage read, by digest too."""
    rows = []
    for name, path in facts.policies.items():
        stage = facts.graph.producer(path)
        if stage is None or facts.results[stage]["state"] not in ("ran", "cached", "kept"):
            continue
        own = next((item for item in facts.tree.outs(stage) if item.path == path), None)
        if own:
            read = "; ".join(_named(item) for item in facts.tree.deps(stage))
            rows.append(Row([name, stage, short(own.md5), f"{own.size / 1e6:.1f} MB", read]))
    return Table(["policy", "stage", "md5", "size", "made from"], rows, words=(0, 1, 2, 4)) if rows else None


def mean(point: Numbers | None) -> str:
    """Mean and half an interval; the digits that the size of the number leaves room for."""
    if not point:
        return "–"
    digits = 1 if abs(point["mean"]) >= 10 else 2
    shown = round(point["mean"], digits) + 0.0  # never "-0.00"
    return f"{shown:.{digits}f} ±{(point['ci_high'] - point['ci_low']) / 2:.{digits}f}".replace("-", "−")


def interval(point: Numbers, sign: str = "") -> str:
    """The interval alone."""
    return f"[{point['ci_low']:{sign}.3f}, {point['ci_high']:{sign}.3f}]".replace("-", "−")


def signed(number: float) -> str:
    """A difference."""
    return f"{number:+.3f}".replace("-", "−")


def value(found: Any) -> str:
    """What a check found or allows."""
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, int | float):
        return f"{found:.3g}".replace("-", "−")
    if isinstance(found, Mapping):
        return " ".join(str(part)[:8] for part in found.values())
    return str(found)


def short(md5: str) -> str:
    """As much of a digest as tells it from others."""
    return md5[:10]


def _named(item: Item) -> str:
    return f"{item.path.removeprefix('data/')} {short(item.md5)}"
