"""What bytes depend on beside code and versions: kept with every run as `machine.json`, so that any clone can name it.

It is no output of a stage and no part of a key: two machines that differ in it may well give the same bytes.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from flows import workspace
from flows.runner import last_event

RECORD = "machine.json"
FACTS = {"device": "device", "cpu_capability": "CPU instruction set", "threads": "threads"}
Facts = Mapping[str, Mapping[str, Any]]
"""By stage; only stages that used torch have any."""


def of(journals: Path, stages: Collection[str]) -> dict[str, dict[str, Any]]:
    """As the journals of a run have it, of the newest attempt at each stage that came to its end."""
    found = {}
    for stage in stages:
        folders = sorted(journals.glob(f"{stage}-*"), key=lambda path: path.stat().st_mtime)
        events: list[Any] = [last_event(folder, "end") for folder in folders]
        end: Any = next((event for event in reversed(events) if event and event.get("used")), {"used": {}})
        if facts := {key: end["used"][key] for key in FACTS if key in end["used"]}:
            outs = {path: about["md5"] for path, about in end.get("outs", {}).items() if "md5" in about}
            found[stage] = facts | {"outs": outs}
    return found


def at(root: Path, commit: str, digests: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """As a run's commit has it, of the stages that made what `digests` (md5 by path) names; empty without a record."""
    found: dict[str, dict[str, Any]] = json.loads(workspace.file_at(root, commit, RECORD) or b"{}")
    return {
        stage: facts
        for stage, facts in found.items()
        if all(digests.get(path, md5) == md5 for path, md5 in facts["outs"].items())
    }


def record(root: Path, label: str, journals: Path, ran: Collection[str], cached: Collection[str]) -> bytes:
    """Text of the record of a run: of stages that ran by its journals, of others as the last run of its label has it.

    Each says by digest what it speaks of, so that a record of other bytes is seen to be one.
    """
    texts = (workspace.file_at(root, commit, RECORD) for commit in workspace.runs(root, label))
    before: Facts = json.loads(next((text for text in texts if text), b"{}"))
    kept = {stage: before[stage] for stage in cached if stage in before}
    return (json.dumps(kept | of(journals, ran), indent=1, sort_keys=True) + "\n").encode()
