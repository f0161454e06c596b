"""What MLflow is told of a run, kept beside its journals until it has heard it all: the checkout goes on meanwhile.

As a run begins its graph and parameters; when it has ended those again, as stages read the tree as they find it, with
its dvc.lock and the small files of stages that are done. Where there is no room for that, the checkout has to do.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import filterfalse, islice
from pathlib import Path

from rlhf.records import read_rows, write_rows
from tasks.inside import leads_out
from tasks.lineage import Tree, read_tree

DESCRIBED = ("params.yaml", "dvc.yaml", "environment.json")
"""What a run is to do, and with what."""
LOCK = "dvc.lock"
NUM_SAMPLES = 24
"""Rows of every policy's completions that are shown: the first by id, so those of all runs on one evaluation set are
the same."""
_FIGURES = ("scores.json", "gate.json", "metrics.json")


def keep_beginning(root: Path, to: Path) -> None:
    """Copy what describes a run in the checkout `root`."""
    with _made(to) as draft:
        _copy(root, draft, DESCRIBED)


def keep_end(root: Path, to: Path, done: Iterable[str]) -> None:
    """Copy what is told of a run that has ended in the checkout `root`.

    Args:
        done: stages whose outputs are this run's, run or taken from the cache; what else lies there is of others.
    """
    with _made(to) as draft:
        tree = read_tree(root)
        _copy(root, draft, (*DESCRIBED, LOCK))
        for stage in set(done) & set(tree.graph.stages):
            for out in filterfalse(leads_out, tree.graph.stages[stage].outs):  # of the project, and so of the draft
                _keep_small(root, draft, out)
            _mark_models(tree, draft, stage)


def forget(*kept: Path) -> None:
    """Remove what was kept of a run, as it has been told; drafts that a kill has left, too."""
    for path in kept:
        for folder in (path, _draft(path)):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _made(to: Path) -> Iterator[Path]:
    """A folder to fill, which is `to` when all is in it; nothing is left, and nothing raised, where that goes wrong."""
    forget(to)
    try:
        _draft(to).mkdir(parents=True)
        yield _draft(to)
        os.replace(_draft(to), to)
    except Exception:  # whatever it is: a run must have its end, for which the disk may have just room
        forget(to)


def _keep_small(root: Path, draft: Path, out: str) -> None:
    if Path(out).name in _FIGURES:
        _copy(root, draft, [out])
    elif Path(out).name == "completions":
        for path in (root / out).glob("*.jsonl"):
            write_rows(draft / out / path.name, islice(read_rows(path), NUM_SAMPLES))
    else:
        _copy(root, draft, [f"{out}/report.html"])


def _mark_models(tree: Tree, draft: Path, stage: str) -> None:
    """Weights stay where they are: an empty file says that a folder has some, as `Tree` looks for it."""
    for item in (*tree.deps(stage), *tree.outs(stage)):
        if (tree.root / item.path).is_dir() and not leads_out(item.path):
            (draft / item.path).mkdir(parents=True, exist_ok=True)
            if item.is_model:
                (draft / item.path / "model.safetensors").touch()


def _copy(root: Path, draft: Path, names: Iterable[str]) -> None:
    for name in names:
        if (root / name).is_file():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, draft / name)


def _draft(to: Path) -> Path:
    return to.with_name(f".{to.name}")
