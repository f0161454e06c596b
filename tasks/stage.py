"""The one adapter between a stage function and `python -m tasks.<stage>`, which is what dvc.yaml runs.

It reads the stage's own section of params.yaml, gives the function its paths, a scratch folder that survives a kill,
and a log; it moves the finished output into place; and it maps errors to exit codes. Stage functions know none of this.
"""

import argparse
import ctypes
import fcntl
import hashlib
import inspect
import os
import select
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_type_hints

import psutil

from rlhf.errors import Busy, PreflowError
from tasks import environment
from tasks.config import ConfigError, Section, read_yaml
from tasks.graph import load_graph, stage_key
from tasks.journal import Log, home, new_folder
from tasks.witness import by_hand, follow, origin, outputs, used

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Place:
    """Where one attempt at a stage works."""

    root: Path
    key: str
    scratch: Path
    journal: Path
    outs: tuple[str, ...]


def main(function: Callable[..., None]) -> None:
    """Run `function` as a program: the bottom line of every stage module. Ends the process with the exit code."""
    _die_with_parent()
    name = function.__name__
    arguments = _parser(function).parse_args()
    try:
        code = _run(function, arguments)
    except PreflowError as error:
        print(f"{name}: {error}", file=sys.stderr)
        code = error.exit_code
    sys.exit(code)


def _run(function: Callable[..., None], arguments: argparse.Namespace) -> int:
    name = function.__name__
    root = Path.cwd()
    environment.check(root)
    inputs = _inputs(function, arguments, read_yaml(root / "params.yaml"))
    place = _place(root, name)
    log = Log(place.journal, name)
    with _held(place.scratch):
        if _forced():
            shutil.rmtree(place.scratch)
            place.scratch.mkdir()
        _start(log, place, inputs, arguments.params)
        try:
            _work(function, inputs, Path(arguments.out), place, log)
        except BaseException as error:
            code = error.exit_code if isinstance(error, PreflowError) else 1
            log.event("end", status="FAILED", exit_code=code, reason=str(error) or type(error).__name__)
            raise
        log.event("end", status="FINISHED", exit_code=0, reason="", outs=outputs(root, place.outs), used=used())
    return 0


def _work(function: Callable[..., None], inputs: dict[str, Any], out: Path, place: Place, log: Log) -> None:
    """Write into a temporary folder beside `out`, then move every finished piece into place."""
    staging = out.parent / f".tmp-{out.name}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    extra = {"scratch": place.scratch, "log": log, "out": staging}
    wanted = inspect.signature(function).parameters
    function(**inputs, **{key: value for key, value in extra.items() if key in wanted})
    out.mkdir(parents=True, exist_ok=True)
    for child in sorted(staging.iterdir()):
        target = out / child.name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        os.replace(child, target)
    staging.rmdir()


def _parser(function: Callable[..., None]) -> argparse.ArgumentParser:
    doc = inspect.getdoc(sys.modules["__main__"]) or inspect.getdoc(function) or ""
    parser = argparse.ArgumentParser(
        prog=f"python -m tasks.{function.__name__}", description=doc, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--params", required=True, help="section of params.yaml that configures this stage")
    for name, optional in _paths(function).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, required=not optional, metavar="PATH")
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="folder to write")
    return parser


def _paths(function: Callable[..., None]) -> dict[str, bool]:
    """Path parameters of a stage function, and whether each may be left out."""
    found = {}
    for name, kind in get_type_hints(function).items():
        if name in ("out", "scratch", "return"):
            continue
        if kind is Path:
            found[name] = False
        elif isinstance(kind, UnionType) and Path in kind.__args__:
            found[name] = True
    return found


def _inputs(function: Callable[..., None], arguments: argparse.Namespace, params: Mapping[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(function)
    config = _section(hints["config"], params, arguments.params)
    inputs: dict[str, Any] = {"config": config}
    if "seed" in hints:
        inputs["seed"] = int(params.get("seed", 0))
    if "algorithm" in hints:
        chosen: str = config.algorithm  # type: ignore[attr-defined]
        blocks = params.get("algorithms") or {}
        variant = _variant(hints["algorithm"], chosen, arguments.params)
        inputs["algorithm"] = _section(variant, blocks, chosen, prefix="algorithms.")
    for name in _sections(hints):
        inputs[name] = _section(hints[name], params, name)
    for name in _paths(function):
        inputs[name] = getattr(arguments, name)
    return inputs


def _sections(hints: Mapping[str, Any]) -> list[str]:
    """Parameters that are sections shared by several stages, under the names they have in params.yaml."""
    own = ("config", "algorithm", "return")
    return [
        name for name, kind in hints.items() if name not in own and isinstance(kind, type) and issubclass(kind, Section)
    ]


def _section(cls: type[Section], params: Mapping[str, Any], name: str, prefix: str = "") -> Section:
    values = params.get(name)
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"params.yaml: `{prefix}{name}` must hold `key: value` lines")
    return cls.parse(values, f"{prefix}{name}")


def _variant(union: Any, name: str, section: str) -> type[Section]:
    """The algorithm's own config class: the member of the union that has its name."""
    members = {member.name: member for member in getattr(union, "__args__", (union,))}
    if name not in members:
        raise ConfigError(f"{section}.algorithm: `{name}` is unknown; there are {', '.join(members)}")
    found: type[Section] = members[name]
    return found


def _place(root: Path, name: str) -> Place:
    graph = load_graph(root)
    stage = os.environ.get("DVC_STAGE", name).split(":")[-1]
    node = graph.stages.get(stage)
    key = stage_key(node, root) if node else ""
    if "DVC_STAGE" not in os.environ:
        # Typed by hand, with arguments of its own: it must not share checkpoints with what DVC runs.
        key = hashlib.sha256(f"{key} {sys.argv}".encode()).hexdigest()
    scratch = home(root) / "scratch" / f"{stage}-{key[:16]}"
    scratch.mkdir(parents=True, exist_ok=True)
    run = os.environ.get("PREFLOW_RUN") or by_hand(root)
    journal = new_folder(root, run, stage)
    return Place(root=root, key=key, scratch=scratch, journal=journal, outs=node.outs if node else ())


def _start(log: Log, place: Place, inputs: Mapping[str, Any], section: str) -> None:
    """Tell the journal what runs here, with the configuration under the names it has in params.yaml."""
    config = {section: inputs["config"].model_dump(mode="json")}
    if "algorithm" in inputs:
        config[f"algorithms.{inputs['config'].algorithm}"] = inputs["algorithm"].model_dump(mode="json")
    shared = {name: value for name, value in inputs.items() if name not in ("config", "algorithm")}
    config |= {name: value.model_dump(mode="json") for name, value in shared.items() if isinstance(value, Section)}
    if "seed" in inputs:
        config["seed"] = inputs["seed"]
    log.event(
        "start",
        stage=place.journal.name.rsplit("-", 1)[0],
        key=place.key,
        root=str(place.root),
        config=config,
        **origin(),
    )
    follow(place.root, place.journal.parent)


@contextmanager
def _held(scratch: Path) -> Iterator[None]:
    """One writer a stage key: an advisory lock that the kernel drops when the process dies, however it dies."""
    with scratch.with_suffix(".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Busy(f"{scratch.name} is already being run by process {file.read() or 'unknown'}") from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield


def _die_with_parent() -> None:
    """A killed `dvc` must not leave a trainer behind, which would hold the machine and race its successor."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)
    starter = origin()["owner"]["pid"]
    if starter not in (os.getpid(), parent):  # a shell stands between us and dvc, and would outlive it
        threading.Thread(target=_end_with, args=[starter], daemon=True).start()


def _end_with(pid: int) -> None:
    with suppress(ProcessLookupError):
        select.select([os.pidfd_open(pid)], [], [])
    os.kill(os.getpid(), signal.SIGTERM)


def _forced() -> bool:
    """Whether dvc was told to run this stage in any case (`-f`): then nothing is taken up from an earlier attempt."""
    words = psutil.Process(origin()["owner"]["pid"]).cmdline()
    return any(Path(word).name == "dvc" for word in words[:3]) and not {"-f", "--force"}.isdisjoint(words)
