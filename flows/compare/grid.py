"""What a comparison consists of: one cell for each algorithm, setting and seed that makes a difference."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from flows import champion, given, profiles
from flows.compare.checks import choose, key_of, refuse_both, refuse_empty, refuse_other, refuse_own
from flows.compare.graph import Method, behind, methods, read, reads, signatures, trimmed
from tasks.config import ConfigError
from tasks.graph import Graph, digest, graph_of
from tasks.lineage import policies_of

INBOX = "data/inbox"
MAX_SEEDS = 100
FORMAT = 1  # of what a finished cell leaves; another one has other keys


@dataclass(frozen=True)
class Asked:
    """The command line of a comparison."""

    algorithms: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    profile: str = ""
    settings: tuple[str, ...] = ()
    """`key.path=value[,value…]`"""
    rates: tuple[str, ...] = ()
    """Learning rates, each for the algorithm of its cell."""
    stage: str = ""
    name: str = ""
    command: str = ""


@dataclass(frozen=True)
class Cell:
    """One run of a comparison."""

    algorithm: str
    seed: int
    varied: tuple[str, ...]
    """What of the grid it reads, besides algorithm and seed: `key.path=value`, in the order of the command line."""
    settings: tuple[str, ...]
    """All of `--set` that makes its params.yaml."""
    stage: str
    """The method's own stage."""
    policy: str
    """Name of that stage's policy in scores.json."""
    policies: Mapping[str, tuple[str, ...]]
    """For each policy in scores.json what its numbers depend on, by its making or its measuring: those of `varied`, and
    `with ALGORITHM` where that varies."""
    graph: str
    """Text of its dvc.yaml."""
    signatures: Mapping[str, str]
    """By stage, see `flows.compare.graph.signatures`."""

    @property
    def key(self) -> str:
        """A digest of all that its results depend on: the method's stage, commands, parameters, code, outside data."""
        parts = json.dumps([FORMAT, self.stage, dict(self.signatures)])
        return hashlib.sha256(parts.encode()).hexdigest()[:32]

    @property
    def name(self) -> str:
        """For people."""
        return " ".join([self.algorithm, *self.varied, f"seed {self.seed}"])

    @property
    def label(self) -> str:
        """Of its commit."""
        return " ".join(["compare", self.algorithm, *sorted(self.settings)])


def parse_seeds(text: str) -> tuple[int, ...]:
    """`5` is five seeds from 0 on, `0,3,7` are those.

    Raises:
        ConfigError: neither, or more than a hundred.
    """
    try:
        numbers = [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        numbers = []
    listed = "," in text
    if not numbers or min(numbers) < (0 if listed else 1):
        raise ConfigError(f"--seeds {text}: expected a count (--seeds 5) or a list (--seeds 0,3,7)")
    if (len(numbers) if listed else numbers[0]) > MAX_SEEDS:
        raise ConfigError(f"--seeds {text}: at most {MAX_SEEDS} seeds a comparison")
    return tuple(dict.fromkeys(numbers)) if listed else tuple(range(numbers[0]))


def values_of(setting: str) -> list[str]:
    """`a.b=1,2` as `a.b=1` and `a.b=2`; commas inside brackets, braces or quotes separate nothing."""
    key, sign, text = setting.partition("=")
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        else:
            depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return [f"{key}{sign}{part.strip()}" for part in parts]


def grid(root: Path, asked: Asked, say: Callable[[str], None] = lambda _: None) -> list[Cell]:
    """The cells of a comparison, algorithm by algorithm; those that would be one and the same run are one.

    Raises:
        ConfigError: an unknown algorithm, stage, profile or key (with the nearest name), or a value not allowed.
        PreflowError: a model or data that it names are not there.
    """
    own = [setting for setting in asked.settings if profiles.names_own(setting)]
    if several := [setting for setting in own if len(values_of(setting)) > 1]:
        raise ConfigError(f"--set {several[0]}: all cells of a comparison have the same model and data; give one")
    plain = given.settle(root, profiles.resolve(root, asked.profile, own), say)
    text = (plain.dvc_yaml or root / "dvc.yaml").read_text(encoding="utf-8")
    known = methods(text)
    chosen = choose(asked.algorithms, known, asked.stage, asked.profile)
    refuse_own(asked.settings, known)
    refuse_empty("--lr", asked.rates)
    refuse_both([*asked.settings, *(f"algorithms.{name}.lr=" for name in chosen if asked.rates)])
    axes = [values_of(setting) for setting in asked.settings]
    make = _Maker(plain, text, outside(root, plain.values, not plain.own_sources), known)
    cells: dict[str, Cell] = {}
    for algorithm, method in chosen.items():
        rates = [f"algorithms.{algorithm}.lr={rate}" for rate in asked.rates]
        lists = [*axes, rates] if rates else axes
        swept = {setting for values in lists if len(values) > 1 for setting in values}
        swept |= {f"with {algorithm}"} if len(chosen) > 1 else set()
        for picked in product(*lists):
            for cell in make.cells(algorithm, method, picked, swept, asked.seeds):
                cells.setdefault(cell.key, cell)
    return list(cells.values())


def outside(tree: Path, values: Mapping[str, Any], with_inbox: bool) -> Callable[[str], str]:
    """Digests of what no stage makes, as the tree of a cell has it: the champion is none, as no cell may have another.

    What sources bring into data/inbox is known by its sha256, also before they have.
    """
    sources = [dict(source) for source in values.get("sources") or ()]
    brought = [f"{INBOX}/{source['target']}" for source in sources]

    @cache
    def look(path: str) -> str:
        if path == champion.FOLDER:
            return "none"
        if path != INBOX and not path.startswith(f"{INBOX}/"):
            return digest(tree / path)
        files = [file for file in sorted((tree / path).rglob("*")) if file.is_file()] if with_inbox else []
        own = {file.relative_to(tree).as_posix(): digest(file) for file in files}
        for name in list(own):
            theirs = any(name == target or name.startswith(f"{target}/") for target in brought)
            if theirs or name == f"{INBOX}/sources.json":
                del own[name]
        return json.dumps([sources, own], default=str)

    return look


@dataclass(frozen=True)
class _Maker:
    plain: profiles.Resolved
    text: str
    outside: Callable[[str], str]
    known: Sequence[Method]

    def cells(
        self, algorithm: str, method: Method, picked: Sequence[str], swept: set[str], seeds: Sequence[int]
    ) -> Iterator[Cell]:
        """One for each seed; the graph is read once for all of them, unless it names the seed."""
        first, graph, values = self.cell(algorithm, method, picked, swept, seeds[0])
        yield first
        for seed in seeds[1:]:
            if "${seed}" in self.text:
                yield self.cell(algorithm, method, picked, swept, seed)[0]
                continue
            settings = (first.settings[0], f"seed={seed}", *first.settings[2:])
            own = signatures(graph, {**values, "seed": seed}, self.outside)
            yield replace(first, seed=seed, settings=settings, signatures=own)

    def cell(
        self, algorithm: str, method: Method, picked: Sequence[str], swept: set[str], seed: int
    ) -> tuple[Cell, Graph, Mapping[str, Any]]:
        """A cell, its graph and its configuration."""
        chosen = [f"{method.section}.algorithm={algorithm}", f"seed={seed}"]
        values = profiles.with_settings(self.plain, [*chosen, *picked])
        refuse_other(values, {f"{method.section}.algorithm": algorithm, "seed": seed})
        text, described = _trimmed(self.text, method.stage)
        graph = graph_of(described, values)
        heeded = [setting for setting in picked if reads(graph, text, key_of(setting))]
        policies = policies_of(graph)
        candidate = (values.get("gate") or {}).get("candidate", "best")
        own = [] if candidate in ("best", *policies) else ["gate.candidate=best"]
        settings = [*chosen, *heeded, *own]
        values = profiles.with_settings(self.plain, settings)
        graph = graph_of(described, values)
        varied = tuple(setting for setting in heeded if setting in swept)
        shown = [one for one in (f"with {algorithm}", *varied) if one in swept]
        own_policy = _policy(policies, graph, method.stage)
        reached = {name: behind(graph, path, shown, method.stage) for name, path in policies.items()}
        cell = Cell(
            algorithm=algorithm,
            seed=seed,
            varied=varied,
            settings=tuple(settings),
            stage=method.stage,
            policy=own_policy,
            policies=reached | {own_policy: varied},
            graph=text,
            signatures=signatures(graph, values, self.outside),
        )
        return cell, graph, values


@cache
def _trimmed(text: str, stage: str) -> tuple[str, Any]:
    """The graph of a method as text and as it reads: the same for every cell of the method."""
    short = trimmed(text, stage)
    return short, read(short)


def _policy(policies: Mapping[str, str], graph: Graph, stage: str) -> str:
    """The name under which the policy of a stage is evaluated."""
    found = [name for name, path in policies.items() if graph.producer(path) == stage]
    if not found:
        raise ConfigError(f"stage {stage}: no stage evaluates its policy; add NAME=PATH to --policies of `evaluate`")
    return found[0]
