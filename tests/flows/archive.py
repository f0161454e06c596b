"""Runs that were never run: refs, locks and a cache as real runs leave them, of the product's own graph.

An out that is not given holds a text that its stage's inputs and parameters decide, so equal inputs give equal outs.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from flows import workspace
from flows.releases import releases
from flows.request import commit_message
from tasks.graph import load_graph
from tests.flows.toy import REPO, git

Files = Mapping[str, str | Sequence[Mapping[str, Any]]]
MODELS = ("policy", "policy_rm", "held_out_rm", "random_control")


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)


class Archive:
    """A checkout of the product's graph, and its runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = root / ".dvc" / "cache"
        (root / ".dvc").mkdir(parents=True)
        (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
        (root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
        for name in ("dvc.yaml", "params.yaml", ".gitignore", "environment.json"):
            (root / name).write_bytes((REPO / name).read_bytes())
        git(root, "init", "-q", "-b", "main")
        git(root, "add", "-A")
        git(root, "commit", "-q", "-m", "start")
        self.graph = load_graph(root)

    def put(self, text: str, suffix: str = "") -> str:
        md5 = hashlib.md5(text.encode()).hexdigest() + suffix
        path = self.cache / "files" / "md5" / md5[:2] / md5[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return md5

    def folder(self, files: Files) -> str:
        texts = {name: one if isinstance(one, str) else lines(one) for name, one in sorted(files.items())}
        listing = [{"md5": self.put(text), "relpath": name} for name, text in texts.items()]
        return self.put(json.dumps(listing), ".dir")

    def lock(self, outs: Mapping[str, Files], until: str = "gate", also: str = "") -> str:
        """Text of a dvc.lock of a run as far as a stage; `also` makes outs behind the data others."""
        md5s: dict[str, str] = {}
        stages: dict[str, Any] = {}
        for name, stage in self.graph.stages.items():
            deps = [{"path": dep, "md5": md5s[dep]} for dep in stage.data_deps if dep in md5s]
            salt = also if name not in ("collect", "prepare", "validate", "base") else ""
            made = f"{name} {deps} {salt}"
            for out in stage.outs:
                given = outs.get(out)
                text = f"{made} {out}"
                md5s[out] = self.put(text) if "." in Path(out).name else self.folder(given or {"made": text})
            entries = [{"path": out, "md5": md5s[out], "size": 1} for out in stage.outs]
            stages[name] = {"cmd": stage.cmd, "deps": deps, "outs": entries}
            if name == until:
                break
        path = self.root / "written.lock"
        YAML().dump({"schema": "2.0", "stages": stages}, path)
        text = path.read_text()
        path.unlink()
        return text

    def run(self, name: str, lock: str, label: str = "", params: str = "") -> str:
        """A run's ref with this lock; its commit."""
        extra: dict[str, bytes | None] = {"dvc.lock": lock.encode()}
        if params:
            extra["params.yaml"] = params.encode()
        return workspace.snapshot(self.root, name, commit_message(name, label), extra=extra).commit

    def promote(self, run: str, commit: str, number: int) -> None:
        """The RL policy of a run as a version of `policy`, and the champion."""
        about = {"version": number, "run": run, "ref": f"refs/preflow/runs/{run}"}
        about |= {"candidate": "rl", "path": "data/10_rl/policy"}
        releases.publish(self.root, "policy", about, commit)
        releases.crown(self.root, "policy", number)
