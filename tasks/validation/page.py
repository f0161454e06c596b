"""The verdict as one HTML file that needs nothing else: no script, no font, no picture from elsewhere."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tasks.validation.figures import charts, tables
from tasks.validation.style import CSS
from tasks.validation.verdict import Finding, RuleResult, Verdict

LEAD = (
    "What came in, what was set aside and why. Every row is named by file and line of data/01_raw/; "
    "quarantine.jsonl, beside this page, has all of them."
)


def page(verdicts: Mapping[str, Verdict], lead: str = LEAD) -> str:
    """The whole page; the same verdicts give the same bytes. `lead` is a text, what the page is about."""
    stopped = [finding for verdict in verdicts.values() for finding in verdict.stopped]
    rows = sum(verdict.total for verdict in verdicts.values())
    aside = sum(verdict.set_aside for verdict in verdicts.values())
    if stopped:
        colour, news = "stop", f"<b>Refused.</b> {_count(len(stopped), 'finding')} to mend before training."
    else:
        colour, news = "good", f"<b>Passed.</b> {rows - aside:,} of {rows:,} rows go on, {aside:,} set aside."
    body = [
        "<header><h1>Data validation</h1>",
        f"<p>{escape(lead)}</p></header>",
        f'<div class="banner {colour}">{news}</div>',
        _stops(stopped),
        _overview(verdicts),
        *(_kind(verdict) for verdict in verdicts.values()),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Data validation</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _stops(stopped: Sequence[Finding]) -> str:
    if not stopped:
        return ""
    more = f'<p class="dim">and {len(stopped) - 20} more in quarantine.jsonl</p>' if len(stopped) > 20 else ""
    return f"<section><h2>What stopped it</h2>{_findings(stopped[:20])}{more}</section>"


def _overview(verdicts: Mapping[str, Verdict]) -> str:
    lines = []
    for kind, verdict in verdicts.items():
        splits = [verdict.splits.get(name, 0) for name in ("train", "val", "eval")]
        cells = [verdict.total, verdict.clean, verdict.set_aside, *splits]
        numbers = "".join(f"<td class=n>{value:,}</td>" if value else "<td class='n dim'>–</td>" for value in cells)
        lines.append(f'<tr><td><a href="#{kind}">{kind}</a></td><td>{_badge(verdict)}</td>{numbers}</tr>')
    names = ("rows", "clean", "set aside", "train", "val", "eval")
    head = "<th>kind</th><th></th>" + "".join(f"<th class=n>{name}</th>" for name in names)
    table = f"<table><tr>{head}</tr>{''.join(lines)}</table>"
    return f'<section><h2>What came in</h2><div class="scroll">{table}</div></section>'


def _badge(verdict: Verdict) -> str:
    if verdict.stopped:
        colour, text = "stop", "stop"
    elif not verdict.total:
        colour, text = "none", "no rows"
    else:
        colour, text = ("quarantine", "set aside") if verdict.set_aside else ("good", "clean")
    return f'<span class="badge {colour}">{text}</span>'


def _kind(verdict: Verdict) -> str:
    if not verdict.total and not verdict.stopped:
        return ""
    broken_first = sorted(verdict.rules, key=lambda result: result.passed)
    lines = "".join(_rule(result) for result in broken_first)
    head = "<tr><th>rule</th><th>severity</th><th></th><th class=n>rows</th></tr>"
    return (
        f'<section id="{verdict.kind}"><h2>{verdict.kind}</h2>'
        f"{charts(verdict)}{tables(verdict)}"
        f'<h3>Rules</h3><div class="scroll"><table class="rules">{head}{lines}</table></div></section>'
    )


def _rule(result: RuleResult) -> str:
    mark = '<span class="ok">✓</span>' if result.passed else f'<span class="{result.severity}">✗</span>'
    observed = f'<div class="dim">found {escape(_shown(result.observed))}</div>' if result.observed is not None else ""
    examples = ""
    if result.examples:
        rest = result.broken - len(result.examples)
        more = f'<p class="dim">and {rest:,} more</p>' if rest else ""
        examples = f"<details open><summary>examples</summary>{_findings(result.examples)}{more}</details>"
    says = f'<b>{escape(result.rule)}</b><div class="says">{escape(result.says)}</div>{observed}{examples}'
    broken = f"{result.broken:,}" if result.broken else "<span class=dim>–</span>"
    severity = f'<span class="badge {result.severity if not result.passed else "none"}">{result.severity}</span>'
    return f"<tr><td>{says}</td><td>{severity}</td><td>{mark}</td><td class=n>{broken}</td></tr>"


def _findings(findings: Sequence[Finding]) -> str:
    items = []
    for finding in findings:
        text = f"<blockquote>{escape(finding.excerpt)}</blockquote>" if finding.excerpt else ""
        said = f"<b>{escape(finding.rule)}</b>: {escape(finding.reason)}"
        items.append(f"<li><code>{escape(finding.place)}</code> {said}{text}</li>")
    return f'<ul class="findings">{"".join(items)}</ul>'


def _shown(value: Any) -> str:
    if isinstance(value, dict) and "values" in value:
        pairs = zip(value["quantiles"], value["values"])
        return ", ".join(f"{quantile:.0%} up to {length}" for quantile, length in pairs)
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
