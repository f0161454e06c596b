"""`preflow lineage` over runs as git, locks and a cache have them."""

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import dvc, workspace
from flows.cli import app
from flows.lineage.touch import _splits
from rlhf.errors import PreflowError
from tests.flows.archive import Archive
from tests.flows.rows_toy import ADA, HELD, SPOILT, VAL, outs, pair

FIRST, SECOND, OTHER = "20261101-120000-aaaa", "20261102-120000-bbbb", "20261103-120000-cccc"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """Two runs on the same data, the second promoted, and one without ada."""
    for name in ("MLFLOW_TRACKING_URI", "PREFLOW_HOME"):
        monkeypatch.delenv(name, raising=False)
    made = Archive(tmp_path / "project")
    monkeypatch.chdir(made.root)
    monkeypatch.setattr(dvc, "cache", lambda _: made.cache)  # a second of DVC each time
    made.run(FIRST, made.lock(outs()))
    commit = made.run(SECOND, made.lock(outs(), also="seed 1"), label="seed=1")
    made.promote(SECOND, commit, 1)
    made.run(OTHER, made.lock(outs("ada")))
    return made


def ask(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["lineage", *words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def words_of(found: dict[str, Any], run: str) -> dict[str, str]:
    return {one["path"].removeprefix("data/"): one["word"] for one in found["models"] if run in one["runs"]}


def test_a_row_that_was_trained_on(archive: Archive) -> None:
    found = ask(f"row:{ADA}")
    assert (found["rows"], found["row"]["annotator"], found["row"]["line"]) == (1, "ada", 1)
    [data] = found["data_versions"]
    assert (data["verdict"], data["runs"], len(data["version"])) == ("clean", [FIRST, SECOND], 8)
    assert [one["says"] for one in found["preferences"]] == ["in split train, half policy"]
    assert words_of(found, SECOND) == {
        "07_reward_model/policy_rm": "trained on",
        "07_reward_model/held_out_rm": "read, not trained on",
        "11_dpo/policy": "trained on",
        "09_rejection_sampling/policy": "built on",
        "09_rejection_sampling/random_control": "built on",
        "10_rl/policy": "built on",
    }
    because = {one["path"]: one["because"] for one in found["models"]}
    assert because["data/07_reward_model/held_out_rm"] == "half policy, this one learns from held_out"
    assert OTHER not in {run for one in found["models"] for run in one["runs"]}
    [version] = found["versions"]
    told = {key: version[key] for key in ("name", "version", "champion", "word")}
    assert told == {"name": "policy", "version": 1, "champion": True, "word": "built on"}


def test_a_row_of_the_other_half_only_stops_training(archive: Archive) -> None:
    """The held-out reward model says when RL stops, and rewards nobody."""
    assert words_of(ask(f"row:{HELD}"), FIRST) == {
        "07_reward_model/policy_rm": "read, not trained on",
        "07_reward_model/held_out_rm": "trained on",
        "11_dpo/policy": "read, not trained on",
        "10_rl/policy": "chosen with",
    }


def test_a_row_to_measure_on_is_read_and_retires_nothing(archive: Archive) -> None:
    found = ask(f"row:{VAL}")
    assert set(words_of(found, FIRST).values()) == {"read, not trained on"}
    assert {one["because"] for one in found["models"]} == {"split val"}
    assert not any(one["retire"] for one in found["models"])
    assert found["versions"] == []


def test_a_row_that_was_set_aside_reached_no_model(archive: Archive) -> None:
    found = ask(f"row:{SPOILT}")
    verdicts = {tuple(one["runs"]): one["verdict"] for one in found["data_versions"]}
    assert verdicts == {(FIRST, SECOND): "quarantined by equal_sides", (OTHER,): "quarantined by equal_sides"}
    assert found["data_versions"][0]["findings"][0]["reason"] == "both sides are one text"
    assert (found["models"], found["versions"], found["preferences"]) == ([], [], [])


def test_a_pair_that_annotate_made_is_judged_there(archive: Archive) -> None:
    born = pair("f" * 16, "ben", "train", 9) | {"source": "annotate", "file": "on_policy/train", "half": "policy"}
    pairs = outs()["data/06_preferences/pairs"] | {"train.jsonl": [born]}
    archive.run("20261105-120000-eeee", archive.lock(outs() | {"data/06_preferences/pairs": pairs}))
    found = ask(f"row:{born['id']}")
    assert [one["verdict"] for one in found["data_versions"]] == ["clean"]
    assert words_of(found, "20261105-120000-eeee")["07_reward_model/policy_rm"] == "trained on"


def test_a_person_and_a_source(archive: Archive) -> None:
    ada, world = ask("annotator:ada"), ask("source:world")
    assert (ada["rows"], world["rows"]) == (2, 5)
    assert OTHER not in {run for one in ada["data_versions"] for run in one["runs"]}
    assert OTHER in {run for one in world["data_versions"] for run in one["runs"]}
    assert [one["verdict"] for one in world["data_versions"]] == [
        "4 clean, 1 quarantined by equal_sides",
        "2 clean, 1 quarantined by equal_sides",
    ]


def test_entries_of_an_earlier_run_are_not_this_runs(archive: Archive) -> None:
    """A run that stopped after the gate keeps the old models in its lock: the new data is not in them."""
    old, new = archive.lock(outs("ada")), archive.lock(outs(), until="validate")
    archive.run("20261104-120000-dddd", new + old[old.index("  base:") :])
    runs = {run for one in ask(f"row:{ADA}")["models"] for run in one["runs"]}
    assert runs == {FIRST, SECOND}


def test_models_runs_paths_and_digests(archive: Archive) -> None:
    found = ask("policy@champion")
    names = {node["label"] for node in found["nodes"]}
    assert found["start"] == "version policy v1"
    assert {"data/01_raw/preferences", "data/07_reward_model/policy_rm", "data/10_rl/policy"} <= names
    assert "data/11_dpo/policy" not in names  # beside it, not above it
    assert ask("policy/1") == found | {"subject": ask("policy/1")["subject"]}
    (archive.root / "dvc.lock").write_text(archive.lock(outs()))
    rm = ask("data/07_reward_model/policy_rm", "--down")
    below = {node["label"] for node in rm["nodes"]}
    assert {"data/10_rl/policy", "data/13_gate/gate.json"} <= below
    assert not below & {"data/06_preferences/pairs", "data/11_dpo/policy"}
    md5 = next(node["id"].split()[1] for node in rm["nodes"] if node["label"] == "data/07_reward_model/policy_rm")
    assert {node["id"] for node in ask(md5, "--down")["nodes"]} == {node["id"] for node in rm["nodes"]}
    assert "version policy v1" in {node["id"] for node in ask(SECOND)["nodes"]}
    assert "data/01_raw/preferences" in {node["label"] for node in ask(md5, "--up")["nodes"]}


def test_what_people_read(archive: Archive) -> None:
    done = CliRunner().invoke(app, ["lineage", f"row:{ADA}"], catch_exceptions=False)
    text = done.stdout
    for line in (
        f"row:{ADA}  preferences/pairs.jsonl:1 by ada; source world, split train, group group 1",
        "clean; runs 20261102-120000-bbbb, 20261101-120000-aaaa",
        "registry  policy v1 (champion): data/10_rl/policy, built on it; run 20261102-120000-bbbb",
    ):
        assert line in text, line
    assert text.index("made from") < text.index("source world", 100) < text.index("and what was made of it")
    assert text.index("and what was made of it") < text.index("data/01_raw/preferences")


@pytest.mark.parametrize("name", ["row.svg", "row.html"])
def test_pictures_are_whole_and_need_no_network(archive: Archive, name: str) -> None:
    found = ask(f"row:{ADA}", "--svg" if name.endswith("svg") else "--html", name)
    text = (archive.root / name).read_text()
    assert not re.search(r"(?:src|href)=|@import|https?://(?!www\.w3\.org/2000/svg)", text)
    picture = ElementTree.fromstring(text[text.index("<svg") : text.index("</svg>") + 6])
    space = "{http://www.w3.org/2000/svg}"
    boxes = picture.findall(f"{space}g")
    assert len(boxes) == len(found["nodes"])
    assert len(picture.findall(f"{space}path")) == len(found["edges"])
    corners = [(int(box[1].attrib["x"]), int(box[1].attrib["y"])) for box in boxes]
    assert len(set(corners)) == len(corners)
    for x, y in corners:
        assert x + 248 <= int(picture.attrib["width"])
        assert y + 58 <= int(picture.attrib["height"])


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("row:123", "expected the 16 hex digits"),
        (f"row:{'0' * 16}", "no run that is kept here has such rows"),
        ("annotator:zoe", "no run that is kept here has such rows"),
        ("policy/7", "no such version or alias; there are policy/1"),
        ("0" * 32, "no run here wrote an out with md5"),
        (
            "polcy",
            "polcy is no run, version or alias that is known (not here, and there is no git remote to ask); models are",
        ),
        ("nonsense", "X is a model (policy, policy@champion, policy/3), a run ("),
        ("annotatr:ada", "an annotator (annotator:ada) or a source (source:forum): `preflow lineage policy@champion`"),
        ("no such thing", "no such thing: nothing here has this name. X is a model"),
        ("data/inbox/preferences/b.jsonl", "a data file (data/inbox/preferences/a.jsonl)"),
    ],
)
def test_what_is_not_known(archive: Archive, asked: str, says: str) -> None:
    with pytest.raises(PreflowError, match=re.escape(says)):
        CliRunner().invoke(app, ["lineage", asked], catch_exceptions=False)


def test_what_cannot_be_read_is_named_and_left_out(archive: Archive) -> None:
    torn = "20261104-120000-dddd"
    workspace.snapshot(archive.root, torn, f"preflow run {torn} []", extra={"dvc.lock": b"stages: {sft: ["})
    commit = workspace.commit_on(archive.root, ["HEAD"], {"release.json": b'{"name": '}, "torn")
    workspace.keep(archive.root, "refs/preflow/policy/v7", commit)
    done = CliRunner().invoke(app, ["lineage", f"row:{ADA}", "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    assert f"refs/preflow/runs/{torn} is left out" in done.stderr
    assert "refs/preflow/policy/v7" in done.stderr
    assert [one["version"] for one in json.loads(done.stdout)["versions"]] == [1]


def test_of_many_splits_the_largest_are_named_and_the_others_counted() -> None:
    rows = [{"split": name} for name in "aabbccddef"]
    assert _splits(rows) == "2 a, 2 b, 2 c, 2 d, and 2 more"
    assert _splits(rows[:8]) == "2 a, 2 b, 2 c, 2 d"
