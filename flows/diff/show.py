"""What `preflow diff` prints: causes first, then stages, data, and what it came to."""

import json
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf.comparison import JUDGED_BY
from tasks.outcome import in_story_order

_STATES = {"changed": "yellow", "same bytes": "green", "not run": "dim", "added": "green", "removed": "red"}
MOST_METRICS = 4
"""Lines a stage in the terminal; --json has all."""


def show(found: Mapping[str, Any], console: Console) -> None:
    """The whole answer; fits 80 columns, long names are folded."""
    out = _Printer(console)
    out.line(f"{found['a']['label']} → {found['b']['label']}", style="bold")
    if not found["causes"]:
        unmade = [stage["stage"] for stage in found["stages"] if stage["state"] == "not run"]
        out.line(f"no difference; not run on both sides: {', '.join(unmade)}" if unmade else _SAME)
        return
    out.line("\nwhat differs", style="bold")
    for cause in found["causes"]:
        _cause(out, cause)
    _stages(out, found["stages"])
    _files(out, found["files"])
    _policies(out, found["policies"])
    _metrics(out, found["metrics"])
    if found["gate"]:
        out.line("\ngate", style="bold")
        for side in ("a", "b"):
            gate = found["gate"][side]
            out.line(f"  {found[side]['label']}: {'promote' if gate['promote'] else 'refuse'} {gate['candidate']}")


_SAME = "no difference: the same code, parameters, data and environment, and the same bytes of every output"


class _Printer:
    """Text as it stands, never markup: names may hold brackets."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.plain = not console.is_terminal

    def line(self, text: str, style: str = "") -> None:
        self.console.print(Text(text, style="" if self.plain else style), soft_wrap=True)

    def table(self, title: str, head: list[str], rows: list[list[Any]], right: int = 99) -> None:
        """Columns from number `right` on are numbers."""
        box = None if self.plain else SIMPLE_HEAD
        table = Table(title=Text(f"\n{title}", style="bold"), title_justify="left", box=box, pad_edge=False)
        for number, name in enumerate(head):
            table.add_column(name, justify="right" if number >= right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
        self.console.print(table)


def _cause(out: _Printer, cause: Mapping[str, Any]) -> None:
    readers = cause["read_by"]
    several = f"{', '.join(readers[:3])} and {len(readers) - 3} more" if len(readers) > 4 else ", ".join(readers)
    tail = f"   (read by {several})" if cause["kind"] not in ("stage", "command", "machine") else ""
    out.line(f"  {cause['kind']:<11} {_said(cause)}{tail}")
    for line in cause.get("lines") or ():
        out.line(f"      {line}", style="green" if line[0] == "+" else "red")
    for file in cause.get("files") or ():
        out.line(f"      {file['file']} {file['change']}")


def _said(cause: Mapping[str, Any]) -> str:
    kind, what = cause["kind"], cause["what"]
    if kind in ("param", "environment"):
        return f"{what}: {_value(cause['a'])} → {_value(cause['b'])}"
    if kind == "code":
        word = "" if cause["change"] == "changed" else f" {cause['change']}"
        return f"{what}{word}  +{cause['added']} −{cause['removed']}"
    if kind == "command":
        return f"of {', '.join(cause['read_by'])} in dvc.yaml:\n      -{cause['a']}\n      +{cause['b']}"
    if kind == "data":
        return what if cause["files"] else f"{what}  md5 {cause['a'] or 'unknown'} → {cause['b'] or 'unknown'}"
    return f"{what}: {cause['change']}"


def _stages(out: _Printer, stages: list[dict[str, Any]]) -> None:
    rows = []
    for stage in stages:
        if stage["because"] or stage["state"] == "changed":
            style = "" if out.plain else _STATES.get(stage["state"], "")
            rows.append([stage["stage"], Text(stage["state"], style=style), _because(stage["because"])])
    out.table("stage by stage", ["stage", "result", "because of"], rows)
    same = [stage["stage"] for stage in stages if stage["state"] == "same"]
    if same:
        out.line(f"the same: {', '.join(same)}")
    missing = {side for stage in stages if stage["because"] for side in stage.get("not_run") or ()}
    for side in sorted(missing):
        out.line(f"not run in {side}: what it would come to is not known")


def _because(reasons: list[dict[str, Any]]) -> str:
    upstream = [reason["what"] for reason in reasons if reason["kind"] == "upstream"]
    own = [_short(reason) for reason in reasons if reason["kind"] != "upstream"]
    few = own if len(own) <= 3 else [*own[:2], f"{len(own) - 2} more"]
    return "; ".join([*few, *([f"upstream: {', '.join(upstream)}"] if upstream else [])])


def _short(reason: Mapping[str, Any]) -> str:
    named = reason["kind"] in ("code", "param", "data", "environment", "command")
    return f"{reason['kind']} {reason['what']}" if named else str(reason["change"])


def _files(out: _Printer, files: list[dict[str, Any]]) -> None:
    rows = []
    for file in files:
        counts = file["rows"]
        cells = [_count(counts, key) for key in ("added", "removed", "changed", "same")]
        word = f"not in the cache ({file['lacks']})" if "lacks" in file else file["change"]
        rows.append([file["file"], word, *cells])
    if rows:
        out.table("rows of the data, by content", ["file", "", "added", "removed", "changed", "same"], rows, right=2)


def _policies(out: _Printer, found: Mapping[str, Any] | None) -> None:
    if not found:
        return
    if "lacks" in found:
        out.line(f"\nscores of {found['lacks']} are not in the DVC cache; `preflow reproduce` brings them")
        return
    metric = JUDGED_BY.get(found["judge"], "held_out_reward")
    name = metric.replace("_reward", "")
    by_policy: dict[str, dict[str, Any]] = {}
    for row in found["rows"]:
        by_policy.setdefault(row["policy"], {})[row["metric"]] = row
    rows = []
    for policy in in_story_order(by_policy):
        judged, kl = by_policy[policy].get(metric), by_policy[policy].get("kl")
        if judged is None:
            continue
        change = _interval(judged["change"]) + (" paired" if judged["paired"] else "")
        kls = [_number(kl["a"]), _number(kl["b"])] if kl else ["–", "–"]
        if judged["a"] != judged["b"] or (kl and kl["a"] != kl["b"]):
            rows.append([policy, _number(judged["a"]), _number(judged["b"]), change, *kls])
    alike = "the same prompts" if found["same_prompts"] else "other prompts, so no difference is paired"
    if rows:
        title = f"policies, judge: {found['judge']}, {alike}; 95% intervals"
        out.table(title, ["policy", f"{name} A", "B", "change", "KL A", "B"], rows, right=1)


def _metrics(out: _Printer, found: Mapping[str, list[dict[str, Any]]]) -> None:
    rows = []
    for stage, numbers in found.items():
        order = sorted(numbers, key=lambda one: one["change"] is None)  # those with an interval first
        for one in order[:MOST_METRICS]:
            rows.append([stage, one["metric"], _number(one["a"]), _number(one["b"]), _change(one)])
        if len(order) > MOST_METRICS:
            rows.append([stage, f"… {len(order) - MOST_METRICS} more with --json", "", "", ""])
    if rows:
        out.table("metrics of stages", ["stage", "metric", "A", "B", "change"], rows, right=2)


def _change(one: Mapping[str, Any]) -> str:
    if one["change"] or not one["same_scorer"]:
        return _interval(one["change"])
    plain = not isinstance(one["a"], Mapping) and not isinstance(one["b"], Mapping)
    return f"{one['b'] - one['a']:+.4g}" if plain else ""


def _count(counts: Mapping[str, int] | None, key: str) -> str:
    return "?" if counts is None else str(counts[key])


def _interval(value: Mapping[str, float] | None) -> str:
    if value is None:
        return "other scorer"
    mean, low, high = (round(value[key], 3) + 0.0 for key in ("mean", "ci_low", "ci_high"))  # no -0.000
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def _number(value: Any) -> str:
    mean = value["mean"] if isinstance(value, Mapping) else value
    return f"{mean:.4g}"


def _value(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
