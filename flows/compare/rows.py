"""The arithmetic of a comparison: policies over their seeds, and intervals of their means and paired differences.

Every interval is of a mean over prompts and training seeds (`rlhf.statistics.crossed_bootstrap`). What is set against
SFT or a control is set against that of its own evaluation: same seed, same prompts, same scorers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from flows.compare.grid import Cell
from rlhf.statistics import crossed_resamples, percentile_interval
from tasks.outcome import in_story_order

Results = Mapping[str, Mapping[str, Any]]
MEANS = {"kl": "KL", "length": "length", "stop_rate": "stop", "reward": "reward", "held_out_reward": "held-out"}
CONTROLS = (("rejection_sampling", "random_control"), ("random_control", "sft"))


class Found(NamedTuple):
    """A policy of one seed."""

    policy: str
    """Its name in scores.json."""
    cell: Cell
    result: Mapping[str, Any]


@dataclass(eq=False)
class Row:
    """One policy of the comparison over all its seeds."""

    title: str
    """An algorithm, or a policy that they start from or are held against."""
    varied: tuple[str, ...]
    method: bool
    """Whether it is an algorithm of the grid."""
    found: dict[int, Found] = field(default_factory=dict)
    """By seed."""

    @property
    def name(self) -> str:
        return " ".join([self.title, *self.varied])


Series = tuple[Row, str]
"""A policy by its name in scores.json, as the evaluations of a row have it; the row's own for ""."""


def rows_of(cells: Sequence[Cell], results: Results) -> list[Row]:
    """What algorithms start from first, in the order of the story; then the algorithms as asked for."""
    shared: dict[tuple[str, tuple[str, ...]], Row] = {}
    trained: dict[tuple[str, tuple[str, ...]], Row] = {}
    for cell in cells:
        result = results.get(cell.key)
        if result is None:
            continue
        own = (cell.algorithm, tuple(cell.varied))
        trained.setdefault(own, Row(*own, method=True)).found[cell.seed] = Found(cell.policy, cell, result)
        for name, varied in cell.policies.items():
            if name != cell.policy and name in result["values"]["policies"]:
                row = shared.setdefault((name, varied), Row(name, varied, method=False))
                row.found.setdefault(cell.seed, Found(name, cell, result))
    order = in_story_order({name for name, _ in shared})
    first = sorted(shared.items(), key=lambda item: (order.index(item[0][0]), item[0][1]))
    return [row for key, row in first if key not in trained] + list(trained.values())


def common_prompts(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Ids of the prompts that all evaluations asked, in the order of the first."""
    if not results:
        return []
    others = [set(result["values"]["ids"]) for result in results]
    return [one for one in results[0]["values"]["ids"] if all(one in ids for ids in others)]


def mean_of(policy: str, result: Mapping[str, Any], metric: str) -> float | None:
    """As scores.json has it."""
    found = result["scores"]["policies"].get(policy, {}).get(metric)
    return None if found is None else float(found["mean"])


def average(values: Iterable[float | None]) -> float | None:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


class Comparing:
    """Rows by one metric. All series over the same seeds share the same draws, so each is resampled once."""

    def __init__(self, metric: str, prompts: Sequence[str], rows: Sequence[Row]) -> None:
        self.metric, self.prompts, self.rows = metric, prompts, rows
        self._values: dict[Series, dict[int, list[float]]] = {}
        for row in rows:
            for title in ("", "sft", *(second for first, second in CONTROLS if first == row.title)):
                self._values[row, title] = self._by_seed(row, title)
        self._resampled: dict[tuple[int, ...], dict[Series, tuple[float, Any]]] = {}

    def row(self, row: Row) -> dict[str, Any]:
        """One line of the table."""
        seeds = sorted(row.found)
        found = [row.found[seed] for seed in seeds]
        scores = [mean_of(one.policy, one.result, self.metric) for one in found]
        own = row.title == "sft" and not row.method
        return {
            "name": row.name,
            "method": row.method,
            "by_seed": dict(zip(map(str, seeds), scores, strict=True)),
            "score": self.interval(seeds, (row, "")),
            "gain": None if own else self.interval(seeds, (row, ""), (row, "sft")),
            **{name: average(mean_of(one.policy, one.result, name) for one in found) for name in MEANS},
            "seconds": average(one.result["cell"]["seconds"] for one in found) if row.method else None,
        }

    def pair(self, a: Row, b: Row) -> dict[str, Any]:
        """a − b over the seeds of both, as far as both were measured alike."""
        seeds = sorted(a.found.keys() & b.found.keys())
        alike = all(self._measure(a.found[seed]) == self._measure(b.found[seed]) for seed in seeds)
        difference = self.interval(seeds, (a, ""), (b, "")) if alike else None
        return {"a": a.name, "b": b.name, "seeds": seeds, "measured_alike": alike, "difference": difference}

    def controls(self) -> Iterable[dict[str, Any]]:
        """What rejection sampling owes to the reward model, and what to more training alone."""
        for first, second in CONTROLS:
            for row in (row for row in self.rows if row.title == first and not row.method):
                name = " ".join([second, *next(iter(row.found.values())).cell.policies.get(second, ())])
                seeds = sorted(row.found)
                difference = self.interval(seeds, (row, ""), (row, second))
                yield {"a": row.name, "b": name, "seeds": seeds, "measured_alike": True, "difference": difference}

    def interval(self, seeds: Sequence[int], a: Series, b: Series | None = None) -> dict[str, float] | None:
        """Of the mean of `a`, or of a − b paired by seed and prompt; None where it cannot be told."""
        known = self._draws(tuple(seeds))
        if a not in known or (b and b not in known):
            return None
        mean, means = known[a]
        if b:
            mean, means = mean - known[b][0], means - known[b][1]
        return percentile_interval(mean, means).as_dict()

    def _draws(self, seeds: tuple[int, ...]) -> dict[Series, tuple[float, Any]]:
        """Mean and resampled means of every series that knows all of these seeds."""
        if seeds not in self._resampled:
            tables = {
                key: [by_seed[seed] for seed in seeds]
                for key, by_seed in self._values.items()
                if seeds and self.prompts and all(by_seed.get(seed) for seed in seeds)
            }
            drawn = crossed_resamples(list(tables.values()), seed=0) if tables else ()
            self._resampled[seeds] = {
                key: (sum(map(sum, table)) / (len(seeds) * len(self.prompts)), means)
                for (key, table), means in zip(tables.items(), drawn, strict=True)
            }
        return self._resampled[seeds]

    def _by_seed(self, row: Row, title: str) -> dict[int, list[float]]:
        """One value a prompt; [] where the metric is not known."""
        found = {}
        for seed, one in row.found.items():
            values = one.result["values"]["policies"].get(title or one.policy, {}).get(self.metric, [])
            by_id = dict(zip(one.result["values"]["ids"], values, strict=False))
            found[seed] = [by_id[prompt] for prompt in self.prompts] if values else []
        return found

    def _measure(self, one: Found) -> tuple[Any, Any]:
        """What decides what a value means: the questions, and for a learned reward the model that gave it."""
        scores = one.result["scores"]
        scorer = (scores.get("scorers") or {}).get("held_out_rm") if self.metric == "held_out_reward" else None
        return (scores.get("evaluation_set") or {}).get("digest"), scorer
