"""The picture of over-optimisation: what was optimised, a second opinion and what is so, against √KL to SFT.

Best-of-n, RL runs and other policies in one picture, from the `trajectory.json` of any number of runs:

    python -m tasks.overoptimisation_figures PICTURE.png "kl_coef 0=data/14_trajectory/trajectory.json" ...

Runs that share a label (seeds) are drawn alike.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

from tasks.journal import Log
from tasks.look import LOOK

Run = tuple[str, Mapping[str, Any]]
"""Label, and what trajectory.json holds."""

PANELS = {
    "reward": "reward that was optimised (policy_rm)",
    "held_out_reward": "held-out reward (held_out_rm)",
    "gold_reward": "gold reward",
}
COLOURS = ("#a3325f", "#e08214", "#2b5fb8", "#1b7f79", "#6a4fa3", "#8c6d31")
GREY = "#8a8a8a"
MARKS = "osD^vPX"


def show(log: Log, result: Mapping[str, Any]) -> None:
    """Log the points of one run, and its picture."""
    for look in result["looks"]:
        known = {name: look[name]["mean"] for name in (*PANELS, "kl") if look[name]}
        log({f"trajectory/{name}": value for name, value in known.items()}, look["update"])
    import matplotlib

    with matplotlib.rc_context(LOOK):
        log.figure("over_optimisation", picture([("rl", result)]))


def picture(runs: Sequence[Run]) -> Any:
    """One panel a reward; a line a run through its looks, the kept one ringed; other policies as single points."""
    from matplotlib.figure import Figure

    first = runs[0][1]
    figure = Figure(figsize=(4.8 * len(PANELS), 4.8), layout="constrained")
    for axes, (metric, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        _best_of_n(axes, first["best_of_n"], metric)
        labels = list(dict.fromkeys(label for label, _ in runs))
        for label, result in runs:
            _looks(axes, result, metric, label, COLOURS[labels.index(label) % len(COLOURS)])
        _policies(axes, [result for _, result in runs], metric)
        axes.set_xlabel("√KL to SFT (√nats)")
        axes.set_title(title)
    handles, names = figure.axes[-1].get_legend_handles_labels()
    shown = dict(zip(names, handles, strict=True))  # one entry a label, however many runs have it
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=min(len(shown), 6), fontsize=9)
    asked = f"{first['prompts']} held-out prompts × {first['samples_per_prompt']}"
    figure.suptitle(f"{asked}, 95% intervals; ringed: the look that was kept", fontsize=10)
    return figure


def _looks(axes: Any, result: Mapping[str, Any], metric: str, label: str, colour: str) -> None:
    looks = [look for look in result["looks"] if look[metric]]
    if not looks:
        return
    x = [look["sqrt_kl"] for look in looks]
    axes.plot(x, [look[metric]["mean"] for look in looks], "o-", color=colour, ms=3.5, linewidth=1.6, label=label)
    low, high = ([look[metric][end] for look in looks] for end in ("ci_low", "ci_high"))
    axes.vlines(x, low, high, color=colour, alpha=0.3, linewidth=1)
    kept = (result["verdict"] or {}).get("kept")
    for look in looks:
        if look["update"] == kept:
            axes.plot(
                look["sqrt_kl"], look[metric]["mean"], "o", ms=11, markerfacecolor="none", markeredgecolor=colour,
                markeredgewidth=1.8,
            )  # fmt: skip


def _best_of_n(axes: Any, curve: Sequence[Mapping[str, Any]], metric: str) -> None:
    points = [(sqrt(point["kl_bound"]), point[metric]["mean"], point["n"]) for point in curve if point.get(metric)]
    axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o-", color=GREY, ms=3.5, label="best of n (bound)")
    for x, y, n in points[1:]:
        axes.annotate(str(n), (x, y), (0, 5), textcoords="offset points", fontsize=7, color=GREY, ha="center")


def _policies(axes: Any, results: Sequence[Mapping[str, Any]], metric: str) -> None:
    """Each policy once, however many runs share it."""
    names = list(dict.fromkeys(name for result in results for name in result["policies"]))
    drawn = set()
    for result in results:
        for name, point in result["policies"].items():
            value = point[metric]
            if not value or (name, point["sqrt_kl"], value["mean"]) in drawn:
                continue
            drawn.add((name, point["sqrt_kl"], value["mean"]))
            reach = [[value["mean"] - value["ci_low"]], [value["ci_high"] - value["mean"]]]
            mark = MARKS[1 + names.index(name) % (len(MARKS) - 1)]
            axes.errorbar(point["sqrt_kl"], value["mean"], yerr=reach, fmt=mark, color="#4d4d4d", ms=6, label=name)


def main(arguments: Sequence[str]) -> None:
    """See the module."""
    if len(arguments) < 2 or not all("=" in one for one in arguments[1:]):
        raise SystemExit(__doc__)
    import matplotlib

    runs: list[Run] = []
    for one in arguments[1:]:
        label, _, path = one.rpartition("=")
        runs.append((label, _read(Path(path))))
    with matplotlib.rc_context(LOOK):
        picture(runs).savefig(arguments[0], dpi=130, metadata={"Software": None})


def _read(path: Path) -> Mapping[str, Any]:
    """What trajectory.json holds; ends the program with one sentence where it is another file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path}: cannot be read: {error}") from None
    if not isinstance(found, dict) or "looks" not in found:
        raise SystemExit(f"{path}: is no trajectory.json of a run: it has no `looks`")
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
