"""What a comparison consists of: one cell for each algorithm, setting and seed that makes a difference."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from flows import champion, profiles
from flows.compare_graph import Method, behind, method_of, methods, read, reads, signatures, trimmed
from tasks.config import ConfigError
from tasks.graph import Graph, digest, graph_of, lookup
from tasks.lineage import policies_of

INBOX = "data/inbox"
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
    """By stage, see `compare_graph.signatures`."""

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
        ConfigError: neither.
    """
    try:
        numbers = [int(word) for word in text.split(",") if word.strip()]
    except ValueError:
        numbers = []
    listed = "," in text
    if not numbers or min(numbers) < (0 if listed else 1):
        raise ConfigError(f"--seeds {text}: expected a count (--seeds 5) or a list (--seeds 0,3,7)")
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


def grid(root: Path, asked: Asked) -> list[Cell]:
    """The cells of a comparison, algorithm by algorithm; those that would be one and the same run are one.

    Raises:
        ConfigError: an unknown algorithm, stage, profile or key (with the nearest name), or a value not allowed.
    """
    plain = profiles.resolve(root, asked.profile)
    text = (plain.dvc_yaml or root / "dvc.yaml").read_text(encoding="utf-8")
    known = methods(text)
    chosen = {name: method_of(name, known, asked.stage) for name in dict.fromkeys(asked.algorithms)}
    _refuse_own(asked.settings, known)
    _refuse_twice([*asked.settings, *(f"algorithms.{name}.lr=" for name in chosen if asked.rates)])
    axes = [values_of(setting) for setting in asked.settings]
    make = _Maker(plain, text, outside(root, plain.values, not plain.own_sources), known)
    cells: dict[str, Cell] = {}
    for algorithm, method in chosen.items():
        rates = [f"algorithms.{algorithm}.lr={rate}" for rate in asked.rates]
        lists = [*axes, rates] if rates else axes
        swept = {setting for values in lists if len(values) > 1 for setting in values}
        swept |= {f"with {algorithm}"} if len(chosen) > 1 else set()
        for picked in product(*lists):
            for seed in asked.seeds:
                cell = make.cell(algorithm, method, picked, swept, seed)
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

    def cell(self, algorithm: str, method: Method, picked: Sequence[str], swept: set[str], seed: int) -> Cell:
        chosen = [f"{method.section}.algorithm={algorithm}", f"seed={seed}"]
        values = profiles.with_settings(self.plain, [*chosen, *picked])
        _hold_own(values, {f"{method.section}.algorithm": algorithm, "seed": seed})
        text, described = _trimmed(self.text, method.stage)
        graph = graph_of(described, values)
        heeded = [setting for setting in picked if reads(graph, text, _key(setting))]
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
        return Cell(
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


def _refuse_own(settings: Sequence[str], known: Sequence[Method]) -> None:
    taken = {"seed": "--seeds"} | {f"{method.section}.algorithm": "--algorithm" for method in known}
    for setting in settings:
        if _key(setting) in taken:
            raise ConfigError(f"--set {setting}: a comparison takes this from {taken[_key(setting)]}")


def _refuse_twice(settings: Sequence[str]) -> None:
    keys = [_key(setting) for setting in settings]
    for number, key in enumerate(keys):
        for other in keys[:number]:
            if key == other:
                also = " (--lr sets it too)" if not settings[number].partition("=")[2] else ""
                raise ConfigError(f"--set {key}: given twice{also}; give the values with commas: --set {key}=1,2")
            if key.startswith(f"{other}.") or other.startswith(f"{key}."):
                raise ConfigError(
                    f"--set {other} and {key}: one holds the other, and the last would win; give only one"
                )


def _hold_own(values: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """A whole section in `--set` may bring another algorithm along."""
    for key, wanted in own.items():
        if (found := lookup(values, key)) != wanted:
            raise ConfigError(
                f"--set makes {key} {found} in a cell of {wanted}: leave it out; a comparison takes it from "
                f"{'--seeds' if key == 'seed' else '--algorithm'}"
            )


def _key(setting: str) -> str:
    return setting.partition("=")[0].strip()
