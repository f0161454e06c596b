"""The story of `again_toy`, run once, pushed, told to a real MLflow and promoted there, for `preflow verify`."""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from ruamel.yaml import YAML
from typer.testing import CliRunner

from flows import dvc, sources
from flows.cache import files_of, object_path
from flows.cli import app
from flows.releases import releases
from tasks import sums, tracking
from tasks.config.sources import Source
from tasks.graph import digest
from tasks.journal import Log, home, new_folder
from tasks.lineage import read_tree
from tasks.outcome import StageResult
from tasks.tracking.store import folder_of
from tasks.witness import origin, outputs
from tests.flows.again_toy import INBOX, RUN, STAGES, add_rows, clone_with_remotes, copied, done, make_story
from tests.flows.toy import git

POLICY, ROWS = "data/rl/policy", "data/prepared/preferences"
SOURCE = """
sources:
- {name: old, origin: example.org/old, revision: "1", licence: CC0-1.0, path: old.jsonl, target: preferences/old.jsonl,
   sha256: SHA256}
"""


def make(folder: Path) -> Path:
    """A folder with `story` and its DVC remote `store`; policy v1 is promoted. Returns the folder."""
    root = make_story(folder / "story")
    graph = (root / "dvc.yaml").read_text()
    judged = "python evaluate.py tasks.evaluate --policies rl=data/rl/policy\n"
    (root / "dvc.yaml").write_text(graph.replace("python evaluate.py\n", judged))
    program = (root / "evaluate.py").read_text()  # MLflow's tables show what was asked and said
    program = program.replace('{"id": f"p{n}", ', '{"id": f"p{n}", "messages": [{"role": "user", "content": "?"}], ')
    program = program.replace('{"gold_reward": one}', '{"gold_reward": one, "text": "blue", "stop_reason": "stop"}')
    (root / "evaluate.py").write_text(program)
    (root / "rl.py").write_text((root / "rl.py").read_text() + 'Path("data/rl/policy/model.safetensors").touch()\n')
    brought = root / INBOX / "old.jsonl"
    wanted = SOURCE.replace("SHA256", digest(brought))
    (root / "params.yaml").write_text((root / "params.yaml").read_text() + wanted)
    (folder / "shared").mkdir()
    brought.rename(folder / "shared/old.jsonl")
    sources.bring(
        [Source.model_validate(YAML(typ="safe").load(wanted)["sources"][0])], root / "data/inbox", folder / "shared"
    )
    add_rows(root, "own.jsonl", "c")
    git(root, "commit", "-q", "-a", "-m", "story for verify")
    commit = done(root, "made")
    tell(root, RUN, commit)
    assert tracking.promote(root, RUN, "rl") == 1
    releases.publish(root, "policy", tracking.version(root, "policy", 1), commit)
    clone_with_remotes(root, folder)
    return folder


def tell(root: Path, run: str, commit: str) -> None:
    """Journals, a report, and all of it in MLflow, as a run leaves it."""
    facts = {"command": "preflow run", "ref": f"refs/preflow/runs/{run}", "commit": commit}
    tracking.begin_run(root, run, facts)
    for stage, node in read_tree(root).graph.stages.items():
        log = Log(new_folder(root, run, stage), stage)
        log.event("start", stage=stage, key="k", root=str(root), config={}, **origin())
        log.table("samples", [{"prompt": "Name a colour.", "completion": "blue"}])
        if stage == "rl":
            picture = home(root) / "curve.png"
            Image.new("RGB", (64, 48), "steelblue").save(picture)
            log.file(picture, "plots")
        used = {"cpu_seconds": 1.0, "peak_memory_gib": 0.5, "device": "cpu"}
        log.event("end", status="FINISHED", exit_code=0, reason="", outs=outputs(root, node.outs), used=used)
    results = {stage: StageResult(stage, "ran", 1.0) for stage in STAGES}
    assert tracking.finish_run(root, run, results, "FINISHED", commit)["run"]
    page = root / "reports" / run / "report.html"
    page.parent.mkdir(parents=True)
    page.write_text("<h1>a run</h1>")
    sums.seal(page.parent, [page])
    tracking.attach(root, run, page)


def copy_of(made: Path, to: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the story with sources, a DVC remote and an MLflow of its own, as the current folder."""
    root = copied(made / "story", to / "story")
    store = copied(made / "store", to / "store")
    copied(made / "shared", to / "shared")
    (root / ".dvc/config.local").write_text(f"['remote \"store\"']\n    url = {store}\n")
    with closing(sqlite3.connect(database(root))) as there, there:
        for table, column in (("runs", "artifact_uri"), ("experiments", "artifact_location")):
            moved = f"update {table} set {column} = replace({column}, ?, ?)"
            there.execute(moved, ((made / "story").as_uri(), root.as_uri()))
    for name in ("MLFLOW_TRACKING_URI", "PREFLOW_HOME", "PREFLOW_RUN", "PREFLOW_SHARED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(root)
    return root


def said(*words: str, code: int) -> dict[str, Any]:
    """What `preflow verify` answers as JSON."""
    ended = CliRunner().invoke(app, ["verify", "--json", *words], catch_exceptions=False)
    assert ended.exit_code == code, ended.output
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def database(root: Path) -> Path:
    return root / "mlruns/mlflow.db"


def changed_in_mlflow(root: Path, statement: str, *values: str) -> None:
    """Exactly one row of MLflow's database, changed behind its back."""
    with closing(sqlite3.connect(database(root))) as there, there:
        assert there.execute(statement, values).rowcount == 1


def mlflow_run(root: Path, run: str = RUN, stage: str = "") -> str:
    """Id in MLflow of a run, or of a stage of it."""
    with closing(sqlite3.connect(database(root))) as there:
        ours = {one for (one,) in there.execute("select run_uuid from tags where key='preflow.run' and value=?", [run])}
        staged = dict(there.execute("select run_uuid, value from tags where key='preflow.stage'"))
    (found,) = [one for one in ours if staged.get(one, "") == stage]
    return str(found)


def artifacts(root: Path, run: str = RUN, stage: str = "") -> Path:
    """Where MLflow keeps the artifacts of a run, or of a stage of it."""
    found = folder_of(database(root), mlflow_run(root, run, stage))
    assert found is not None and found.is_relative_to(root)
    return found


def flip(path: Path) -> None:
    """Turn the lowest bit of the last byte, and leave no other trace."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(before.st_mode & 0o777)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def md5_of(root: Path, path: str) -> str:
    return str(read_tree(root).digests()[path])


def cached(root: Path, path: str, name: str = "") -> Path:
    """The object of the cache for an output, or for a file in it."""
    cache, md5 = dvc.cache(root), md5_of(root, path)
    found = files_of(cache, md5)[name] if name else object_path(cache, md5)
    assert found is not None
    return found
