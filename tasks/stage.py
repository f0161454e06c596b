"""The one adapter between a stage function and `python -m tasks.<stage>`, which is what dvc.yaml runs.

It reads the stage's own section of params.yaml, gives the function its paths, a scratch folder that survives a kill, a
folder that all runs share, and a log; it moves the finished output into place; and it maps errors to exit codes. Stage
functions know none of this.
"""

import argparse
import atexit
import inspect
import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import psutil

from rlhf.errors import Preempted, PreflowError
from rlhf.incidents import FOLDER as INCIDENTS
from rlhf.interruption import STOP, Stopped
from rlhf.spending import spent
from tasks import environment, locks, orphans, ranks, scratch
from tasks.arguments import inputs_of, parser
from tasks.config import Section, read_yaml
from tasks.graph import digest, key_of, load_graph, parts_of
from tasks.journal import Log, home, new_folder
from tasks.limits import memory_named, refuse_read_only
from tasks.redact import logged
from tasks.spending import figures
from tasks.witness import by_hand, follow, origin, outputs, used


@dataclass(frozen=True)
class Place:
    """Where one attempt at a stage works."""

    root: Path
    stage: str
    """Its name in dvc.yaml: one module may serve several stages."""
    key: str
    made_of: Mapping[str, str]
    """What the key is a digest of, by name."""
    scratch: Path
    """Of this key alone; survives a kill, not the end of the stage."""
    shared: Path
    """Of this module, whatever the key: for what is kept by a key of its own."""
    journal: Path
    outs: tuple[str, ...]


def main(function: Callable[..., None]) -> None:
    """Run `function` as a program: the bottom line of every stage module. Ends the process with the exit code."""
    STOP.heed()
    if not orphans.is_started_for_us():  # else it does so since its first moment
        orphans.end_with_starter()
    name = function.__name__
    arguments = parser(function).parse_args()
    try:
        code = _run(function, arguments)
    except (PreflowError, Stopped) as error:
        print(logged(f"{name}: {error}"), file=sys.stderr)
        code = error.exit_code
    if orphans.is_started_for_us():
        _leave(code)
    sys.exit(code)  # by hand, a profiler may wait for it


def _leave(code: int) -> NoReturn:
    """End as Python does, without taking thousands of modules apart first, which takes most of a second."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    os._exit(code)


def _run(function: Callable[..., None], arguments: argparse.Namespace) -> int:
    name = function.__name__
    root = Path.cwd()
    environment.check(root)
    refuse_read_only(home(root), Path(arguments.out).parent)
    inputs = inputs_of(function, arguments, read_yaml(root / "params.yaml"))
    if count := ranks.wanted(inputs):
        return ranks.launch(name, count)
    if ranks.number() > 0:
        return _beside(function, inputs, arguments.params)
    place = _place(root, name, arguments.params, inputs)
    if _under_dvc():
        _refuse_unversioned(inputs["config"], arguments, place)
    log = Log(place.journal, place.stage)
    with _alone(place, Path(arguments.out)):
        begun = time.time()
        if _forced() and not _began_before(place):
            shutil.rmtree(place.scratch, ignore_errors=True)
            place = replace(place, shared=place.scratch / "shared")
        resumed = {"resumed": 1.0} if scratch.take(place.scratch, place.stage, place.made_of) else {}
        place.shared.mkdir(parents=True, exist_ok=True)
        _start(log, place, inputs, arguments.params)
        try:
            with memory_named(arguments.params, inputs["config"]):
                _work(function, inputs, Path(arguments.out), place, log)
        except BaseException as error:
            _show_incidents(place, log, begun)
            code = error.exit_code if isinstance(error, PreflowError | Stopped) else 1
            status = "KILLED" if isinstance(error, Preempted | Stopped) else "FAILED"
            reason = logged(str(error)) or type(error).__name__
            log.event("end", status=status, exit_code=code, reason=reason, cost=figures())
            raise
        _show_incidents(place, log, begun)
        left = {
            "outs": outputs(root, place.outs),
            "used": used(),
            "cost": ranks.added_up(figures(home(root))) | resumed,
        }
        log.event("end", status="FINISHED", exit_code=0, reason="", **left)
        scratch.finished(place.scratch)
        if not _under_dvc():  # under a flow the scratch stays until the run is closed
            shutil.rmtree(place.scratch)
    return 0


def _work(function: Callable[..., None], inputs: dict[str, Any], out: Path, place: Place, log: Log) -> None:
    """Write into a temporary folder beside `out`, then move every finished piece into place."""
    staging = out.parent / f".tmp-{out.name}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    extra = {"scratch": place.scratch, "shared": place.shared, "log": log, "out": staging}
    wanted = inspect.signature(function).parameters
    with spent("other"):
        function(**inputs, **{key: value for key, value in extra.items() if key in wanted})
    STOP.refuse_to_go_on()
    out.mkdir(parents=True, exist_ok=True)
    for child in sorted(staging.iterdir()):
        target = out / child.name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        os.replace(child, target)
    staging.rmdir()


def _beside(function: Callable[..., None], inputs: dict[str, Any], section: str) -> int:
    """What every process but the first does: the same work, of which nothing is kept and little is said."""
    with TemporaryDirectory(prefix="preflow-") as name, open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):
        folder = Path(name)
        place = Place(folder, function.__name__, "", {}, folder / "scratch", folder / "shared", folder, ())
        for own in (place.scratch, place.shared):
            own.mkdir()
        with memory_named(section, inputs["config"]):
            _work(function, inputs, folder / "out", place, Log.null())
        ranks.added_up(figures())
    return 0


def _show_incidents(place: Place, log: Log, begun: float) -> None:
    """The journal outlives the scratch folder, and the run's page in MLflow has its files.

    A full disk must not hide how the stage ended.
    """
    with suppress(OSError):
        for path in sorted(place.scratch.glob(f"**/{INCIDENTS}/*.jsonl")):
            if path.stat().st_mtime >= begun:  # others were shown by the attempt before
                kept = log.file(path, INCIDENTS)
                print(f"{place.stage}: what was not finite is kept in {kept}", file=sys.stderr)


def _under_dvc() -> bool:
    return "DVC_STAGE" in os.environ


def _refuse_unversioned(config: Any, arguments: argparse.Namespace, place: Place) -> None:
    """What a setting has the stage write beyond the usual must be among its outs: DVC would not know of it."""
    further: Mapping[str, str] = config.further_outs() if hasattr(config, "further_outs") else {}
    for name, knob in further.items():
        path = (Path(arguments.out) / name).as_posix()
        if path not in place.outs:
            raise PreflowError(
                f"{arguments.params}.{knob} writes {path}, which is not among the outs of stage `{place.stage}`: add "
                f"it there in dvc.yaml, or set {arguments.params}.{knob} to false"
            )


def _typed(parts: Mapping[str, Any], section: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a stage that is typed by hand: it must not share checkpoints with what DVC runs."""
    params, deps = dict(parts.get("params", {})), dict(parts.get("deps", {}))
    for name, value in inputs.items():
        if isinstance(value, Path | Mapping):
            paths = value.values() if isinstance(value, Mapping) else [value]
            deps |= {path.as_posix(): digest(path) for path in paths}
        else:
            plain = value.model_dump(mode="json") if isinstance(value, Section) else value
            params[section if name == "config" else name] = plain
    return {"cmd": shlex.join(sys.argv), "params": params, "deps": deps, "outs": parts.get("outs", ())}


def _place(root: Path, name: str, section: str, inputs: Mapping[str, Any]) -> Place:
    """Where module `name` works, as the stage that DVC says it is, else as the one named like its section."""
    graph = load_graph(root)
    stage = os.environ.get("DVC_STAGE", section if section in graph.stages else name).split(":")[-1]
    node = graph.stages.get(stage)
    parts = parts_of(node, root) if node else {}
    if not (parts and _under_dvc()):
        parts = _typed(parts, section, inputs)
    key = key_of(parts)
    folder = home(root) / "scratch" / f"{stage}-{key[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    run = os.environ.get("PREFLOW_RUN") or by_hand(root)
    journal = new_folder(root, run, stage)
    return Place(
        root=root,
        stage=stage,
        key=key,
        made_of=scratch.made_of(parts, root),
        scratch=folder,
        shared=home(root) / "shared" / name,
        journal=journal,
        outs=node.outs if node else (),
    )


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
        stage=place.stage,
        key=place.key,
        root=str(place.root),
        config=config,
        **origin(),
    )
    follow(place.root, place.journal.parent)


@contextmanager
def _alone(place: Place, out: Path) -> Iterator[None]:
    """One writer a stage key, and one an output folder: stages of other keys and trees write there too."""
    who, key = f"stage {place.stage}", place.scratch.with_suffix(".lock")
    beside = out.parent / f".tmp-{out.name}.lock"
    with locks.held(key, who, place.scratch.name), locks.held(beside, who, str(out), fleeting=True):
        yield


def _began_before(place: Place) -> bool:
    """Whether another attempt of this very run was cut short: it is gone on with, also where it was forced."""
    others = [
        path for path in place.journal.parent.glob(f"{place.stage}-*/events.jsonl") if path.parent != place.journal
    ]
    return any(text and '"status": "FINISHED"' not in text for text in (path.read_text("utf-8") for path in others))


def _forced() -> bool:
    """Whether dvc was told to run this stage in any case (`-f`): then nothing is taken up from an earlier attempt."""
    words = psutil.Process(origin()["owner"]["pid"]).cmdline()
    return any(Path(word).name == "dvc" for word in words[:3]) and not {"-f", "--force"}.isdisjoint(words)
