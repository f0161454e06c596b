"""Pictures of a comparison: what each algorithm gained, and reward against distance from SFT."""

from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

from flows.compare.grid import Cell
from flows.compare.rows import Results
from flows.compare.table import NAMES
from tasks.look import LOOK

COLOURS = (
    *("#2b5fb8", "#1b7f79", "#a3325f", "#e08214", "#6a4fa3", "#5a8f29", "#b0413e", "#2a9dc9", "#8c6d31", "#c06ca8"),
)
GREY = "#8a8a8a"
MARKS = "osD^v"  # another one for each round of colours
FILES = ("scores.png", "reward_against_kl.png")


def draw(folder: Path, found: Mapping[str, Any], cells: Sequence[Cell], results: Results) -> None:
    """Write both pictures to a folder."""
    import matplotlib

    with matplotlib.rc_context(LOOK):
        for name, figure in zip(FILES, (scores(found), frontier(found, cells, results)), strict=True):
            figure.savefig(folder / name, dpi=130, metadata={"Software": None})


def scores(found: Mapping[str, Any]) -> Any:
    """Each policy's mean with its interval and a point a seed; beside it the paired gain over SFT."""
    from matplotlib.figure import Figure

    rows = found["rows"][::-1]
    figure = Figure(figsize=(11, 1.6 + 0.38 * len(rows)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for height, row in enumerate(rows):
        colour, _ = _style(found, row["name"])
        seeds = [value for value in row["by_seed"].values() if value is not None]
        left.plot(seeds, [height] * len(seeds), "o", color=colour, alpha=0.35, ms=5)
        for axes, interval in ((left, row["score"]), (right, row["gain"])):
            if interval:
                _bar(axes, interval, height, colour)
    left.set_ylim(-0.6, len(rows) - 0.4)
    left.set_yticks(range(len(rows)), [row["name"] for row in rows])
    right.axvline(0, color="#4d4d4d", linewidth=1, linestyle=":")
    name = NAMES.get(found["metric"], found["metric"])
    left.set_title(f"{name}: mean, and each seed")
    right.set_title(f"{name}: gain over the SFT policy of the same seed")
    for axes in (left, right):
        axes.grid(axis="y", visible=False)
    figure.suptitle(
        f"{len(found['seeds'])} seeds × {found['prompts']} held-out prompts; 95% intervals over both", fontsize=10
    )
    return figure


def frontier(found: Mapping[str, Any], cells: Sequence[Cell], results: Results) -> Any:
    """What is wanted and what was optimised against √KL to SFT: they part where the reward model is being exploited."""
    from matplotlib.figure import Figure

    done = [(cell, results[cell.key]) for cell in cells if cell.key in results]
    wanted = dict.fromkeys((found["metric"], "held_out_reward", "reward"))
    metrics = [name for name in wanted if any(result["scores"]["policies"][cell.policy][name] for cell, result in done)]
    figure = Figure(figsize=(4.8 * max(1, len(metrics)), 4.6), layout="constrained")
    for number, metric in enumerate(metrics):
        axes = figure.add_subplot(1, len(metrics), number + 1)
        _best_of_n(axes, done[0][1]["curves"].get("best_of_n") or (), metric)
        named = set()
        for cell, result in done:
            name = " ".join([cell.algorithm, *cell.varied])
            label = None if name in named else name
            named.add(name)
            _cell(axes, cell, result, metric, _style(found, name), label)
        axes.set_xlabel("√KL to SFT (√nats)")
        axes.set_title(NAMES.get(metric, metric))
    if figure.axes:
        handles, labels = figure.axes[-1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5), fontsize=9)
    note = "a dot a seed, lines: while it trained; grey: best-of-n from SFT at its KL bound"
    figure.suptitle(note, fontsize=10)
    return figure


def _cell(
    axes: Any, cell: Cell, result: Mapping[str, Any], metric: str, style: tuple[str, str], label: str | None
) -> None:
    looks = _looks(result, metric)
    colour, mark = style
    axes.plot([x for x, _ in looks], [y for _, y in looks], "-", color=colour, alpha=0.3, linewidth=1)
    policy = result["scores"]["policies"].get(cell.policy) or {}
    if policy.get("kl") and policy.get(metric):
        across = sqrt(max(policy["kl"]["mean"], 0.0))
        axes.plot(across, policy[metric]["mean"], mark, color=colour, ms=6, label=label)


def _looks(result: Mapping[str, Any], metric: str) -> list[tuple[float, float]]:
    """√KL and a metric along the training of a policy: on `eval` where that was examined, else the looks at `val`."""
    examined = [
        {name: value["mean"] for name, value in look.items() if isinstance(value, Mapping)}
        for look in result["trajectory"].get("looks") or ()
    ]
    looks = examined or result["metrics"].get("val") or ()
    known = [look for look in looks if look.get("kl") is not None and look.get(metric) is not None]
    return [(sqrt(max(look["kl"], 0.0)), look[metric]) for look in known]


def _best_of_n(axes: Any, curve: Sequence[Mapping[str, Any]], metric: str) -> None:
    points = [(sqrt(point["kl_bound"]), point[metric]["mean"], point["n"]) for point in curve if point.get(metric)]
    axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o-", color="#c9c9c9", ms=4, zorder=1)
    for x, y, n in points[1:]:
        axes.annotate(f"n={n}", (x, y), (-8, 3), textcoords="offset points", fontsize=7, color=GREY, ha="right")


def _bar(axes: Any, interval: Mapping[str, float], height: float, colour: str) -> None:
    reach = [[max(interval["mean"] - interval["ci_low"], 0.0)], [max(interval["ci_high"] - interval["mean"], 0.0)]]
    axes.errorbar(interval["mean"], height, xerr=reach, fmt="D", color=colour, ms=5, elinewidth=2, capsize=3)


def _style(found: Mapping[str, Any], name: str) -> tuple[str, str]:
    """Colour and mark of a method; policies that are none of those compared are grey."""
    methods = [row["name"] for row in found["rows"] if row["method"]]
    if name not in methods:
        return GREY, MARKS[0]
    turn, number = divmod(methods.index(name), len(COLOURS))
    return COLOURS[number], MARKS[turn % len(MARKS)]
