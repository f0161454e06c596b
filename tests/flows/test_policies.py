"""Policies by name: which version is meant, where its weights come from; a registry and a cache of a few lines."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from flows import dvc, policies
from flows.cache import object_path
from flows.card import card
from flows.policies import Found
from flows.serving import Layout
from rlhf.chat import Chat
from rlhf.errors import PreflowError
from rlhf.models.heads import RewardModel
from rlhf.models.policy import new_policy, save_policy
from tasks.shapes import KINDS
from tests.flows.toy import git

FILES = {"config.json": "{}", "adapters/1/weights": "abc"}


def put(cache: Path, content: str, suffix: str = "") -> str:
    md5 = hashlib.md5(content.encode()).hexdigest() + suffix
    path = cache / "files" / "md5" / md5[:2] / md5[2:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return md5


def put_folder(cache: Path, files: dict[str, str]) -> str:
    listing = [{"md5": put(cache, text), "relpath": name} for name, text in files.items()]
    return put(cache, json.dumps(listing), ".dir")


@pytest.fixture
def version(toy: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Version 3 of `policy`, whose files lie in the cache of the toy project."""
    cache = toy / ".dvc/cache"
    raw = {"origin.json": json.dumps({"pairs.csv": {"name": "pairs", "origin": "inbox/pairs.csv", "sha256": "0"}})}
    found = {
        "version": 3,
        "ref": "refs/preflow/runs/r1",
        "commit": git(toy, "rev-parse", "HEAD").strip(),
        "run": "r1",
        "candidate": "rl",
        "path": "data/10_rl/policy",
        "md5": put_folder(cache, FILES),
        "digests": {"data/01_raw/preferences": put_folder(cache, raw)},
        "profile": "",
        "scores": {"kl": {"mean": 3.25, "ci_low": 3.0, "ci_high": 3.5}},
    }
    monkeypatch.setattr(dvc, "cache", lambda _: cache)
    monkeypatch.setattr(policies.tracking, "version", lambda *asked: found | {"asked": asked[1:]})
    monkeypatch.chdir(toy)
    return found


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("", ("policy", None, "champion")),
        ("policy-mine", ("policy-mine", None, "champion")),
        ("policy@best", ("policy", None, "best")),
        ("policy/3", ("policy", 3, "champion")),
        ("policy/v3", ("policy", 3, "champion")),
        ("models:/policy/3", ("policy", 3, "champion")),
        ("models:/policy@champion", ("policy", None, "champion")),
    ],
)
def test_names_versions_and_aliases(version: dict[str, Any], text: str, asked: tuple[Any, ...]) -> None:
    with policies.opened(text, print) as found:
        assert found.version["asked"] == asked
        assert found.name == f"{asked[0]} v3"
        assert {name: (found.folder / name).read_text() for name in FILES} == FILES
    assert not found.folder.exists()


def test_folders_are_taken_as_they_lie(version: dict[str, Any], toy: Path) -> None:
    (toy / "data/05_sft/policy").mkdir(parents=True)
    (toy / "data/05_sft/policy/config.json").write_text("{}")
    with policies.opened("data/05_sft/policy", print) as found:
        assert (found.folder, found.root, found.version) == (toy / "data/05_sft/policy", toy, {})


def test_a_reward_model_is_no_policy(tmp_path: Path) -> None:
    """Its files are a policy's and a head's, so all but its answers looks right."""
    policy = new_policy(Chat.from_words(["say", "hello"]), 5)
    RewardModel(policy, seed=0).save(tmp_path / "rm")
    refused = pytest.raises(PreflowError, match=r"rm is a reward model, not a policy; name a `policy/`")
    with refused, policies.opened(str(tmp_path / "rm"), print):
        pass
    save_policy(policy, tmp_path / "policy")
    with policies.opened(str(tmp_path / "policy"), print) as found:
        assert found.folder == tmp_path / "policy"


def test_weights_that_the_cache_lacks_are_fetched_by_the_runs_ref(
    version: dict[str, Any], toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = toy / ".dvc/cache"
    lost = object_path(cache, hashlib.md5(b"abc").hexdigest())
    assert lost is not None
    lost.unlink()
    asked: list[tuple[str, ...]] = []
    remote: dict[str, str] = {}

    def call(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
        assert (tree / "params.yaml").exists()  # a checkout of the run
        asked.append(words)
        for text in remote.values():
            put(cache, text)
        return subprocess.CompletedProcess(words, 1, "", "ERROR: no remote\n")

    monkeypatch.setattr(dvc, "call", call)
    says: list[str] = []
    with pytest.raises(PreflowError, match=r"neither in the DVC cache nor on a DVC remote \(no remote\); `dvc push`"):
        policies.restore(toy, version, toy / "one", says.append)
    remote["adapters/1/weights"] = "abc"
    policies.restore(toy, version, toy / "two", says.append)
    assert (toy / "two/adapters/1/weights").read_text() == "abc"
    assert asked == [("fetch", "data/10_rl/policy")] * 2
    assert says == ["fetching data/10_rl/policy of refs/preflow/runs/r1 from the DVC remote …"] * 2
    assert not list((toy / ".preflow/worktrees").iterdir())  # nothing is left of the checkout


def test_a_run_of_another_clone_is_said_so(version: dict[str, Any], toy: Path) -> None:
    elsewhere = version | {"md5": "00" * 16 + ".dir", "commit": "0" * 40}
    with pytest.raises(PreflowError, match=r"is not in this clone.*`preflow reproduce "):
        policies.restore(toy, elsewhere, toy / "one", print)


def test_the_card_says_who_made_it_of_what(version: dict[str, Any], toy: Path, tmp_path: Path) -> None:
    sources = [
        {"name": "m", "origin": "hub.example/m", "revision": "c0ffee", "licence": "MIT", "target": "checkpoint"},
        {"name": "d", "origin": "hub.example/d", "revision": "main", "licence": "", "target": "given/preferences/d"},
    ]
    (toy / "params.yaml").write_text(json.dumps({"base": {"source": "checkpoint"}, "sources": sources}))
    git(toy, "commit", "-q", "-a", "-m", "mine")
    version["commit"] = git(toy, "rev-parse", "HEAD").strip()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/config.json").write_text("{}")
    found = Found("policy v3", tmp_path, toy, version)
    text = card(found, tmp_path / "out", "mine", Layout(rank=0, room=64), 5)
    unknown = "**not stated**: ask before you pass it on"
    for line in (
        "# policy v3",
        "| policy of the run | `rl` of r1 |",
        f"| weights in DVC | `data/10_rl/policy`, md5 `{version['md5']}` |",
        "| kl | 3.250 | [3.000, 3.500] |",
        "| base model | hub.example/m | c0ffee | MIT |",
        f"| data | hub.example/d | main | {unknown} |",
        f"| preferences | pairs.csv (inbox/pairs.csv) |  | {unknown} |",
        f"| config.json | `{hashlib.sha256(b'{}').hexdigest()}` |",
    ):
        assert line in text.splitlines(), line
    assert str(toy) not in text


@pytest.mark.parametrize(
    ("stage", "came", "kinds"),
    [
        ("sft", KINDS, {"corpus", "demonstrations"}),
        ("rl", KINDS, {*KINDS} - {"ratings"}),
        ("rl", {*KINDS} - {"prompts"}, {*KINDS} - {"prompts"}),  # prompts are then also the questions of ratings
        ("", KINDS, {*KINDS}),
    ],
)
def test_the_card_names_the_data_of_the_exported_policy_alone(
    toy: Path, stage: str, came: Collection[str], kinds: set[str]
) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(Path(__file__).parents[2] / name, toy / name)
    for kind in came:
        (toy / "data/01_raw" / kind).mkdir(parents=True)
        origin = {f"{kind}.csv": {"name": kind, "origin": "inbox", "revision": ""}}
        (toy / "data/01_raw" / kind / "origin.json").write_text(json.dumps(origin))
    outs = {"sft": "data/05_sft/policy", "rl": "data/10_rl/policy"}
    lock = {"stages": {name: {"outs": [{"path": path, "md5": "0"}]} for name, path in outs.items()}}
    (toy / "dvc.lock").write_text(json.dumps(lock))
    folder = toy / outs.get(stage, "policy")
    folder.mkdir(parents=True)
    text = card(Found("policy", folder, toy), folder, "mine", Layout(rank=0, room=64), 5)
    assert {kind for kind in KINDS if f"| {kind} | {kind}.csv (inbox) |" in text} == kinds


def test_a_source_of_data_that_was_not_read_is_not_named(toy: Path, version: dict[str, Any]) -> None:
    put_origin = {"pairs.csv": {"name": "pairs", "origin": "hub.example/pairs", "revision": ""}}
    version["digests"]["data/01_raw/preferences"] = put_folder(
        toy / ".dvc/cache", {"origin.json": json.dumps(put_origin)}
    )
    shutil.copyfile(Path(__file__).parents[2] / "dvc.yaml", toy / "dvc.yaml")
    target = {"origin": "hub.example/pairs", "revision": "", "licence": "MIT", "target": "given/preferences/pairs"}
    (toy / "params.yaml").write_text(json.dumps({"sources": [{"name": "pairs"} | target]}))
    git(toy, "commit", "-q", "-a", "-m", "mine")
    version["commit"] = git(toy, "rev-parse", "HEAD").strip()
    (toy / "out").mkdir()
    for path, named in (("data/05_sft/policy", False), ("data/11_dpo/policy", True)):
        found = Found("policy v3", toy, toy, version | {"path": path})
        text = card(found, toy / "out", "mine", Layout(rank=0, room=64), 5)
        assert ("hub.example/pairs" in text) is named


def test_code_runs_only_where_a_stage_wrote_it(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder from elsewhere may hold a trusted_code.json of its own."""
    (toy / "given").mkdir()
    (toy / "given/config.json").write_text('{"auto_map": {"AutoModelForCausalLM": "own.Model"}}')
    with policies.opened(str(toy / "given"), print) as found, pytest.raises(PreflowError, match="no stage of this"):
        policies.loaded(found)
    digests = {"data/05_sft/policy": "", "given": ""}
    monkeypatch.setattr(policies, "read_tree", lambda _: type("Tree", (), {"digests": lambda _: digests})())
    with policies.opened(str(toy / "given"), print) as found, pytest.raises(PreflowError, match=r"chat\.json"):
        policies.loaded(found)


@pytest.mark.faults(
    50, injected="`../` in a folder's listing in the DVC cache", happens="refused; nothing is written outside"
)
def test_a_listing_that_leads_out_of_its_folder_is_refused(version: dict[str, Any], toy: Path) -> None:
    cache = toy / ".dvc/cache"
    evil = version | {"md5": put_folder(cache, {"config.json": "{}", "../../planted": "x"})}
    with pytest.raises(PreflowError, match=r"names \.\./\.\./planted, which lies outside"):
        policies.restore(toy, evil, toy / "a/policy", print)
    assert not (toy / "planted").is_symlink()
    assert object_path(cache, "../" * 9 + "etc/passwd") is None
