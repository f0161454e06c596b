"""Pictures and tables of an evaluation. They go to the log (and from there to MLflow), never into a stage's output."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlhf.comparison import JUDGED_BY
from tasks.journal import Log
from tasks.look import LOOK
from tasks.outcome import in_story_order

Point = Mapping[str, Any]

COLOURS = {
    "base": "#9a9a9a",
    "sft": "#4d4d4d",
    "random_control": "#b08d57",
    "rejection_sampling": "#e08214",
    "dpo": "#1b7f79",
    "rl": "#2b5fb8",
    "champion": "#a3325f",
}
SPARE = ("#6a8f3c", "#8e63a9", "#c9a600", "#d0607a", "#3f9fbf", "#7b5b3a", "#5e7f9e", "#a9745f")
LABELS = {
    "gold_reward": "gold reward",
    "reward": "reward (policy_rm)",
    "held_out_reward": "reward (held_out_rm)",
    "rule_reward": "reward (rules)",
    "win_rate_vs_sft": "win rate against SFT",
    "win_rate_vs_champion": "win rate against champion",
    "kl": "KL to SFT (nats)",
    "length": "length (tokens)",
    "stop_rate": "stop rate",
}
NUM_SAMPLES = 16


def show(log: Log, scores: Point, curves: Point, rows: Mapping[str, Sequence[Point]]) -> None:
    """Log all scalars, figures and the table of samples side by side."""
    log({f"evaluate/{metric}/{name}": value for name, metric, value in _means(scores["policies"])}, 0)
    log.table("samples", sample_table(rows))
    import matplotlib

    with matplotlib.rc_context(LOOK):
        log.figure("policies", policies_figure(scores))
        log.figure("reward_against_kl", frontier_figure(scores, curves))
        if curves["best_of_n"]:
            log.figure("best_of_n", best_of_n_figure(curves["best_of_n"]))


def sample_table(rows: Mapping[str, Sequence[Point]]) -> list[dict[str, str]]:
    """A row a prompt, a column a policy: its first sample, with what the first of the judges says in front."""
    order = in_story_order(rows)
    table = []
    for index, question in enumerate(rows["sft"][:NUM_SAMPLES]):
        line = {"prompt": "\n".join(f"{m['role']}: {m['content']}" for m in question["messages"])}
        if len(question["messages"]) == 1:
            line["prompt"] = question["messages"][0]["content"]
        for name in order:
            sample = rows[name][index]["completions"][0]
            score = next(sample[metric] for metric in JUDGED_BY.values() if metric in sample)
            ending = "" if sample["stop_reason"] == "stop" else " …"
            line[name] = f"[{score:.2f}] {sample['text']}{ending}"
        table.append(line)
    return table


def policies_figure(scores: Point) -> Any:
    """All policies under each other, a panel for each thing to look at, with 95% intervals."""
    from matplotlib.figure import Figure

    metrics = [JUDGED_BY[scores["judge"]], "win_rate_vs_sft", "reward", "kl", "length", "stop_rate"]
    metrics = [metric for metric in metrics if scores["policies"]["sft"][metric]]
    names, colours = in_story_order(scores["policies"]), _colours(scores["policies"])
    figure = Figure(figsize=(13, 1.6 + 0.85 * len(names)), layout="constrained")
    for number, metric in enumerate(metrics):
        axes = figure.add_subplot(2, 3, number + 1)
        for height, name in enumerate(reversed(names)):
            point = scores["policies"][name][metric]
            _dot(axes, name, colours[name], point["mean"], height, across=point)
            axes.annotate(
                _number(point["mean"]),
                (point["mean"], height),
                (0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        if metric == "win_rate_vs_sft":
            axes.axvline(0.5, color="#4d4d4d", linewidth=1, linestyle=":")
        if metric == "kl":
            axes.set_xscale("symlog", linthresh=1.0)  # base is far off, the others are close together
            axes.xaxis.set_major_formatter("{x:g}")
        axes.set_yticks(range(len(names)), [_label(name) for name in reversed(names)] if number % 3 == 0 else [])
        axes.set_ylim(-0.6, len(names) - 0.3)
        axes.margins(x=0.12)
        axes.grid(axis="y", visible=False)
        axes.set_title(LABELS[metric])
    about = scores["evaluation_set"]
    figure.suptitle(
        f"{about['prompts']} held-out prompts × {about['samples_per_prompt']} samples at temperature "
        f"{about['temperature']:g}; 95% intervals over prompts; judge: {scores['judge']}",
        fontsize=10,
    )
    return figure


def frontier_figure(scores: Point, curves: Point) -> Any:
    """What is wanted and what was optimised against √KL: they part where the reward model is being exploited."""
    from matplotlib.figure import Figure

    rewards = ("gold_reward", "held_out_reward", "reward", "rule_reward")
    metrics = [metric for metric in rewards if scores["policies"]["sft"].get(metric)]
    best_of_n, colours = curves["best_of_n"], _colours(curves["policies"])
    figure = Figure(figsize=(4.6 * len(metrics), 4.4), layout="constrained")
    for number, metric in enumerate(metrics):
        axes = figure.add_subplot(1, len(metrics), number + 1)
        line = [(point["kl_bound"] ** 0.5, point[metric]["mean"], point["n"]) for point in best_of_n if point[metric]]
        axes.plot([x for x, _, _ in line], [y for _, y, _ in line], "o-", color="#c9c9c9", ms=4, zorder=1)
        for x, y, n in line[1:]:
            axes.annotate(
                f"n={n}", (x, y), (-8, 3), textcoords="offset points", fontsize=7, color="#8a8a8a", ha="right"
            )
        for name in in_story_order(curves["policies"]):
            if name != "base":  # it was never optimised, and is far off
                point = curves["policies"][name]
                _dot(axes, name, colours[name], point["sqrt_kl"], point[metric]["mean"], up=point[metric])
        axes.set_xlabel("√KL to SFT (√nats)")
        axes.set_title(LABELS[metric])
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9)
    grey = "; grey: best-of-n from SFT at its KL bound" if best_of_n else ""
    figure.suptitle(f"rewards against distance from SFT{grey}", fontsize=10)
    return figure


def best_of_n_figure(curve: Sequence[Point]) -> Any:
    """Reward of the reward model's favourite among n: its own opinion rises by construction, gold need not."""
    from matplotlib.figure import Figure

    metrics = [metric for metric in ("gold_reward", "held_out_reward", "reward", "length") if curve[0][metric]]
    figure = Figure(figsize=(3.6 * len(metrics), 3.4), layout="constrained")
    sizes = [point["n"] for point in curve]
    for number, metric in enumerate(metrics):
        axes = figure.add_subplot(1, len(metrics), number + 1)
        axes.fill_between(
            sizes,
            [point[metric]["ci_low"] for point in curve],
            [point[metric]["ci_high"] for point in curve],
            color=COLOURS["rl"],
            alpha=0.15,
            linewidth=0,
        )
        axes.plot(sizes, [point[metric]["mean"] for point in curve], "o-", color=COLOURS["rl"])
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set_xlabel("n")
        axes.set_title(LABELS[metric])
    figure.suptitle("best of n answers of SFT, chosen by policy_rm", fontsize=10)
    return figure


def _colours(names: Iterable[str]) -> dict[str, str]:
    """A colour a policy: well-known ones have their own, others take the spare ones by name."""
    others = sorted(set(names) - set(COLOURS))
    return COLOURS | {name: SPARE[number % len(SPARE)] for number, name in enumerate(others)}


def _dot(
    axes: Any, name: str, colour: str, x: float, y: float, across: Point | None = None, up: Point | None = None
) -> None:
    axes.errorbar(
        x,
        y,
        xerr=_reach(across),
        yerr=_reach(up),
        fmt="D" if name == "champion" else "o",
        color=colour,
        ms=7,
        elinewidth=2,
        capsize=3,
        label=_label(name),
        zorder=3,
    )


def _reach(point: Point | None) -> list[list[float]] | None:
    if point is None:
        return None
    return [[max(point["mean"] - point["ci_low"], 0.0)], [max(point["ci_high"] - point["mean"], 0.0)]]


def _means(policies: Mapping[str, Point]) -> list[tuple[str, str, float]]:
    return [
        (name, metric, value["mean"])
        for name, row in policies.items()
        for metric, value in row.items()
        if value is not None
    ]


def _label(name: str) -> str:
    return {"sft": "SFT", "dpo": "DPO", "rl": "RL"}.get(name, name.replace("_", " "))


def _number(value: float) -> str:
    text = f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return text.removeprefix("-") if float(text) == 0 else text
