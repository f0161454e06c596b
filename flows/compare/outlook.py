"""What a comparison is going to do, told before it begins."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flows import profiles
from flows.compare import store
from flows.compare.checks import changes, key_of
from flows.compare.graph import read
from flows.compare.grid import Asked, Cell, values_of
from flows.compare.work import pending
from flows.history import seconds_before
from tasks.config import ConfigError
from tasks.graph import graph_of

ONCE, A_SEED, A_CELL, IN_PART = "once for all cells", "once a seed", "once a cell", "once for several cells"


def refuse_idle(root: Path, asked: Asked, cells: Sequence[Cell], say: Callable[[str], None]) -> None:
    """Settings that change no policy leave nothing to compare; a line on those that change less than one may think."""
    if not asked.settings:
        return
    plain = profiles.resolve(root, asked.profile)
    graphs = []
    for cell in {cell.algorithm: cell for cell in cells}.values():
        graphs.append((graph_of(read(cell.graph), profiles.with_settings(plain, cell.settings)), cell.graph))
    for setting in asked.settings:
        found = {changes(graph, text, key_of(setting)) for graph, text in graphs}
        if found == {""}:
            say(f"--set {setting}: no stage of these cells reads it")
        elif len(values_of(setting)) > 1 and "policies" not in found:
            if "measurement" not in found:
                raise ConfigError(f"--set {setting}: changes no policy and no measurement of one; nothing to compare")
            say(f"--set {setting}: changes no policy, only how policies are measured")


def shared(cells: Sequence[Cell]) -> dict[str, list[str]]:
    """The stages of a comparison by how often they run, in the order of the graph."""
    users: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells:
        for name, signature in cell.signatures.items():
            users.setdefault(name, {}).setdefault(signature, []).append(cell)
    found: dict[str, list[str]] = {ONCE: [], A_SEED: [], IN_PART: [], A_CELL: []}
    seeds = len({cell.seed for cell in cells})
    for name, groups in users.items():
        if all(len(group) == 1 for group in groups.values()):
            often = A_CELL
        elif len(groups) == 1:
            often = ONCE
        elif len(groups) == seeds and all(len({cell.seed for cell in group}) == 1 for group in groups.values()):
            often = A_SEED
        else:
            often = IN_PART
        found[often].append(name)
    return {often: names for often, names in found.items() if names}


def timed_by_runs(root: Path, asked: Asked, cells: Sequence[Cell]) -> dict[str, float]:
    """Seconds by kind of stage, as plain runs of this checkout took them: what other comparisons need not have run."""
    plain = profiles.resolve(root, asked.profile)
    found: dict[str, float] = {}
    for cell in {cell.algorithm: cell for cell in cells}.values():
        params = profiles.with_settings(plain, cell.settings)
        before = seconds_before(root, graph_of(read(cell.graph), params), params, asked.profile)
        found |= {store.kind(cell, name): seconds for name, seconds in before.items()}
    return found


def untimed(root: Path, cells: Sequence[Cell], by_runs: Mapping[str, float]) -> list[str]:
    """Kinds of stages that are to run and were never timed, so that there is no estimate."""
    return sorted(set(pending(root, cells).values()) - by_runs.keys() - store.seconds_by_kind(root).keys())
