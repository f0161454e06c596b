"""`preflow verify`: one flipped byte in everything that a run stands on is found, named and mended.

Times of files are put back after a flip, as a disk that loses a bit leaves them: DVC says that nothing has changed.
"""

import errno
import json
import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import again, dvc, launch, releases, verify
from flows.cache import files_of, object_path
from flows.cli import app
from tasks import witness
from tasks.lineage import read_tree
from tests.flows.again_toy import INBOX, RUN, clone_with_remotes, copied, done, make_story
from tests.flows.toy import dvc_repro

ONE_FILE = json.dumps({"state.json": {"bytes": 2, "sha256": sha256(b"{}").hexdigest()}})
POLICY, ROWS = "data/rl/policy", "data/prepared/preferences"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `story`, run once and pushed to `store`; policy v1 is promoted."""
    folder = tmp_path_factory.mktemp("verify")
    root = make_story(folder / "story")
    commit = done(root, "made")
    about = {"version": 1, "run": RUN, "ref": f"refs/preflow/runs/{RUN}", "candidate": "rl", "path": POLICY}
    releases.publish(root, "policy", about, commit)
    clone_with_remotes(root, folder)
    return folder


@pytest.fixture
def story(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it with a DVC remote of its own, in which the registry has what git has."""
    root = copied(made / "story", tmp_path / "story")
    store = copied(made / "store", tmp_path / "store")
    (root / ".dvc/config.local").write_text(f"['remote \"store\"']\n    url = {store}\n")
    version = {"name": "policy", "version": 1, "path": POLICY, "md5": md5_of(root, POLICY)}
    monkeypatch.setattr(verify.tracking, "versions", lambda _: [version])
    monkeypatch.chdir(root)
    return root


def md5_of(root: Path, path: str) -> str:
    return str(read_tree(root).digests()[path])


def flip(path: Path) -> None:
    """Turn the lowest bit of the last byte, and leave no other trace."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)
    path.chmod(before.st_mode & 0o777)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cached(root: Path, path: str, name: str = "") -> Path:
    """The object of the cache for an output, or for a file in it."""
    cache, md5 = dvc.cache(root), md5_of(root, path)
    found = files_of(cache, md5)[name] if name else object_path(cache, md5)
    assert found is not None
    return found


def said(*options: str, code: int) -> dict[str, Any]:
    ended = CliRunner().invoke(app, ["verify", "--json", *options], catch_exceptions=False)
    assert ended.exit_code == code, ended.output
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def found_and_mended(kind: str, stage: str, how: str) -> None:
    """One thing of this kind is wrong, DVC does not know of it, and it is mended for good."""
    (wrong,) = said(code=1)["wrong"]
    assert (wrong["kind"], wrong["stage"], wrong["mended"]) == (kind, stage, None)
    fixed = said("--fix", code=0)
    assert [(one["where"], one["mended"]) for one in fixed["wrong"]] == [(wrong["where"], how)]
    assert said(code=0)["wrong"] == []


def test_where_nothing_is_wrong_all_bytes_are_hashed(story: Path) -> None:
    answer = said(code=0)
    outs = [path for path in (story / "data").rglob("*") if path.is_file()]
    assert answer["files"] > len(outs)
    assert answer["bytes"] >= 2 * sum(path.stat().st_size for path in outs if "inbox" not in path.parts)
    ended = CliRunner().invoke(app, ["verify"], catch_exceptions=False)
    assert ended.stdout.startswith("all is as it should be: ")


def test_an_output(story: Path) -> None:
    assert dvc.status(story) == {}  # it has hashed them once, and trusts their times from now on
    flip(story / ROWS / "rows.jsonl")
    assert dvc.status(story) == {}
    assert "rows.jsonl" in said(code=1)["wrong"][0]["why"]
    found_and_mended("output", "prepare", "restored from the DVC cache")


def test_what_dvc_does_not_see_is_no_damage(story: Path) -> None:
    with (story / ".dvcignore").open("a") as file:
        file.write("*.swp\n/data/rl/policy/drafts\n")
    for name in ("notes.swp", "drafts/weights"):
        (story / POLICY / name).parent.mkdir(exist_ok=True)
        (story / POLICY / name).touch()
    assert dvc.status(story) == {} and said(code=0)["wrong"] == []
    (story / POLICY / "weights.new").touch()
    (wrong,) = said(code=1)["wrong"]
    assert wrong["where"] == POLICY and wrong["why"].endswith(", in weights.new")


@pytest.mark.faults(
    37,
    injected="a bit of an object flipped, its mode and times kept",
    happens="verify names it and its stage, where DVC sees nothing; --fix writes it anew from the output",
)
@pytest.mark.parametrize("name", ["weights", ""])
def test_an_object_of_the_cache_and_a_listing(name: str, story: Path) -> None:
    flip(cached(story, POLICY, name))
    assert dvc.status(story) == ({} if name else {"rl": [f"{POLICY} not in cache"]})
    found_and_mended("object", "rl", f"written anew from {POLICY}")


@pytest.mark.slow
def test_what_cannot_be_read(story: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad sector under an output and one under an object of the cache; what takes their place is on others."""
    bad = {path.stat().st_ino for path in (story / ROWS / "rows.jsonl", cached(story, POLICY, "weights"))}
    read = witness.file_md5

    def reads(path: Path) -> str:
        if path.stat().st_ino in bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read(path)

    for module in (verify, again):
        monkeypatch.setattr(module, "file_md5", reads)
    wrong = {one["kind"]: one["why"] for one in said(code=1)["wrong"]}
    assert wrong == {
        "object": "cannot be read: Input/output error",
        "output": "cannot be read: Input/output error: rows.jsonl",
    }
    assert all(one["mended"] for one in said("--fix", code=0)["wrong"])


def both(root: Path) -> None:
    """The same byte in working copy and cache: as where one is a link to the other."""
    flip(cached(root, POLICY, "weights"))
    flip(root / POLICY / "weights")


@pytest.mark.faults(
    37, injected="the same bit flipped in cache and working copy", happens="verify --fix fetches it from the DVC remote"
)
def test_what_is_damaged_everywhere_here_comes_from_the_remote(story: Path) -> None:
    both(story)
    answer = said("--fix", code=0)
    assert {one["kind"]: one["mended"] for one in answer["wrong"]} == {
        "object": "fetched from the DVC remote",
        "output": "restored from the DVC cache",
    }


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs are plain `dvc repro`; the commands that asked for them."""
    asked: list[str] = []

    def run(root: Path, wish: Any, *_: object, **__: object) -> None:
        asked.append(wish.command)
        dvc_repro(root)

    monkeypatch.setattr(launch, "run", run)
    return asked


@pytest.mark.parametrize("remote", ["damaged too", "without it", "none"])
@pytest.mark.slow
def test_what_nobody_has_whole_is_made_again(remote: str, story: Path, tmp_path: Path, ran: list[str]) -> None:
    before = (story / "dvc.lock").read_bytes()
    there = tmp_path / "store" / cached(story, POLICY, "weights").relative_to(dvc.cache(story))
    both(story)
    if remote == "damaged too":
        flip(there)
    elif remote == "without it":
        there.unlink()
    else:
        (story / ".dvc/config.local").unlink()
        (story / ".dvc/config").write_text("[core]\n    analytics = false\n")
    answer = said("--fix", code=0)
    assert ran == ["preflow verify --fix"]
    assert {"made again by stage rl"} == {one["mended"] for one in answer["wrong"] if one["kind"] == "output"}
    assert (story / "dvc.lock").read_bytes() == before


@pytest.mark.slow
def test_nothing_is_run_with_other_settings_than_the_run_had(story: Path, ran: list[str]) -> None:
    both(story)
    (story / ".dvc/config.local").unlink()
    (story / ".dvc/config").write_text("[core]\n    analytics = false\n")
    params = story / "params.yaml"
    params.write_text(params.read_text().replace("kl_coef: 0.5", "kl_coef: 0.6"))
    before = {path: path.read_bytes() for path in (story / POLICY).iterdir()}
    assert said("--fix", code=1)["left"] == 2
    assert ran == []
    assert {path: path.read_bytes() for path in (story / POLICY).iterdir()} == before
    assert cached(story, POLICY, "weights").exists(), "what may be all that is left was thrown away"


def test_an_output_of_a_stage_that_is_no_more_is_left_alone(story: Path, ran: list[str]) -> None:
    graph = (story / "dvc.yaml").read_text()
    (story / "dvc.yaml").write_text(graph[: graph.index("  evaluate:")])
    flip(story / "data/eval/scores.json")
    content = (story / "data/eval/scores.json").read_bytes()
    assert said("--fix", code=1)["left"] == 1
    assert (story / "data/eval/scores.json").read_bytes() == content
    assert ran == []


def test_a_truncated_lock_is_no_clean_bill(story: Path) -> None:
    (story / "dvc.lock").write_text("")
    with pytest.raises(verify.PreflowError, match="names no stages"):
        CliRunner().invoke(app, ["verify"], catch_exceptions=False)


def test_a_checkpoint_is_set_aside(story: Path) -> None:
    folder = story / ".preflow/scratch/rl-0123456789abcdef/checkpoints/step-000010"
    folder.mkdir(parents=True)
    (folder / "tensors.safetensors").write_bytes(b"weights")
    (folder / "state.json").write_bytes(b"weights")
    said_of = {"bytes": 7, "sha256": sha256(b"weights").hexdigest()}
    manifest = {"tensors.safetensors": said_of, "state.json": said_of}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert said(code=0)["wrong"] == []
    flip(folder / "tensors.safetensors")
    found_and_mended("checkpoint", "rl", "set aside as broken-step-000010: the stage goes on from the one before")
    assert "sha256" in (folder.with_name("broken-step-000010") / "reason.txt").read_text()


@pytest.mark.faults(
    50, injected="`../` in a checkpoint's manifest", happens="verify says that it leads out of the folder"
)
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "manifest.json").write_text(""), "unreadable: JSONDecodeError"),
        (lambda folder: (folder / "manifest.json").write_text('{"../../x": 1}'), "which is not in this folder"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "names no files"),
        (lambda folder: (folder / "manifest.json").write_text(ONE_FILE), "does not name tensors.safetensors"),
        (lambda folder: (folder / "manifest.json").unlink(), "unreadable: FileNotFoundError"),
    ],
)
@pytest.mark.slow
def test_a_manifest(spoil: Callable[[Path], object], says: str, story: Path) -> None:
    folder = story / ".preflow/scratch/sft-0123456789abcdef/checkpoints/step-000001"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (folder / "state.json").write_text("{}")
    spoil(folder)
    (wrong,) = said(code=1)["wrong"]
    assert (wrong["kind"], wrong["stage"]) == ("checkpoint", "sft")
    assert says in wrong["why"]


def test_an_input_is_named_and_left_as_it_is(story: Path) -> None:
    flip(story / INBOX / "old.jsonl")
    (wrong,) = said(code=1)["wrong"]
    assert (wrong["kind"], wrong["where"], wrong["stage"]) == ("input", "data/inbox", "collect")
    content = (story / INBOX / "old.jsonl").read_bytes()
    assert said("--fix", code=1)["left"] == 1
    assert (story / INBOX / "old.jsonl").read_bytes() == content


def test_a_version_that_the_registry_has_otherwise(story: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forged = {"name": "policy", "version": 1, "path": POLICY, "md5": "0" * 32 + ".dir"}
    monkeypatch.setattr(verify.tracking, "versions", lambda _: [forged])
    (wrong,) = said(code=1)["wrong"]
    assert (wrong["kind"], wrong["where"]) == ("version", "policy/1")
    assert md5_of(story, POLICY) in wrong["why"]


def test_before_the_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_story(tmp_path / "fresh"))
    with pytest.raises(verify.PreflowError, match="nothing was run here yet; `preflow run`"):
        CliRunner().invoke(app, ["verify"], catch_exceptions=False)
