"""A stranger's path, by commands alone: a model folder, a CSV with other column names, and what goes wrong."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from flows import profiles
from flows.environment import OFFLINE
from flows.given import settle
from flows.sources import bring
from rlhf.errors import DataRefused
from tasks.collect import collect
from tasks.config.params import Params
from tasks.config.sources import Source
from tasks.journal import Log
from tasks.prepare import prepare
from tasks.validate import validate
from tests.checkout import copy_tree
from tests.rlhf.tiny_models import ARCHITECTURES

REPO = Path(__file__).parents[2]
COLUMNS = ("prompt=question", "chosen=better", "rejected=worse")


def preflow(root: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    own = ("PREFECT_API_URL", "PREFLOW_HOME", "MLFLOW_TRACKING_URI")
    clean = {name: value for name, value in os.environ.items() if name not in own}
    command = [sys.executable, "-m", "flows.cli", *arguments]
    paths = {"PYTHONPATH": str(root if (root / "flows").is_dir() else REPO)}
    return subprocess.run(command, cwd=root, env=clean | paths | env, text=True, capture_output=True, check=False)


def run(root: Path, *settings: str, **env: str) -> subprocess.CompletedProcess[str]:
    return preflow(root, "run", "--json", *(word for setting in settings for word in ("--set", setting)), **env)


def named(things: Path, table: str, columns: Sequence[str] = COLUMNS) -> list[str]:
    mapped = [f"collect.columns.{column}" for column in columns]
    return [f"base.model={things / 'model'}", f"collect.preferences={things / table}", *mapped]


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.strip().splitlines()[-1]


def commit(root: Path) -> None:
    for command in ("init -q", "add -A", "-c user.name=a -c user.email=a@example.org commit -qm start"):
        subprocess.run(["git", *command.split()], cwd=root, check=True)


def write_pairs(path: Path, rows: int) -> None:
    """Pairs that are easily told apart, and not by their length: kind answers are chosen."""
    things = ("dog", "ball", "park", "friend", "letter", "name", "story", "day")
    more = ("", " How are you today?")
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["question", "better", "worse", "note"])
        for number in range(rows):
            thing, longer = things[number % len(things)], number // len(things) % 2
            kind, rude = f"Thank you, a nice {thing}.{more[longer]}", f"No, and what a {thing}.{more[1 - longer]}"
            table.writerow([f"What of {thing} number {number}?", kind, rude, "of no use"])


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stranger has: a model, and tables."""
    folder = tmp_path_factory.mktemp("mine")
    ARCHITECTURES["llama"](folder / "model")
    write_pairs(folder / "pairs.csv", 240)
    write_pairs(folder / "three.csv", 3)
    return folder


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """As much of a checkout as is looked at before the first stage."""
    for name in ("params.yaml", "dvc.yaml", "profiles/pretrained.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(REPO / name, tmp_path / name)
    commit(tmp_path)
    return tmp_path


def test_an_absent_file_ends_it_before_anything_starts(small: Path, things: Path) -> None:
    done = run(small, f"base.model={things / 'model'}", f"collect.preferences={things / 'pears.csv'}")
    assert done.returncode == 1
    assert last_line(done).startswith(f"preflow: collect.preferences={things / 'pears.csv'}: there is no file ")
    assert not (small / ".preflow").exists()  # no server, no worktree
    assert subprocess.run(["git", "status", "--porcelain"], cwd=small, capture_output=True, check=True).stdout == b""


def test_no_network_for_a_name_on_the_hub(small: Path, things: Path, tmp_path: Path) -> None:
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "cache"), OFFLINE: "0"}
    done = run(small, "base.model=org/name", f"collect.preferences={things / 'pairs.csv'}", **nowhere)
    assert done.returncode == 87
    assert "org/name cannot be fetched (" in last_line(done) and "`hf download org/name --local-dir" in last_line(done)
    assert not (small / ".preflow").exists()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The tree under test as a repository of its own."""
    root = tmp_path_factory.mktemp("stranger") / "preflow"
    copy_tree(root)
    commit(root)
    yield root
    preflow(root, "stop")


SHORT = (
    *("sample.num_prompts=24", "sample.group_size=2", "rl.num_updates=2", "rl.val_every=1", "rl.num_val_prompts=8"),
    *("algorithms.rloo.prompts_per_update=8", "algorithms.rloo.group_size=2", "evaluate.num_prompts=8"),
    *("evaluate.samples_per_prompt=1", "evaluate.best_of_n=[1, 2]", "evaluate.best_of_n_prompts=4"),
    *("generation.max_new_tokens=16", "rl.allow_untrusted=true", "training.rank=4"),
)


def states(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    return {stage["name"]: stage["state"] for stage in json.loads(done.stdout)["stages"]}


UNUSABLE = [
    (
        "pairs.csv",
        ("prompt=question", "chosen=best", "rejected=worse"),
        r"preferences/pairs\.csv: there is no column `best` \(collect\.columns\.chosen; nearest: `better`\); "
        r"the file has better, note, ",
    ),
    ("three.csv", COLUMNS, r"3 rows, at least 50 are needed \(validate\.min_rows\): .*; add some hundred"),
]


@pytest.mark.parametrize(("table", "columns", "message"), UNUSABLE)
def test_data_that_cannot_be_used_is_refused_in_one_sentence(
    small: Path, things: Path, tmp_path: Path, table: str, columns: Sequence[str], message: str
) -> None:
    """The stages one after the other, without the flow around them."""
    resolved = settle(small, profiles.resolve(small, "", named(things, table, columns)), lambda _: None)
    inbox, raw, prepared = (tmp_path / name for name in ("inbox", "raw", "prepared"))
    bring([Source.model_validate(source) for source in resolved.values["sources"]], inbox, tmp_path)
    config = Params.parse(resolved.values, "")
    collect(config.collect, inbox=inbox, out=raw, log=Log.null())

    def gate() -> None:
        prepare(config.prepare, raw=raw, out=prepared, log=Log.null())
        rules = REPO / "data" / "expectations"
        validate(config.validate_, prepared=prepared, expectations=rules, out=tmp_path / "clean", log=Log.null())

    with pytest.raises(DataRefused, match=message) as refused:
        gate()
    assert "\n" not in str(refused.value)


@pytest.mark.e2e
@pytest.mark.slow
def test_the_whole_path(checkout: Path, things: Path) -> None:
    mapped = [word for column in COLUMNS for word in ("--columns", column)]
    checked = preflow(checkout, "data", "check", str(things / "pairs.csv"), *mapped)
    assert checked.returncode == 0, checked.stderr
    done = run(checkout, *named(things, "pairs.csv"), *SHORT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "profile `pretrained` lies under its settings" in done.stderr
    assert set(states(done).values()) == {"ran"}
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["promotion"]["name"] == "policy-pretrained"
    status = subprocess.run(["git", "status", "--porcelain"], cwd=checkout, capture_output=True, check=True)
    assert status.stdout == b""  # no tracked file was edited, none was left
    again = run(checkout, *named(things, "pairs.csv"), *SHORT)
    assert set(states(again).values()) == {"cached"}


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize(("table", "columns", "message"), UNUSABLE)
def test_data_that_cannot_be_used_ends_the_run(
    checkout: Path, things: Path, table: str, columns: Sequence[str], message: str
) -> None:
    done = run(checkout, *named(things, table, columns), *SHORT)
    assert done.returncode == 3
    assert re.search(message, last_line(done))
    assert "ran" not in {state for name, state in states(done).items() if name not in ("collect", "prepare")}
