"""The stage `sft` typed by hand in a project of its own: twelve epochs of two steps on seven demonstrations."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf.spending import ACCOUNT
from tasks import stage
from tasks.sft import sft
from tests.tasks import test_sft

REPO = Path(__file__).parents[2]
GIVEN = ["--params", "sft", "--demonstrations", "demonstrations", "--base", "base"]
STEPS = 24


def make_root(root: Path, **settings: Any) -> Path:
    """Base, demonstrations and what a checkout has beside them."""
    test_sft.inputs.__wrapped__(root)  # type: ignore[attr-defined]
    (root / "environment.json").write_bytes((REPO / "environment.json").read_bytes())
    (root / "dvc.yaml").write_text("stages: {other: {cmd: 'true', outs: [other]}}\n")
    own = test_sft.QUICK | {"checkpoint_every": 100} | settings
    (root / "params.yaml").write_text(json.dumps({"sft": own, "generation": {"max_new_tokens": 8}, "seed": 0}))
    return root


def typed_sft(root: Path, prepare: Callable[[], None] = lambda: None, out: str = "out") -> Callable[[], None]:
    """`python -m tasks.sft …`, as the work of a fork that is prepared first."""

    def work() -> None:
        os.chdir(root)
        os.environ["PREFLOW_RUN"] = "test"
        ACCOUNT.counts.update(dict.fromkeys(ACCOUNT.counts, 0.0))  # a fork has what tests before it have spent
        prepare()
        sys.argv = ["sft", *GIVEN, "--out", out]
        stage.main(sft)

    return work


def events(root: Path, attempt: int = 1) -> list[dict[str, Any]]:
    """The journal of an attempt."""
    lines = (root / f".preflow/journal/test/sft-{attempt}/events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
