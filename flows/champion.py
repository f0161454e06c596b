"""The champion as the next run sees it: `data/champion/`, brought up to date from the registry before a run.

What it answered comes out of the DVC cache by digest; its weights too, where the evaluation prompts have changed and it
has to answer anew.
"""

import hashlib
import json
import shutil
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows import dvc, dvc_watch, remote
from flows.cache import files_of, link_folder, object_path
from flows.output import kept
from flows.processes import end_group, spawn
from flows.releases import releases
from flows.releases.refs import CHAMPION
from flows.runner import Place
from rlhf.errors import DependencyDown, Preempted, PreflowError
from tasks import champion as champions
from tasks import tracking
from tasks.config import read_yaml
from tasks.config.evaluate import Evaluate
from tasks.config.generation import Generation
from tasks.graph import Graph

FOLDER = "data/champion"
FILES = (f"{FOLDER}/champion.json", f"{FOLDER}/completions.jsonl")
COMPLETIONS = "data/12_evaluation/completions"
SCORES = "data/12_evaluation/scores.json"
EVAL_PROMPTS = "data/03_validated/eval"


def reigning(owner: Path, registry: str) -> dict[str, Any] | None:
    """The champion, told as `tasks.tracking.champion` does; None where there is none.

    MLflow's registry says which, as long as it knows the model at all. In a clone without it the git refs do, which are
    fetched where this clone has none; then `by` is "git".

    Raises:
        DependencyDown: the registry does not answer.
    """
    found = tracking.champion(owner, registry)
    return found if found or tracking.knows(owner, registry) else _by_git(owner, registry)


def refresh(owner: Path, tree: Path, graph: Graph, registry: str, changed: bool) -> bool:
    """Make `tree`/data/champion the registry's champion; True when that changed it.

    Untouched where nothing else has changed and the champion is what the tree's own dvc.lock produced: a run after a
    promotion is a no-op.

    Raises:
        PreflowError: its completions are not in the cache; DependencyDown: the registry does not answer.
    """
    if not _readers(graph):
        return False
    return _renew(owner, tree, reigning(owner, registry), changed)


def refresh_by_git(owner: Path, tree: Path, graph: Graph, registry: str, changed: bool) -> bool:
    """As `refresh`, where the registry does not answer: what the git refs say, else the champion stays what the folder
    names, which is none where nothing is there."""
    found = _by_git(owner, registry) if _readers(graph) else None
    if found is not None:
        return _renew(owner, tree, found, changed)
    if _readers(graph) and not (tree / FOLDER / "champion.json").exists():
        champions.write_none(tree / FOLDER)
    return False


def _renew(owner: Path, tree: Path, found: Mapping[str, Any] | None, changed: bool) -> bool:
    folder = tree / FOLDER
    record = folder / "champion.json"
    before = record.read_bytes() if record.exists() else None
    if found is None:
        champions.write_none(folder)
    elif before is None or _is_stale(tree, found, changed):
        remote.fetch(owner, found, (COMPLETIONS, SCORES), _say)
        cache = dvc.cache(tree)
        answers = files_of(cache, found["digests"].get(COMPLETIONS)).get(f"{found['candidate']}.jsonl")
        scores = object_path(cache, found["digests"].get(SCORES))
        if answers is None or scores is None:
            raise PreflowError(f"the run {found['ref']} of champion v{found['version']} has no answers of it")
        digests = champions.digests_of(json.loads(scores.read_text(encoding="utf-8")))
        champion = champions.Champion(version=found["version"], ref=found["ref"] or "", digests=digests)
        champions.write_champion(folder, champion, answers)
    return before != record.read_bytes()


def refreshed_by(
    tree: Path, graph: Graph, registry: str, found: Mapping[str, Any] | None, changed: bool
) -> dict[str, str]:
    """The stages that `refresh` would have run again where `found` reigns, each with the reason; nothing is touched."""
    if not _readers(graph):
        return {}
    if found is None:
        stale = (tree / FOLDER / "champion.json").exists() and compared_with(tree) is not None
        reason = "there is no champion any more"
    else:
        stale, reason = _is_stale(tree, found, changed), f"the champion is {registry} v{found['version']} by now"
    return dict.fromkeys(sorted(_readers(graph)), reason) if stale else {}


def hold_none(tree: Path, graph: Graph) -> None:
    """No champion, whoever reigns: for runs that are compared with each other."""
    if _readers(graph):
        champions.write_none(tree / FOLDER)


def compared_with(tree: Path) -> int | None:
    """Version that a tree's gate has compared with; None for none."""
    record = tree / FOLDER / "champion.json"
    version: int | None = json.loads(record.read_text(encoding="utf-8"))["version"] if record.exists() else None
    return version


def resample(place: Place, graph: Graph, stage: str, registry: str, cancel: threading.Event) -> None:
    """Before a stage that reads the champion: have it answer this run's evaluation prompts where those have changed.

    Raises:
        PreflowError: its policy is not in the cache, or sampling failed; Preempted: `cancel` was set.
    """
    folder = place.tree / FOLDER
    if stage not in _readers(graph) or not (place.tree / EVAL_PROMPTS).is_dir():
        return
    incumbent = champions.read_champion(folder)
    params = read_yaml(place.tree / "params.yaml")
    config = Evaluate.parse(params.get("evaluate") or {}, "evaluate")
    generation = Generation.parse(params.get("generation") or {}, "generation")
    asked = champions.evaluation_set(place.tree / EVAL_PROMPTS, config, generation).digest
    if incumbent is None or incumbent.digests["evaluation_set"] == asked:
        return
    found = reigning(place.owner, registry)
    if found is None or found["version"] != incumbent.version:
        raise DependencyDown(f"champion v{incumbent.version} is no longer the registry's; run again")
    policy = place.tree / ".dvc" / "tmp" / "champion"  # of this tree, which one run has, so no kill leaves it for ever
    shutil.rmtree(policy, ignore_errors=True)
    try:
        with dvc_watch.heeding(cancel):
            remote.fetch(place.owner, found, [found["path"]], _say)
        if not link_folder(dvc.cache(place.tree), found["md5"], policy):
            raise PreflowError(
                "the champion is to answer new evaluation prompts, and its policy is not in the DVC cache"
            )
        _sample(place, policy, str(params.get("threads") or 1), cancel)
    finally:
        shutil.rmtree(policy, ignore_errors=True)


def lock_digest(tree: Path) -> str:
    """sha256 of dvc.lock, by which the registry knows which run made a version."""
    path = tree / "dvc.lock"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def _sample(place: Place, policy: Path, threads: str, cancel: threading.Event) -> None:
    words = ["--policy", str(policy), "--eval-prompts", EVAL_PROMPTS, "--champion", FOLDER]
    log = place.journals / "champion.log"
    with kept(log) as output:
        env = dvc.environ() | {"OMP_NUM_THREADS": threads}
        process = spawn([sys.executable, "-m", "tasks.champion", *words], cwd=place.tree, env=env, output=output.raw)
        try:
            while process.poll() is None:
                output.pass_on()
                if cancel.wait(0.1):
                    raise Preempted("stopped before it was done")
        finally:
            if process.poll() is None:
                end_group(process)
            output.pass_on(ended=True)
    if process.returncode != 0:
        last = (output.text.strip().splitlines() or ["no output"])[-1]
        raise PreflowError(f"the champion could not answer the new evaluation prompts: {last}")


def _by_git(owner: Path, registry: str) -> dict[str, Any] | None:
    """The champion by the git refs; None also where the git remote does not answer, which is said."""
    try:
        return releases.find(owner, f"{registry}@{CHAMPION}").told() | {"by": "git"}
    except DependencyDown as error:
        _say(f"{error}; going on without a champion from there")
    except PreflowError:
        pass
    return None


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _readers(graph: Graph) -> set[str]:
    return {stage.name for stage in graph.stages.values() if FOLDER in stage.deps}


def _is(folder: Path, found: Mapping[str, Any]) -> bool:
    """Whether a folder holds this champion already, also with answers to newer prompts."""
    try:
        present = champions.read_champion(folder)
    except (OSError, ValueError, KeyError, TypeError, PreflowError):
        return False
    return present is not None and (present.version, present.ref) == (found["version"], found["ref"] or "")


def _is_stale(tree: Path, found: Mapping[str, Any], changed: bool) -> bool:
    """Whether the folder is to name this champion and does not; see `refresh` for when it need not."""
    return not (_is(tree / FOLDER, found) or (not changed and found["lock"] == lock_digest(tree)))
