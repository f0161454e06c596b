"""`preflow diff` names what differs and nothing else: one parameter, one shard, one line of code, over real locks."""

from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.diff import metrics
from flows.diff.diff import diff
from flows.diff.metrics import unpaired
from flows.diff.sides import open_side
from tests.flows.again_toy import INBOX, PARAMS, RL, STAGES, add_rows, copied, done, keep, make_story, preflow, text
from tests.flows.toy import git


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was run once, as `before`."""
    root = make_story(tmp_path_factory.mktemp("diff") / "story")
    done(root, "before")
    return root


@pytest.fixture
def here(story: Path, tmp_path: Path) -> Path:
    return copied(story, tmp_path / "here")


def states(found: dict[str, Any]) -> dict[str, str]:
    return {stage["stage"]: stage["state"] for stage in found["stages"]}


def change(root: Path, path: str, old: str, new: str) -> None:
    before = (root / path).read_text()
    assert old in before
    (root / path).write_text(before.replace(old, new))


def test_one_parameter(here: Path) -> None:
    change(here, "params.yaml", "kl_coef: 0.5", "kl_coef: 0.75")
    done(here, "after")
    found = preflow(here, "diff", "before", "after")
    assert found["causes"] == [{"kind": "param", "what": "rl.kl_coef", "a": 0.5, "b": 0.75, "read_by": ["rl"]}]
    assert states(found) == {"collect": "same", "prepare": "same", "rl": "changed", "evaluate": "changed"}
    assert found["stages"][3]["because"] == [{"kind": "upstream", "what": "rl"}]
    assert found["files"] == []
    # Every prompt gained 0.25 alike, so prompt by prompt there is nothing left to be unsure of.
    gold, reward, kl = found["policies"]["rows"]
    assert (gold["metric"], gold["paired"]) == ("gold_reward", True)
    assert gold["change"] == pytest.approx({"mean": 0.25, "ci_low": 0.25, "ci_high": 0.25})
    # The reward model is another, so its rewards are on another scale; KL has no values by prompt.
    assert (reward["metric"], reward["change"], reward["paired"]) == ("reward", None, False)
    assert (kl["metric"], kl["paired"]) == ("kl", False)
    assert kl["change"] == pytest.approx({"mean": 0.0, "ci_low": -0.5, "ci_high": 0.5})  # 0.3 and 0.4 at right angles
    (trained,) = found["metrics"]["rl"]
    assert trained["metric"] == "reward"  # the steps are the same, and not told
    assert trained["change"]["mean"] == pytest.approx(0.25)


@pytest.mark.parametrize(("model", "told"), [("other", None), ("the same", "interval")])
def test_rewards_of_two_reward_models_have_no_difference(
    monkeypatch: pytest.MonkeyPatch, model: str, told: str | None
) -> None:
    def side(md5: str) -> Any:
        entry = SimpleNamespace(data={"data/07_reward_model/policy_rm": md5}, outs={"out/metrics.json": md5})
        return SimpleNamespace(entries={"sample": entry}, outs={"out/metrics.json": f"metrics {id(entry)}"})

    a, b = side("the same"), side(model)
    low, high = ({"mean": mean, "ci_low": mean - 1, "ci_high": mean + 1} for mean in (0.0, 2.0))
    said = {id(a): {"best_reward": low, "length": low}, id(b): {"best_reward": high, "length": high}}
    monkeypatch.setattr(metrics, "_json", lambda of, _: said[id(of)])
    reward, length = metrics.others(a, b)["sample"]
    assert (reward["change"] and "interval") == told
    assert length["change"]["mean"] == 2.0


def test_one_line_of_code(here: Path) -> None:
    (here / "rl.py").write_text(RL + "# a remark\n")
    done(here, "after")
    found = diff(here, "before", "after")
    (cause,) = found["causes"]
    assert (cause["kind"], cause["what"], cause["read_by"]) == ("code", "rl.py", ["rl"])
    assert (cause["added"], cause["removed"], cause["lines"]) == (1, 0, ["+# a remark"])
    # It made no difference to the bytes, and so none to what comes after.
    assert states(found) == {"collect": "same", "prepare": "same", "rl": "same bytes", "evaluate": "same"}
    assert found["policies"] is None
    assert found["metrics"] == {}


def test_one_shard(here: Path) -> None:
    add_rows(here, "new.jsonl", "c", "d", "e")
    done(here, "after")
    found = diff(here, "before", "after")
    (cause,) = found["causes"]
    assert (cause["kind"], cause["what"], cause["read_by"]) == ("data", "data/inbox", ["collect"])
    assert cause["files"] == [{"file": "preferences/new.jsonl", "change": "added"}]
    (file,) = found["files"]
    assert (file["file"], file["change"], file["source"]) == ("preferences/new.jsonl", "added", "new")
    assert file["rows"] == {"added": 3, "removed": 0, "changed": 0, "same": 0}
    assert states(found) == dict.fromkeys(STAGES, "changed")


@pytest.mark.slow
def test_rows_by_content(here: Path) -> None:
    """A row on top moves the others, which stay the same; one replaced at its line is changed, not come and gone."""
    add_rows(here, "old.jsonl", "first", "a", "b")
    done(here, "after")
    (moved,) = diff(here, "before", "after")["files"]
    assert moved["rows"] == {"added": 1, "removed": 0, "changed": 0, "same": 2}
    add_rows(here, "old.jsonl", "a", "B")
    done(here, "replaced")
    (replaced,) = diff(here, "before", "replaced")["files"]
    assert replaced["rows"] == {"added": 0, "removed": 0, "changed": 1, "same": 1}
    assert replaced["change"] == "changed"


@pytest.mark.slow
def test_another_algorithm_is_one_knob_and_not_its_whole_block(here: Path) -> None:
    change(here, "params.yaml", "algorithm: ppo", "algorithm: rloo")
    done(here, "after")
    named = [(cause["what"], cause["a"], cause["b"]) for cause in diff(here, "before", "after")["causes"]]
    assert named == [("rl.algorithm", "ppo", "rloo")]
    change(here, "params.yaml", "rloo: {lr: 2.0}", "rloo: {lr: 3.0}")
    done(here, "faster")
    named = [(cause["what"], cause["a"], cause["b"]) for cause in diff(here, "before", "faster")["causes"]]
    assert named == [("algorithms.rloo.lr", 2.0, 3.0), ("rl.algorithm", "ppo", "rloo")]


def test_a_knob_of_the_command_line_is_a_parameter(here: Path) -> None:
    change(here, "params.yaml", "threads: 1", "threads: 2")
    done(here, "after")
    (cause,) = diff(here, "before", "after")["causes"]
    assert cause == {"kind": "param", "what": "threads", "a": 1, "b": 2, "read_by": ["rl"]}


def test_the_working_tree_is_told_before_it_is_run(here: Path) -> None:
    assert diff(here, "before")["causes"] == []
    add_rows(here, "new.jsonl", "c")
    (here / "params.yaml").write_text(PARAMS.replace("0.5", "0.25"))
    found = diff(here, "before")
    param, data = found["causes"]
    assert (param["what"], param["a"], param["b"]) == ("rl.kl_coef", 0.5, 0.25)
    assert data["files"] == [{"file": "preferences/new.jsonl", "change": "added"}]
    assert states(found) == dict.fromkeys(STAGES, "not run")
    (here / INBOX / "new.jsonl").unlink()
    assert states(diff(here, "before")) == {
        **{"collect": "same", "prepare": "same"},
        **{"rl": "not run", "evaluate": "not run"},
    }


@pytest.mark.slow
def test_other_bytes_from_the_same_inputs_are_not_passed_over(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOISE", "1")
    (here / "dvc.lock").unlink()
    for runs in (here / ".dvc/cache/runs").iterdir():  # what was made of these inputs before
        for entry in sorted(runs.rglob("*"), reverse=True):
            entry.unlink() if entry.is_file() else entry.rmdir()
    done(here, "after")
    found = diff(here, "before", "after")
    (cause,) = found["causes"]
    assert (cause["kind"], cause["what"]) == ("machine", "rl")
    assert states(found)["evaluate"] == "changed"


def test_a_run_that_stopped_half_way_differs_by_nothing_but_that(here: Path) -> None:
    lock = (here / "dvc.lock").read_text()
    keep(here, "half", lock[: lock.index("\n  rl:\n") + 1])
    found = diff(here, "before", "half")
    assert found["causes"] == []
    assert [stage for stage, state in states(found).items() if state == "not run"] == STAGES[2:]


@pytest.mark.slow
def test_what_the_cache_lacks_is_said(here: Path) -> None:
    change(here, "params.yaml", "kl_coef: 0.5", "kl_coef: 0.75")
    done(here, "after")
    for path in (here / ".dvc/cache/files").rglob("*"):
        if path.is_file():
            path.unlink()
    found = diff(here, "before", "after")
    assert [cause["what"] for cause in found["causes"]] == ["rl.kl_coef"]  # the lock files are enough
    assert found["policies"] == {"lacks": "before", "rows": []}
    assert "scores of before are not in the DVC cache" in text(here, "diff", "before", "after")


def test_it_fits_eighty_columns(here: Path) -> None:
    change(here, "params.yaml", "kl_coef: 0.5", "kl_coef: 0.75")
    done(here, "after")
    printed = text(here, "diff", "before", "after", COLUMNS="80")
    assert "param       rl.kl_coef: 0.5 → 0.75   (read by rl)" in printed
    assert "the same: collect, prepare" in printed
    assert "+0.250 [+0.250, +0.250] paired" in printed


def test_nobody_knows_this_name(story: Path) -> None:
    text(story, "diff", "nonsense", code=1)


def test_independent_means_by_square_and_add() -> None:
    """By hand: limits 0.3 and 0.4 below give 0.5; 0.6 and 0.8 above give 1."""
    a, b = {"mean": 1.0, "ci_low": 0.2, "ci_high": 1.4}, {"mean": 2.0, "ci_low": 1.7, "ci_high": 2.6}
    assert unpaired(a, b) == pytest.approx({"mean": 1.0, "ci_low": 0.5, "ci_high": 2.0})


def test_names_that_git_would_quote(here: Path) -> None:
    """A file that git has, of a stage that was never run: its bytes are compared, whatever it is called."""
    name = "data/champion/f\u00fcr dich.json"
    (here / name).parent.mkdir(exist_ok=True)
    for commit, content in (("named-a", "a"), ("named-b", "b")):
        (here / name).write_text(content)
        git(here, "add", "--force", name)
        git(here, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message", "kept")
        git(here, "tag", commit)
    sides = [open_side(here, text, here / ".dvc/cache") for text in ("named-a", "named-b", "")]
    assert [side.kept("data/champion") for side in sides] == [
        {name: sha256(text).hexdigest()} for text in (b"a", b"b", b"b")
    ]
