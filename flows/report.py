"""The tables at the end of a run: policies, paired differences and the gate's checks, from the files on disk.

Plain text where the output is no terminal, so that logs stay readable. Nothing here imports torch.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf.comparison import JUDGED_BY
from tasks.folds_report import lines as folds_lines
from tasks.outcome import in_story_order

Numbers = Mapping[str, Any]

COLUMNS = {
    "gold_reward": "gold",
    "held_out_reward": "held-out",
    "reward": "reward",
    "rule_reward": "rules",
    "win_rate_vs_sft": "win/SFT",
    "win_rate_vs_champion": "win/champion",
    "kl": "KL",
    "length": "length",
    "stop_rate": "stop",
    "answer_nll": "NLL/SFT",
}
BOUND = {
    **dict.fromkeys(("kl", "length_ratio", "nll_increase", "answer_nll_increase", "quarantine_share"), "≤"),
    "stop_rate": "≥",
}
BOUND |= {"gold_reward_not_down": "≥", "held_out_reward_not_down": "≥", "gain_over_sft": ">", "gain_over_champion": ">"}


def print_report(data: Path, console: Console | None = None) -> None:
    """Print what the files of `data`/07, 12, 13 and 15 say; what is not there is left out."""
    console = console or default_console()
    plain = not console.is_terminal
    reward_model, curves = (
        _read(data / "07_reward_model" / "metrics.json"),
        _read(data / "12_evaluation" / "curves.json"),
    )
    scores, gate = _read(data / "12_evaluation" / "scores.json"), _read(data / "13_gate" / "gate.json")
    folds = _read(data / "15_folds" / "metrics.json")
    if scores:
        candidate = gate["candidate"] if gate else None
        whole = policies_table(scores, candidate, plain)
        fits = takes(whole) <= console.width
        console.print(whole if fits else policies_table(scores, candidate, plain, narrow=True), "")
        console.print(differences_table(scores, plain), "")
    if gate:
        console.print(gate_table(gate, plain), "")
    lines = [
        reward_model_line(reward_model) if reward_model else "",
        best_of_n_line(curves, JUDGED_BY[scores["judge"]]) if scores and curves and curves["best_of_n"] else "",
        *(folds_lines(folds) if folds else []),
        f"gate: {gate['reason']}" if gate else "",
    ]
    for line in filter(None, lines):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def reward_model_line(metrics: Numbers) -> str:
    """Held-out accuracy of the optimised reward model beside the ceiling that the annotators' noise allows."""
    model = metrics["policy_rm"]
    accuracy = model["accuracy"]
    between = f"[{accuracy['ci_low']:.3f}, {accuracy['ci_high']:.3f}]"
    ceiling = f", ceiling {model['ceiling']:.3f}" if model.get("ceiling") else ""
    return f"reward model: held-out accuracy {accuracy['mean']:.3f} {between}{ceiling}, on {model['pairs']} pairs"


def best_of_n_line(curves: Numbers, metric: str) -> str:
    """What the favourite of n answers of SFT is worth."""
    points = [f"n={point['n']} {point[metric]['mean']:.3f}" for point in curves["best_of_n"]]
    return f"best of n from SFT, {metric}: " + ", ".join(points)


def default_console() -> Console:
    """Standard output; wide enough for a whole table where no terminal says how wide it is."""
    console = Console()
    return console if console.is_terminal else Console(width=120, no_color=True)


def takes(table: Table) -> int:
    """Columns of a terminal in which nothing of a table is cut."""
    return Console(width=1_000).measure(table).maximum


def policies_table(scores: Numbers, candidate: str | None = None, plain: bool = False, narrow: bool = False) -> Table:
    """One policy a row, mean and half the width of its 95% interval; the gate's candidate is marked.

    A narrow one has fewer columns, and intervals on what the judge says only.
    """
    about = scores["evaluation_set"]
    policies = scores["policies"]
    judged = {JUDGED_BY[scores["judge"]], "win_rate_vs_sft"}
    dropped = {"held_out_reward", "win_rate_vs_champion"} - judged if narrow else set()
    if scores["judge"] != "rules":  # with models that judge there is no room for it
        dropped |= {"answer_nll"}
    shown = [key for key in COLUMNS if key not in dropped and any(row.get(key) for row in policies.values())]
    title = f"policies on {about['prompts']} held-out prompts x {about['samples_per_prompt']}, judge: {scores['judge']}"
    table = _table(title, plain)
    table.add_column("policy", no_wrap=True)
    for key in shown:
        table.add_column(COLUMNS[key], justify="right", no_wrap=True)
    for name in in_story_order(policies):
        mark = " *" if name == candidate else ""
        style = "bold" if name == candidate and not plain else ""
        cells = [_mean(policies[name].get(key), reach=not narrow or key in judged) for key in shown]
        table.add_row(name + mark, *cells, style=style)
    return table


def differences_table(scores: Numbers, plain: bool = False) -> Table:
    """Paired differences by the judge's metric; an interval above zero is a gain that prompts alone do not explain."""
    table = _table(f"paired differences of {JUDGED_BY[scores['judge']]}, 95% intervals", plain)
    table.add_column("pair", no_wrap=True)
    table.add_column("difference", justify="right")
    table.add_column("interval", justify="right", no_wrap=True)
    for against, name, gain in _gains(scores):
        style = "" if plain or gain["ci_low"] <= 0 <= gain["ci_high"] else ("green" if gain["mean"] > 0 else "red")
        between = f"[{gain['ci_low']:+.3f}, {gain['ci_high']:+.3f}]"
        # Brackets would be read as markup.
        table.add_row(f"{name} - {against}", f"{gain['mean']:+.3f}", between.replace("[", "\\["), style=style)
    return table


def gate_table(gate: Numbers, plain: bool = False) -> Table:
    """The gate's checks, each with its value and limit."""
    verdict = "promote" if gate["promote"] else "refuse"
    table = _table(f"gate: {verdict} {gate['candidate']} (against {gate['against']})", plain)
    table.add_column("check", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("limit", justify="right")
    table.add_column("", no_wrap=True)
    for check in gate["checks"]:
        style = "" if plain or check["passed"] else "bold red"
        outcome = "passed" if check["passed"] else "FAILED"
        table.add_row(
            check["name"],
            _value(check["value"]),
            f"{BOUND.get(check['name'], '=')} {_value(check['limit'])}",
            outcome,
            style=style,
        )
    return table


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _table(title: str, plain: bool) -> Table:
    whole = Text(title, no_wrap=True, overflow="ignore")  # a title may be wider than its table
    return Table(title=whole, title_justify="left", box=None if plain else SIMPLE_HEAD, pad_edge=False)


def _gains(scores: Numbers) -> Iterator[tuple[str, str, Numbers]]:
    metric = JUDGED_BY[scores["judge"]]
    for against in in_story_order(scores["differences"]):
        for name in in_story_order(scores["differences"][against]):
            gain = scores["differences"][against][name][metric]
            if gain is not None:
                yield against, name, gain


def _mean(point: Numbers | None, reach: bool) -> str:
    if point is None:
        return "-"
    digits = 1 if abs(point["mean"]) >= 10 else 2
    mean = f"{point['mean']:.{digits}f}"
    mean = mean.removeprefix("-") if float(mean) == 0 else mean
    return f"{mean} ±{(point['ci_high'] - point['ci_low']) / 2:.{digits}f}" if reach else mean


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:.3g}"
    if isinstance(value, Mapping):
        return " ".join(str(part)[:8] for part in value.values())
    return str(value)[:24]
