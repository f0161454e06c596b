"""Figures about one kind of data, as they stand on the page: lengths, splits, label sources, words that tell."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tasks.validation.verdict import Verdict

_BINS = 24
_SHOWN = 12  # annotators and words


def charts(verdict: Verdict) -> str:
    """A histogram of each length."""
    charts = "".join(histogram(name, values) for name, values in verdict.lengths.items() if values)
    return f'<div class="charts">{charts}</div>' if charts else ""


def tables(verdict: Verdict) -> str:
    """Whatever else is known, each with a sentence that says how to read it."""
    figures = verdict.figures
    return "".join(
        [
            _leakage(figures.get("split_leakage")),
            _bias(verdict.profile.get("means", {})),
            _tokens(figures.get("tokens")),
            _annotators(figures.get("annotators", [])),
            _predicted(figures.get("predicted_by_others", [])),
            _tells(figures.get("tells", [])),
        ]
    )


def _leakage(found: Mapping[str, float] | None) -> str:
    if found is None:
        return ""
    return (
        f"<p>Split by question, as here, <b>{found['by_group']:.1%}</b> of the held-out rows ask what training rows "
        f"ask. Split row by row it would be <b>{found['by_row']:.1%}</b>: the same question would be on both sides.</p>"
    )


def _tokens(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    cells = [[name, *values] for name, values in found["quantiles"].items()]
    room = found["room"]
    too_long = (
        f"{found['too_long']:,} of {found['rows']:,} rows are longer than its {room:,} positions. " if room else ""
    )
    equal = f"{found['equal_pairs']:,} pairs are equal as it reads them." if found["equal_pairs"] is not None else ""
    head = ("tokens", "5%", "median", "95%", "longest")
    return f"<h3>As the model counts</h3><p>{too_long}{equal}</p>{_table(head, cells)}"


def _bias(means: Mapping[str, float]) -> str:
    lines = []
    if "length_bias" in means:
        share = 0.5 + means["length_bias"]
        lines.append(f"The longer answer is chosen in <b>{share:.1%}</b> of the pairs (ties count half).")
    if "agreement" in means:
        good = means.get("label", 0.5)  # the two answers of a pair stand in no order
        chance = good**2 + (1 - good) ** 2
        alpha = f"; Krippendorff's α about {(means['agreement'] - chance) / (1 - chance):.2f}" if chance < 1 else ""
        lines.append(
            f"Where several people judged the same, <b>{means['agreement']:.1%}</b> of the other judgements agree "
            f"(chance: {chance:.0%}{alpha})."
        )
    if "label" in means:
        lines.append(f"<b>{means['label']:.1%}</b> of the answers are rated good.")
    return f"<p>{' '.join(lines)}</p>" if lines else ""


def _annotators(found: Sequence[Mapping[str, Any]]) -> str:
    if len(found) < 2:
        return ""
    cells = [
        [one["annotator"], one["pairs"], _share(one["longer_chosen"]), _share(one["agreement"]), one["contradictions"]]
        for one in found[:_SHOWN]
    ]
    head = ("annotator", "pairs", "longer chosen", "others agree", "contradictions")
    return f"<h3>Annotators</h3>{_table(head, cells)}{_rest(found)}"


def _predicted(found: Sequence[Mapping[str, Any]]) -> str:
    if not found:
        return ""
    cells = [[f"{one['by']} {one['name']}", one["pairs"], _share(one["accuracy"])] for one in found[:_SHOWN]]
    says = "How many choices of each the words of all others predict. Clearly below half: labels may be swapped."
    return f"<h3>Label sources</h3><p>{says}</p>{_table(('held out', 'pairs', 'right'), cells)}{_rest(found)}"


def _tells(found: Sequence[Mapping[str, Any]]) -> str:
    if not found:
        return ""
    cells = [[one["word"], one["chosen"], one["rejected"], f"{one['z']:+.1f}"] for one in found[:_SHOWN]]
    says = (
        "Pairs where only the chosen, or only the rejected answer has the word; z is about standard normal where "
        "it says nothing. What is learnt first may be these words."
    )
    head = ("word", "only chosen", "only rejected", "z")
    return f"<h3>Words that tell</h3><p>{says}</p>{_table(head, cells)}"


def _table(head: Sequence[str], lines: Sequence[Sequence[Any]]) -> str:
    first, *others = head
    top = f"<th>{first}</th>" + "".join(f"<th class=n>{name}</th>" for name in others)
    body = "".join(
        f"<tr><td>{escape(str(line[0]))}</td>"
        + "".join(f"<td class=n>{_cell(value)}</td>" for value in line[1:])
        + "</tr>"
        for line in lines
    )
    return f'<div class="scroll"><table class="figures"><tr>{top}</tr>{body}</table></div>'


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else escape(str(value))


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _rest(found: Sequence[Any]) -> str:
    return f'<p class="dim">and {len(found) - _SHOWN} more in verdict.json</p>' if len(found) > _SHOWN else ""


def histogram(name: str, values: Sequence[float]) -> str:
    """Lengths as bars; the longest 1% share the last bar, so that one giant does not flatten the rest."""
    ordered = sorted(values)
    top = max(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 1)
    counts = [0] * _BINS
    for value in ordered:
        counts[min(_BINS - 1, int(value / top * _BINS))] += 1
    width, height, gap = 288, 72, 2
    step = width / _BINS
    bars = "".join(
        f'<rect x="{index * step:.1f}" y="{height - bar:.1f}" width="{step - gap:.1f}" height="{bar:.1f}" rx="1">'
        f"<title>{index * top / _BINS:.0f}–{(index + 1) * top / _BINS:.0f}: {count:,} rows</title></rect>"
        for index, count in enumerate(counts)
        if (bar := height * count / max(counts))
    )
    median = ordered[len(ordered) // 2]
    label = name.replace("_chars", "").replace("chars", "document").replace("_", " ")
    return (
        f"<figure><figcaption>{label}, characters</figcaption>"
        f'<svg viewBox="0 0 {width} {height + 16}" role="img" aria-label="histogram of {label} lengths">{bars}'
        f'<line x1="0" y1="{height}" x2="{width}" y2="{height}"/>'
        f'<text x="0" y="{height + 13}">0</text>'
        f'<text x="{width}" y="{height + 13}" text-anchor="end">{top:.0f}+</text></svg>'
        f'<div class="dim">median {median:.0f}, longest {ordered[-1]:.0f}</div></figure>'
    )
