"""What the cells of one call of `preflow compare` begin with, whatever becomes of the checkout meanwhile."""

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TypeVar

from flows import champion, dvc, given, launch, profiles, workspace, worktrees
from flows.compare import store
from flows.compare.graph import read
from flows.compare.grid import INBOX, Cell
from rlhf.errors import Preempted, PreflowError
from tasks.graph import graph_of

RUNS = "refs/preflow/runs"
T = TypeVar("T")


@dataclass(frozen=True)
class Common:
    """What all cells of a call begin with, whatever becomes of the checkout meanwhile."""

    taken: workspace.Snapshot
    cache: Path
    resolved: Mapping[str, profiles.Resolved]
    """By key of the cell."""


def begin_with(root: Path, cells: Sequence[Cell], profile: str, name: str) -> Common:
    """Snapshot the code, settle the configuration of all cells, and look at what there is to go on from.

    Raises:
        PreflowError: a stage reads a file that the snapshot does not hold.
    """
    asked = {cell.key: profiles.resolve(root, profile, cell.settings) for cell in cells}
    resolved = {key: given.settle(root, one, lambda _: None) for key, one in asked.items()}
    taken = workspace.snapshot(root, f"compare-{launch.new_name()}", f"preflow compare {name}")
    _refuse_left_out(root, cells, taken)
    cache = dvc.cache(root)
    store.forget_lost(root, cache, (one for cell in cells for one in cell.signatures.values()))
    worktrees.sweep(root)
    return Common(taken, cache, resolved)


def _refuse_left_out(root: Path, cells: Iterable[Cell], taken: workspace.Snapshot) -> None:
    """A stage that reads what no snapshot holds would be another one in every cell."""
    graphs = [graph_of(read(text), None) for text in dict.fromkeys(cell.graph for cell in cells)]
    read_by_some = {dep.rstrip("/") for graph in graphs for stage in graph.stages.values() for dep in stage.deps}
    made = {dep for graph in graphs for dep in read_by_some if graph.makers(dep)}
    own = {dep for dep in read_by_some - made if not _inside(dep, INBOX) and not _inside(dep, champion.FOLDER)}
    kept = set(workspace.git(root, "ls-tree", "-r", "-t", "-z", "--name-only", taken.commit).split("\0"))
    lost = {path for path in taken.left_out if any(_inside(path, dep) for dep in own)}
    lost |= {dep for dep in own if "$" not in dep and dep not in kept and (root / dep).exists()}
    inside = {dep for dep in lost if not Path(dep).is_absolute() and not dep.startswith("..")}
    if inside:
        raise PreflowError(
            f"{', '.join(sorted(inside))}: stages read it, and runs are kept without it, as it looks like a secret or "
            "git does not know it; mend that, or take it out of `deps`"
        )


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def forget_snapshots(root: Path) -> None:
    """Delete the refs of `begin_with`: the cells' own commits have what their comparison began with as their parent."""
    for ref in workspace.git(root, "for-each-ref", "--format=%(refname)", f"{RUNS}/compare-*").splitlines():
        workspace.git(root, "update-ref", "-d", ref)


def free_name(root: Path, name: str, cells: Sequence[Cell]) -> str:
    """`name`, or `name-2` and so on where its report is of a grid that this one does not go on with."""
    asked = {(cell.algorithm, *cell.settings) for cell in cells}
    for number in count(1):
        given = name if number == 1 else f"{name}-{number}"
        try:
            there = json.loads((root / "reports" / "compare" / given / "compare.json").read_text(encoding="utf-8"))
            if asked.issuperset((cell["algorithm"], *cell["settings"]) for cell in there["cells"]):
                break
        except (OSError, ValueError, KeyError, TypeError):
            break
    return given


def heeding(cancel: threading.Event, do: Callable[[], T]) -> T:
    """What `do` returns; it is left to itself, in a thread that ends with this process, when `cancel` is set.

    Raises:
        Preempted: it was.
    """
    done: list[T] = []
    broken: list[BaseException] = []

    def work() -> None:
        try:
            done.append(do())
        except BaseException as error:
            broken.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
        if cancel.is_set() and thread.is_alive():
            raise Preempted("stopped; the same command goes on from here")
    if broken:
        raise broken[0]
    return done[0]
