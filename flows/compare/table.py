"""What a comparison found, as numbers (`summary`), Markdown and a table; the arithmetic is in `flows.compare.rows`."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.compare.grid import Asked, Cell
from flows.compare.rows import MEANS, Comparing, Results, average, common_prompts, mean_of, rows_of
from rlhf.comparison import JUDGED_BY

NAMES = {"gold_reward": "gold", "held_out_reward": "held-out reward", "reward": "reward", "rule_reward": "rules"}
MOST_PAIRS = 60  # lines of the terminal; table.md has all
TITLE = "Paired differences, 95% intervals over prompts and seeds"


def summary(asked: Asked, cells: Sequence[Cell], results: Results, failed: Mapping[str, str]) -> dict[str, Any]:
    """Everything that is reported, as plain values; the same cells give the same bytes."""
    rows = rows_of(cells, results)
    done = [result for result in results.values() if result["scores"]]
    judge = done[0]["scores"]["judge"] if done else "gold"
    metric = JUDGED_BY.get(judge, "held_out_reward")
    prompts = common_prompts(done)
    compare = Comparing(metric, prompts, rows)
    return {
        "algorithms": list(asked.algorithms),
        "seeds": sorted({cell.seed for cell in cells}),
        "profile": asked.profile,
        "settings": list(asked.settings),
        "judge": judge,
        "metric": metric,
        "prompts": len(prompts),
        "rows": [compare.row(row) for row in rows],
        "controls": list(compare.controls()),
        "differences": [compare.pair(a, b) for a, b in combinations([row for row in rows if row.method], 2)],
        "cells": [_cell(cell, results.get(cell.key), failed.get(cell.key, "")) for cell in cells],
    }


def markdown(found: Mapping[str, Any]) -> str:
    """The page of a comparison."""
    parts = [_about(found)]
    if found["rows"]:
        parts.append(_markdown_table(*_grid(found)))
    pairs = _pairs(found)
    if pairs:
        lines = [[name, interval] for name, interval in pairs]
        parts += [f"{TITLE}:", _markdown_table(["pair", "gain"], lines)]
    parts += _notes(found)
    if others := _others(found):
        parts += ["Not in the table:", "\n".join(f"* {line}" for line in others)]
    return "\n\n".join(parts) + "\n"


def show(found: Mapping[str, Any], console: Console) -> None:
    """The tables of a comparison; long names are folded, not cut."""
    plain = not console.is_terminal
    if found["rows"]:
        console.print(_rich(_about(found), *_grid(found), plain), "")
    pairs = _pairs(found)
    if pairs:
        console.print(_rich(TITLE, ["pair", "gain"], pairs[:MOST_PAIRS], plain), "")
    more = [f"… and {len(pairs) - MOST_PAIRS} more in table.md"] if len(pairs) > MOST_PAIRS else []
    for line in [*more, *_notes(found), *_others(found)]:
        console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _cell(cell: Cell, result: Mapping[str, Any] | None, reason: str) -> dict[str, Any]:
    """One line of the table of cells."""
    about = {"name": cell.name, "algorithm": cell.algorithm, "settings": list(cell.settings), "seed": cell.seed}
    if result is None:
        return about | {"state": "failed" if reason else "not run", "reason": reason, "key": cell.key}
    kept = result["cell"]
    scores = {name: mean_of(cell.policy, result, name) for name in ("gold_reward", *MEANS)}
    run = {"run": kept["run"], "ref": kept["ref"], "seconds": kept["seconds"]}
    return about | {"state": "done", "reason": "", "key": cell.key} | run | scores


def _pairs(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and intervals of the differences that could be told."""
    return [
        (f"{pair['a']} − {pair['b']}{_partly(pair['seeds'], found)}", _interval(pair["difference"]))
        for pair in (*found["controls"], *found["differences"])
        if pair["difference"]
    ]


def _partly(seeds: Sequence[Any], found: Mapping[str, Any]) -> str:
    """Says that some seeds are missing."""
    return "" if len(seeds) == len(found["seeds"]) else f" ({len(seeds)} of {len(found['seeds'])} seeds)"


def _notes(found: Mapping[str, Any]) -> list[str]:
    """What to bear in mind with the differences."""
    notes = []
    told = [pair for pair in found["differences"] if pair["difference"]]
    if len(told) > 1:
        notes.append(
            f"Each interval stands alone, none is adjusted for their number: of {len(told)} differences between "
            f"algorithms about {len(told) / 20:.1f} leave out 0 by chance where there is none."
        )
    if other := sum(not pair["measured_alike"] for pair in found["differences"]):
        notes.append(
            f"{other} pairs have no difference here: they answered other prompts or were judged by other reward "
            "models. Gains over SFT are within one evaluation."
        )
    return notes


def _grid(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    name = NAMES.get(found["metric"], found["metric"])
    means = {key: title for key, title in MEANS.items() if key != found["metric"]}
    head = ["policy", name, "by seed", "gain over SFT", *means.values(), "s"]
    body = []
    for row in found["rows"]:
        by_seed = " ".join(_number(row["by_seed"].get(str(seed))) for seed in found["seeds"])
        mean = _number(average(row["by_seed"].values()), 3)
        shown = [_number(row[key], 1 if key == "length" else 2) for key in means]
        body.append(
            [
                row["name"] + _partly(row["by_seed"], found),
                mean,
                by_seed,
                _interval(row["gain"]),
                *shown,
                _number(row["seconds"], 0),
            ]
        )
    return head, body


def _about(found: Mapping[str, Any]) -> str:
    seeds = f"{len(found['seeds'])} seeds" if len(found["seeds"]) > 1 else "one seed"
    return f"{seeds}, {found['prompts']} held-out prompts, judge: {found['judge']}"


def _others(found: Mapping[str, Any]) -> list[str]:
    """Cells that are not in the table."""
    missing = [cell for cell in found["cells"] if cell["state"] != "done"]
    reasons = [cell["reason"].partition("\n")[0] for cell in missing]
    return [
        f"{cell['name']}: {cell['state']}{': ' * bool(why)}{why}" for cell, why in zip(missing, reasons, strict=True)
    ]


def _interval(value: Mapping[str, float] | None) -> str:
    if value is None:
        return "–"
    mean, low, high = (f"{round(value[key], 3) + 0.0:+.3f}" for key in ("mean", "ci_low", "ci_high"))  # no -0.000
    return f"{mean} [{low}, {high}]"


def _number(value: float | None, digits: int = 2) -> str:
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    safe = [[cell.replace("|", "\\|") for cell in cells] for cells in (head, *body)]
    lines = [f"| {' | '.join(cells)} |" for cells in safe]
    return "\n".join([lines[0], f"|---|{'--:|' * (len(head) - 1)}", *lines[1:]])


def _rich(title: str, head: Sequence[str], body: Sequence[Sequence[str]], plain: bool) -> Table:
    """Cells are text, never markup: names may hold brackets."""
    table = Table(title=Text(title), title_justify="left", box=None if plain else SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(head):
        first = number == 0
        folds = first or name == "by seed"
        justify = "left" if first else "right"
        table.add_column(
            name, justify=justify, no_wrap=not folds, overflow="fold", min_width=12 if first else 9 if folds else None
        )
    for row in body:
        table.add_row(*map(Text, row))
    return table
