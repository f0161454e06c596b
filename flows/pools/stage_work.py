"""One stage on a worker: its inputs from git and the DVC remote, the same command as anywhere, its outputs back."""

import platform
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from flows import dvc, guards, worktrees
from flows.pools.exchange import Exchange
from flows.pools.mirror import Mirror
from flows.pools.orders import Answer, Order
from flows.releases_refs import QUIET, last_line, remote_of
from flows.runner import Place, run_stage
from flows.workspace import git
from rlhf.errors import DependencyDown, PreflowError
from tasks.graph import Graph, load_graph, stage_key
from tasks.journal import home
from tasks.outcome import StageResult

_LOOK = 2.0  # seconds between two looks for a new checkpoint


@dataclass(frozen=True)
class Work:
    """What one attempt works with."""

    root: Path
    """The worker's checkout."""
    order: Order
    exchange: Exchange
    attempt: str
    cancel: threading.Event


def do(work: Work) -> Answer:
    """Do what the order says.

    Raises:
        PreflowError: before the stage began, as git or the DVC remote lacks something.
        DependencyDown: they did not answer, also when the outputs were to be sent.
    """
    order, host = work.order, platform.node()
    with _checkout(work) as tree:
        graph = load_graph(tree)
        restore(tree, graph, order.stage)
        key = stage_key(graph.stages[order.stage], tree)
        scratch = home(work.root) / "scratch" / f"{order.stage}-{key[:16]}"
        place = Place(home(work.root), tree, order.run)
        mirror = Mirror(work.exchange, scratch, work.attempt)
        if mirror.restore():
            _mark_cut_short(place, order.stage)
        with _mirrored(mirror, work.cancel):
            result = run_stage(
                place,
                order.stage,
                on_line=lambda line: print(line, flush=True),
                cancel=work.cancel,
                force=order.force,
            )
        if result.state not in ("ran", "cached"):
            _leave(mirror)
            return Answer(result, host)
        answer = _kept(tree, order.stage, result, host)
        with suppress(DependencyDown):  # it can lie there
            mirror.forget()
        guards.forget(scratch)
        return answer


def restore(tree: Path, graph: Graph, stage: str) -> None:
    """Bring what the stage reads and other stages wrote, as dvc.lock names it.

    Raises:
        DependencyDown: the DVC remote does not have it, or does not answer.
    """
    wanted = inputs_of(graph, stage)
    if wanted and (done := dvc.call(tree, "pull", "--no-run-cache", "--force", "--quiet", *wanted)).returncode != 0:
        raise DependencyDown(f"the DVC remote did not give what {stage} reads: {_last(done.stderr)}")


def inputs_of(graph: Graph, stage: str) -> list[str]:
    """Outputs of other stages that a stage reads, or reads something of, as dvc.yaml has them."""
    deps = graph.stages[stage].deps
    outs = [out for other in graph.stages.values() for out in other.outs]
    return [out for out in outs if any(_within(dep, out) or _within(out, dep) for dep in deps)]


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


@contextmanager
def _checkout(work: Work) -> Iterator[Path]:
    order = work.order
    remote = remote_of(work.root)
    try:
        git(work.root, "fetch", "--quiet", "--no-tags", remote, f"+{order.ref}:{order.ref}", env=QUIET)
        git(work.root, "cat-file", "-e", f"{order.commit}^{{commit}}")
    except PreflowError as error:
        raise DependencyDown(f"the git remote {remote} did not give {order.ref}: {last_line(error)}") from None
    name = f"{order.run}-{order.stage}-{work.attempt[:8]}"
    tree = home(work.root) / "worktrees" / name
    worktrees.sweep(work.root)
    with guards.held(tree.with_suffix(".lock"), name):
        try:
            yield worktrees.add(work.root, name, order.commit, with_inbox=False, with_champion=False)
        finally:
            worktrees.remove(work.root, tree)
            with suppress(PreflowError):
                git(work.root, "update-ref", "-d", order.ref)


@contextmanager
def _mirrored(mirror: Mirror, cancel: threading.Event) -> Iterator[None]:
    """Each new checkpoint goes to the exchange while the stage trains on."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOK):
            with suppress(DependencyDown):  # the next one may be taken
                mirror.push()

    looker = threading.Thread(target=look, daemon=True)
    looker.start()
    try:
        yield
    finally:
        over.set()
        looker.join()


def _leave(mirror: Mirror) -> None:
    """What the stage has saved when it ended, for who goes on."""
    with suppress(DependencyDown):
        mirror.push(whatever=True)


def _mark_cut_short(place: Place, stage: str) -> None:
    """Say that the stage was begun elsewhere: so one that was forced goes on, too, and does not begin anew."""
    folder = place.journals / f"{stage}-0"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "events.jsonl").write_text('{"event": "elsewhere"}\n', encoding="utf-8")


def _kept(tree: Path, stage: str, result: StageResult, host: str) -> Answer:
    """Send the outputs to the DVC remote, and take down what dvc.lock and the run cache say of them."""
    if (done := dvc.call(tree, "push", "--no-run-cache", "--quiet", stage)).returncode != 0:
        raise DependencyDown(f"the DVC remote did not take what {stage} made: {_last(done.stderr)}")
    entry = dvc.entry(tree, stage)
    return Answer(result, host, entry, _run_cache(dvc.cache(tree) / "runs", entry))


def _run_cache(folder: Path, entry: str) -> str:
    """DVC's own note of the stage in its run cache: path and text."""
    (wanted,) = YAML(typ="safe").load(entry).values()
    md5s = [one["md5"] for kind in ("deps", "outs") for one in wanted.get(kind) or ()]
    for path in folder.glob("*/*/*"):
        text = path.read_text(encoding="utf-8")
        if all(md5 in text for md5 in md5s) and YAML(typ="safe").load(text).get("cmd") == wanted["cmd"]:
            return f"{path.relative_to(folder).as_posix()}\n{text}"
    raise PreflowError(f"DVC's run cache in {folder} has nothing of this stage; it can not be handed over")


def _last(text: str) -> str:
    lines: Sequence[str] = text.strip().splitlines() or ["no reason given"]
    return lines[-1].removeprefix("ERROR: ")
