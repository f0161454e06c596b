"""A checkout with a model and data of the user beside it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows import profiles
from flows.given import settle
from flows.profiles import Resolved
from flows.sources import bring
from tasks.config.sources import Source

REPO = Path(__file__).parents[2]


def checkout(tmp_path: Path) -> Path:
    """A checkout, as far as configuration goes, with a model and data beside it."""
    root = tmp_path / "checkout"
    (root / "profiles").mkdir(parents=True)
    for name in ("params.yaml", "profiles/pretrained.yaml"):
        (root / name).write_bytes((REPO / name).read_bytes())
    (root / "dvc.yaml").write_text("stages: {}\n")
    make_model(tmp_path / "model")
    (tmp_path / "pairs.csv").write_text("question,better,worse\nHi?,yes,no\n")
    return root


def make_model(folder: Path, template: str = "{{ messages }}") -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template} if template else {}))
    (folder / "model.safetensors").write_bytes(b"weights")


def settled(root: Path, *settings: str, profile: str = "", say: Callable[[str], None] = lambda _: None) -> Resolved:
    return settle(root, profiles.resolve(root, profile, settings), say)


def brought(root: Path, resolved: Resolved) -> dict[str, Any]:
    """data/inbox/sources.json after a run has brought its sources, by the name of each."""
    sources = [Source.model_validate(source) for source in resolved.values["sources"]]
    inbox = root / "data" / "inbox"
    bring(sources, inbox, root / "nowhere")
    return {entry["name"]: entry for entry in json.loads((inbox / "sources.json").read_text())}


OWN = ("base.model=../model", "collect.preferences=../pairs.csv")
