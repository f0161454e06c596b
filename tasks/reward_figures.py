"""Pictures and tables of a reward model's trust report. They go to the log (and from there to MLflow) only."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.reward_report import word_counts
from rlhf.statistics import Floats
from tasks.journal import Log
from tasks.look import LOOK

COLOUR, PALE, GREY = "#2b5fb8", "#a9c1e8", "#8a8a8a"
BREAKDOWNS = ("by_length", "by_origin", "by_source", "by_annotator")


def show(log: Log, name: str, scores: Floats, rows: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> None:
    """Log the figure and the table of one model; `scores` [pairs, 2] of chosen and rejected on `rows`."""
    log.table(f"trust_{name}", breakdown(found))
    import matplotlib

    with matplotlib.rc_context(LOOK):
        log.figure(f"trust_{name}", trust_figure(name, scores, rows, found))


def breakdown(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Accuracy a slice of the held-out pairs: length, origin, source, annotator, confidence."""
    table = [
        {"slice": f"{kind.removeprefix('by_')}: {name}", **part}
        for kind in BREAKDOWNS
        for name, part in found.get(kind, {}).items()
    ]
    return table + [
        {"slice": f"confidence: {part['confidence']:.2f}", "accuracy": part["accuracy"], "pairs": part["pairs"]}
        for part in found.get("by_confidence", [])
    ]


def trust_figure(name: str, scores: Floats, rows: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> Any:
    """Four panels: does it keep what it claims, does length mislead it, how far apart, and what a word is worth."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.6), layout="constrained")
    _reliability(figure.add_subplot(2, 2, 1), found)
    _by_length(figure.add_subplot(2, 2, 2), found)
    _margins(figure.add_subplot(2, 2, 3), scores)
    _against_length(figure.add_subplot(2, 2, 4), scores, word_counts(rows), found)
    accuracy = found["accuracy"]
    ceiling = f", ceiling {found['ceiling']:.3f}" if "ceiling" in found else ""
    figure.suptitle(
        f"{name}: accuracy {accuracy['mean']:.3f} [{accuracy['ci_low']:.3f}, {accuracy['ci_high']:.3f}] on "
        f"{found['pairs']} held-out pairs{ceiling}",
        fontsize=10,
    )
    return figure


def _reliability(axes: Any, found: Mapping[str, Any]) -> None:
    parts = found["reliability"]
    axes.plot([0.5, 1], [0.5, 1], ":", color=GREY)
    axes.plot([part["claimed"] for part in parts], [part["accuracy"] for part in parts], "-", color=PALE, zorder=1)
    most = max(part["pairs"] for part in parts)
    sizes = [20 + 160 * part["pairs"] / most for part in parts]
    axes.scatter([part["claimed"] for part in parts], [part["accuracy"] for part in parts], s=sizes, color=COLOUR)
    axes.set_xlabel("claimed probability σ(|margin|)")
    axes.set_ylabel("accuracy")
    axes.set_title(f"calibration: expected error {found['calibration_error']:.3f}")


def _by_length(axes: Any, found: Mapping[str, Any]) -> None:
    parts = found["by_length_difference"]
    bars = axes.bar([part["chosen_is"] for part in parts], [part["accuracy"] for part in parts], color=COLOUR)
    axes.bar_label(bars, [f"{part['pairs']} pairs" for part in parts], fontsize=8, padding=2)
    axes.axhline(0.5, color=GREY, linestyle=":")
    axes.set_ylim(0, 1.05)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("length of chosen beside rejected (words)")
    axes.set_ylabel("accuracy")
    axes.set_title("accuracy by length difference")


def _margins(axes: Any, scores: Floats) -> None:
    margins = scores[:, 0] - scores[:, 1]
    axes.hist(margins, bins=40, color=COLOUR)
    axes.axvline(0, color=GREY, linestyle=":")
    axes.set_xlabel("reward of chosen − reward of rejected")
    axes.set_ylabel("pairs")
    axes.set_title(f"margins: mean {margins.mean():.2f}, standard deviation {margins.std():.2f}")


def _against_length(axes: Any, scores: Floats, words: Floats, found: Mapping[str, Any]) -> None:
    for side, (label, colour) in enumerate((("chosen", COLOUR), ("rejected", "#e08214"))):
        axes.scatter(words[:, side], scores[:, side], s=5, alpha=0.35, linewidths=0, color=colour, label=label)
    axes.legend(fontsize=9, markerscale=3)
    axes.set_xlabel("length (words)")
    axes.set_ylabel("reward")
    axes.set_title(f"reward against length: correlation {found['length_correlation']:.2f}")
