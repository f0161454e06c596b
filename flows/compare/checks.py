"""What the command line of a comparison may not ask for."""

from collections.abc import Mapping, Sequence
from typing import Any

from flows.compare.graph import Method, method_of, reads
from flows.hints import KINDS, module_of
from tasks.config import ConfigError
from tasks.graph import Graph, lookup
from tasks.lineage import policies_of


def choose(algorithms: Sequence[str], known: Sequence[Method], stage: str, profile: str) -> dict[str, Method]:
    """The method of each algorithm.

    Raises:
        ConfigError: none has it, or a name is missing.
    """
    names = list(dict.fromkeys(name for method in known if stage in ("", method.stage) for name in method.algorithms))
    there = f"there are: {', '.join(names) or 'none'}"
    for name in algorithms:
        if not name:
            raise ConfigError(f"--algorithm {','.join(algorithms)}: a name is missing; {there}")
        usual = name.lower().replace("-", "_")
        if name not in names and usual in names:
            raise ConfigError(f"--algorithm {name}: no stage of this graph has it; did you mean `{usual}`?")
        if not stage and name not in names and (kind := KINDS.get(module_of(name))):
            whose = f"profile {profile}" if profile else "this graph"
            raise ConfigError(f"--algorithm {name}: {whose} has no {kind} stage to vary; {there}")
    return {name: method_of(name, known, stage) for name in dict.fromkeys(algorithms)}


def refuse_empty(option: str, values: Sequence[str]) -> None:
    """Each comma has a value on either side."""
    if not all(values):
        raise ConfigError(f"{option} {','.join(values)}: a value is missing")


def refuse_own(settings: Sequence[str], known: Sequence[Method]) -> None:
    """Algorithm and seed have options of their own."""
    taken = {"seed": "--seeds"} | {f"{method.section}.algorithm": "--algorithm" for method in known}
    for setting in settings:
        if key_of(setting) in taken:
            raise ConfigError(f"--set {setting}: a comparison takes this from {taken[key_of(setting)]}")


def refuse_both(settings: Sequence[str]) -> None:
    """No key is given twice, as the last would win."""
    keys = [key_of(setting) for setting in settings]
    for number, key in enumerate(keys):
        for other in keys[:number]:
            if key == other:
                also = " (--lr sets it too)" if not settings[number].partition("=")[2] else ""
                raise ConfigError(f"--set {key}: given twice{also}; give the values with commas: --set {key}=1,2")
            if key.startswith(f"{other}.") or other.startswith(f"{key}."):
                raise ConfigError(
                    f"--set {other} and {key}: one holds the other, and the last would win; give only one"
                )


def refuse_other(values: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """A whole section in `--set` may bring another algorithm along."""
    for key, wanted in own.items():
        if (found := lookup(values, key)) != wanted:
            raise ConfigError(
                f"--set makes {key} {found} in a cell of {wanted}: leave it out; a comparison takes it from "
                f"{'--seeds' if key == 'seed' else '--algorithm'}"
            )


def changes(graph: Graph, text: str, key: str) -> str:
    """What the parameter `key` changes: "policies", "measurement" of the same policies, "verdict" on them, "" nothing.

    `text` is the dvc.yaml of `graph`.
    """
    if not reads(graph, text, key):
        return ""
    making = graph.ancestors({maker for path in policies_of(graph).values() for maker in graph.makers(path)})
    if reads(_part(graph, making), text, key):
        return "policies"
    measuring = graph.ancestors({name for name, stage in graph.stages.items() if "tasks.evaluate" in stage.cmd.split()})
    return "measurement" if reads(_part(graph, measuring), "", key) else "verdict"


def key_of(setting: str) -> str:
    """`a.b` of `a.b=1`."""
    return setting.partition("=")[0].strip()


def _part(graph: Graph, names: set[str]) -> Graph:
    return Graph({name: stage for name, stage in graph.stages.items() if name in names})
