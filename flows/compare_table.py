"""What a comparison found: means over seeds, paired differences with intervals, as numbers, Markdown and a table.

Every interval is of a mean over prompts and training seeds (`rlhf.statistics.crossed_bootstrap`); policies are paired
by prompt and seed, and each is set against the SFT policy of its own seed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from flows.compare_grid import Asked, Cell
from rlhf.comparison import JUDGED_BY
from rlhf.statistics import crossed_bootstrap
from tasks.outcome import in_story_order

Results = Mapping[str, Mapping[str, Any]]
MEANS = {"kl": "KL", "length": "length", "stop_rate": "stop", "reward": "reward", "held_out_reward": "held-out"}
CONTROLS = (("rejection_sampling", "random_control"), ("random_control", "sft"))
NAMES = {"gold_reward": "gold", "held_out_reward": "held-out reward", "reward": "reward"}
MOST_PAIRS = 60  # lines of the terminal; table.md has all
_NOT_SHOWN = ("base", "champion")


@dataclass
class Row:
    """One policy of the comparison over all its seeds."""

    title: str
    """An algorithm, or a policy that they start from or are held against."""
    varied: tuple[str, ...]
    method: bool
    """Whether it is an algorithm of the grid."""
    found: dict[int, tuple[str, Mapping[str, Any]]] = field(default_factory=dict)
    """By seed: the policy's name in scores.json, and the results of a cell that has it."""

    @property
    def name(self) -> str:
        return " ".join([self.title, *self.varied])


def rows_of(cells: Sequence[Cell], results: Results) -> list[Row]:
    """What algorithms start from first, in the order of the story; then the algorithms as asked for."""
    shared: dict[tuple[str, tuple[str, ...]], Row] = {}
    trained: dict[tuple[str, tuple[str, ...]], Row] = {}
    for cell in cells:
        result = results.get(cell.key)
        if result is None:
            continue
        own = (cell.algorithm, cell.varied)
        row = trained.setdefault(own, Row(*own, method=True))
        row.found[cell.seed] = (cell.policy, result)
        for name, varied in cell.policies.items():
            if name not in (cell.policy, *_NOT_SHOWN) and name in result["values"]["policies"]:
                row = shared.setdefault((name, varied), Row(name, varied, method=False))
                row.found.setdefault(cell.seed, (name, result))
    order = in_story_order({name for name, _ in shared})
    first = sorted(shared.items(), key=lambda item: (order.index(item[0][0]), item[0][1]))
    return [row for key, row in first if key not in trained] + list(trained.values())


def summary(asked: Asked, cells: Sequence[Cell], results: Results, failed: Mapping[str, str]) -> dict[str, Any]:
    """Everything that is reported, as plain values; the same cells give the same bytes."""
    rows = rows_of(cells, results)
    done = [result for result in results.values() if result["scores"]]
    judge = done[0]["scores"]["judge"] if done else "gold"
    metric = JUDGED_BY.get(judge, "held_out_reward")
    prompts = _common_prompts(done)
    compare = _Comparing(metric, prompts)
    return {
        "algorithms": list(asked.algorithms),
        "seeds": sorted({cell.seed for cell in cells}),
        "profile": asked.profile,
        "settings": list(asked.settings),
        "judge": judge,
        "metric": metric,
        "prompts": len(prompts),
        "rows": [compare.row(row, _start_of(row, rows, "sft")) for row in rows],
        "controls": list(compare.controls(rows)),
        "differences": [compare.pair(a, b) for a, b in combinations([row for row in rows if row.method], 2)],
        "cells": [_cell(cell, results.get(cell.key), failed.get(cell.key, "")) for cell in cells],
    }


@dataclass(frozen=True)
class _Comparing:
    metric: str
    prompts: Sequence[str]

    def row(self, row: Row, sft: Row | None) -> dict[str, Any]:
        means = {name: [_mean(*row.found[seed], name) for seed in sorted(row.found)] for name in (*MEANS, self.metric)}
        seconds = [result["cell"]["seconds"] for _, result in row.found.values()] if row.method else []
        return {
            "name": row.name,
            "method": row.method,
            "by_seed": {str(seed): _mean(*row.found[seed], self.metric) for seed in sorted(row.found)},
            "score": self.interval(row),
            "gain": self.interval(row, sft) if sft and sft is not row else None,
            **{name: _average(means[name]) for name in MEANS},
            "seconds": _average(seconds),
        }

    def pair(self, a: Row, b: Row) -> dict[str, Any]:
        both = sorted(a.found.keys() & b.found.keys())
        return {"a": a.name, "b": b.name, "seeds": both, "difference": self.interval(a, b)}

    def controls(self, rows: Sequence[Row]) -> Iterable[dict[str, Any]]:
        """What rejection sampling owes to the reward model, and what to more training alone."""
        named = [row for row in rows if not row.method]
        for first, second in CONTROLS:
            for a in (row for row in named if row.name.split(" ")[0] == first):
                for b in (
                    row for row in named if row.name.split(" ")[0] == second and set(row.varied) <= set(a.varied)
                ):
                    yield self.pair(a, b)

    def interval(self, a: Row, b: Row | None = None) -> dict[str, float] | None:
        """Of the mean of `a`, or of a − b paired by seed and prompt; None where it cannot be told."""
        seeds = sorted(a.found.keys() & b.found.keys()) if b else sorted(a.found)
        grid = [self._values(a, seed) for seed in seeds]
        against = [self._values(b, seed) for seed in seeds] if b else []
        if not seeds or not self.prompts or not all(grid) or not all(against):
            return None
        for own, other in zip(grid, against, strict=bool(b)):
            own[:] = [x - y for x, y in zip(own, other, strict=True)]
        return crossed_bootstrap(grid, seed=0).as_dict()

    def _values(self, row: Row, seed: int) -> list[float]:
        """One value a prompt; [] where the metric is not known."""
        name, result = row.found[seed]
        values = result["values"]["policies"].get(name, {}).get(self.metric, [])
        by_id = dict(zip(result["values"]["ids"], values, strict=False))
        return [by_id[one] for one in self.prompts] if values else []


def markdown(found: Mapping[str, Any]) -> str:
    """The page of a comparison."""
    head, body = _grid(found)
    parts = [_about(found), _markdown_table(head, body)]
    lines = [[f"{pair['a']} − {pair['b']}", _interval(pair["difference"])] for pair in _pairs(found)]
    if lines:
        parts += ["Paired differences, 95% intervals over prompts and seeds:", _markdown_table(["pair", "gain"], lines)]
    if others := _others(found):
        parts += ["Not in the table:", "\n".join(f"* {line}" for line in others)]
    return "\n\n".join(parts) + "\n"


def show(found: Mapping[str, Any], console: Console) -> None:
    """The tables of a comparison."""
    plain = not console.is_terminal
    head, body = _grid(found)
    table = _rich(_about(found), head, plain)
    for row in body:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    console.print(table, "")
    pairs = _pairs(found)
    table = _rich("paired differences, 95% intervals over prompts and seeds", ["pair", "difference"], plain)
    for pair in pairs[:MOST_PAIRS]:
        table.add_row(f"{pair['a']} - {pair['b']}", _interval(pair["difference"]).replace("[", "\\["))
    if pairs:
        console.print(table, "")
    if len(pairs) > MOST_PAIRS:
        console.print(f"… and {len(pairs) - MOST_PAIRS} more in table.md", markup=False, highlight=False)
    for line in _others(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _start_of(row: Row, rows: Sequence[Row], title: str) -> Row | None:
    """The policy of this name that goes with a row: that of the same settings, as far as it reads them."""
    fitting = (one for one in rows if not one.method and one.title == title)
    return next((one for one in fitting if set(one.varied) <= set(row.varied)), None)


def _common_prompts(results: Sequence[Mapping[str, Any]]) -> list[str]:
    if not results:
        return []
    others = [set(result["values"]["ids"]) for result in results]
    return [one for one in results[0]["values"]["ids"] if all(one in ids for ids in others)]


def _mean(policy: str, result: Mapping[str, Any], metric: str) -> float | None:
    found = result["scores"]["policies"].get(policy, {}).get(metric)
    return None if found is None else float(found["mean"])


def _average(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _cell(cell: Cell, result: Mapping[str, Any] | None, reason: str) -> dict[str, Any]:
    """One line of the table of cells."""
    about = {"name": cell.name, "algorithm": cell.algorithm, "settings": list(cell.varied), "seed": cell.seed}
    if result is None:
        return about | {"state": "failed" if reason else "not run", "reason": reason, "key": cell.key}
    kept = result["cell"]
    scores = {name: _mean(cell.policy, result, name) for name in ("gold_reward", *MEANS)}
    run = {"run": kept["run"], "ref": kept["ref"], "seconds": kept["seconds"]}
    return about | {"state": "done", "reason": "", "key": cell.key} | run | scores


def _pairs(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [pair for pair in (*found["controls"], *found["differences"]) if pair["difference"]]


def _grid(found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    name = NAMES.get(found["metric"], found["metric"])
    means = {key: title for key, title in MEANS.items() if key != found["metric"]}
    head = ["policy", name, "by seed", "gain over SFT", *means.values(), "s"]
    body = []
    for row in found["rows"]:
        by_seed = " ".join(_number(row["by_seed"].get(str(seed))) for seed in found["seeds"])
        mean = _number(_average(list(row["by_seed"].values())), 3)
        shown = [_number(row[key], 1 if key == "length" else 2) for key in means]
        body.append([row["name"], mean, by_seed, _interval(row["gain"]), *shown, _number(row["seconds"], 0)])
    return head, body


def _about(found: Mapping[str, Any]) -> str:
    seeds = f"{len(found['seeds'])} seeds" if len(found["seeds"]) > 1 else "one seed"
    return f"{seeds}, {found['prompts']} held-out prompts, judge: {found['judge']}"


def _others(found: Mapping[str, Any]) -> list[str]:
    """Cells that are not in the table."""
    missing = [cell for cell in found["cells"] if cell["state"] != "done"]
    return [f"{cell['name']}: {cell['state']}{': ' * bool(cell['reason'])}{cell['reason']}" for cell in missing]


def _interval(value: Mapping[str, float] | None) -> str:
    return f"{value['mean']:+.3f} [{value['ci_low']:+.3f}, {value['ci_high']:+.3f}]" if value else "–"


def _number(value: float | None, digits: int = 2) -> str:
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *body)]
    return "\n".join([lines[0], f"|---|{'--:|' * (len(head) - 1)}", *lines[1:]])


def _rich(title: str, head: Sequence[str], plain: bool) -> Table:
    table = Table(title=title, title_justify="left", box=None if plain else SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(head):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
    return table
