"""`preflow verify`: one flipped byte in everything that a run stands on is found, named and mended.

Times of files are put back after a flip, as a disk that loses a bit leaves them: DVC says that nothing has changed.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import again, dvc, guards, launch, objects
from flows.cli import app
from flows.verify import files as verify_files
from flows.verify.found import Found
from rlhf.errors import PreflowError
from tasks import witness
from tests.flows.again_toy import INBOX, RUN, make_story
from tests.flows.toy import dvc_repro, git
from tests.flows.verify_story import POLICY, ROWS, cached, flip, said

ONE_FILE = json.dumps({"state.json": {"bytes": 2, "sha256": sha256(b"{}").hexdigest()}})


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


def test_what_a_comparison_begins_with_is_not_taken_for_the_run(story: Path) -> None:
    git(story, "update-ref", "refs/preflow/runs/compare-20260102-000000-abcd", f"refs/preflow/runs/{RUN}")
    assert said(code=0)["missing"] == []  # in MLflow, under its own name


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

    for module in (verify_files, again):
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
def test_what_nobody_has_whole_is_made_again(
    remote: str, story: Path, tmp_path: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (story / "dvc.lock").read_bytes()
    there = tmp_path / "store" / cached(story, POLICY, "weights").relative_to(dvc.cache(story))
    both(story)
    if remote == "damaged too":
        flip(there)
    elif remote == "without it":
        there.unlink()
    else:
        without_remote(story)
    forget = objects.forget_runs

    def forget_alone(cache: Path, md5s: set[str]) -> None:
        assert guards.is_held(story / ".preflow/run.lock"), "outputs are deleted while a run may begin"
        forget(cache, md5s)

    monkeypatch.setattr(objects, "forget_runs", forget_alone)
    answer = said("--fix", code=0)
    assert ran == ["preflow verify --fix"]
    assert {"made again by stage rl"} == {one["mended"] for one in answer["wrong"] if one["kind"] == "output"}
    assert (story / "dvc.lock").read_bytes() == before


@pytest.mark.slow
def test_nothing_is_run_with_other_settings_than_the_run_had(story: Path, ran: list[str]) -> None:
    both(story)
    without_remote(story)
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
    with pytest.raises(PreflowError, match="names no stages"):
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


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_checkpoint_that_a_run_clears_away_meanwhile_is_no_damage(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run keeps the newest few, and verify looks at others for minutes."""
    folders = [tmp_path / f".preflow/scratch/rl-01/checkpoints/step-00000{number}" for number in (1, 2)]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "state.json").write_text("{}")
    looked = []

    def problem(folder: Path) -> str:
        looked.append(folder)
        shutil.rmtree(folders[1] if when == "before" else folder)
        return "" if when == "before" else "unreadable: FileNotFoundError"

    monkeypatch.setattr(verify_files, "problem", problem)
    found = Found()
    verify_files.checkpoints(tmp_path, found)
    assert (found.wrong, found.notes) == ([], []) and len(looked) == (1 if when == "before" else 2)


@pytest.mark.parametrize("thing", ["data/rl/policy", {"md5": "0" * 32}])
def test_a_lock_with_an_entry_of_another_form_is_refused(thing: object) -> None:
    with pytest.raises(PreflowError, match=r"in stage rl, .* names no file"):
        verify_files.checked({"stages": {"rl": {"outs": [thing]}}}, "dvc.lock")


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


@pytest.mark.parametrize(("name", "spoil"), [("preferences/old.jsonl", flip), ("sources.json", Path.unlink)])
def test_an_input_comes_again_from_its_source(name: str, spoil: Callable[[Path], None], story: Path) -> None:
    spoil(story / "data/inbox" / name)
    own = (story / INBOX / "own.jsonl").stat().st_mtime_ns
    found_and_mended("input", "collect", "brought again from its source")
    assert (story / INBOX / "own.jsonl").stat().st_mtime_ns == own
    assert [path.name for path in (story / "data").glob(".*")] == []


def test_a_source_of_another_sha256_is_not_brought(story: Path) -> None:
    for path in (story / INBOX / "old.jsonl", story.parent / "shared/old.jsonl"):
        flip(path)
    content = (story / INBOX / "old.jsonl").read_bytes()
    assert said("--fix", code=1)["left"] == 1
    assert (story / INBOX / "old.jsonl").read_bytes() == content


def test_an_input_of_no_source_is_named_and_left_as_it_is(story: Path) -> None:
    flip(story / INBOX / "own.jsonl")
    (wrong,) = said(code=1)["wrong"]
    assert (wrong["kind"], wrong["where"], wrong["stage"]) == ("input", "data/inbox", "collect")
    content = (story / INBOX / "own.jsonl").read_bytes()
    ended = CliRunner().invoke(app, ["verify", "--fix"], catch_exceptions=False)
    assert ended.exit_code == 1
    assert "put the files that you gave there once more" in ended.stderr
    assert (story / INBOX / "own.jsonl").read_bytes() == content


def locked_too(root: Path, path: str) -> None:
    """Have dvc.lock name one more output of the last stage; DVC does not mind."""
    with (root / "dvc.lock").open("a") as lock:
        lock.write(f"    - path: {path}\n      hash: md5\n      md5: {'0' * 32}.dir\n")
    assert dvc.status(root) == {}


@pytest.mark.faults(
    50,
    injected="dvc.lock names a folder outside of the project, by `..` and in full",
    happens="verify --fix refuses it by name; the folder is as it was",
)
@pytest.mark.parametrize("form", ["../outside", "data/../../outside", "{}/outside"])
def test_a_lock_that_leads_out_is_refused_by_name(form: str, story: Path, tmp_path: Path, ran: list[str]) -> None:
    kept = tmp_path / "outside/kept"
    kept.parent.mkdir()
    kept.write_text("mine")
    path = form.format(tmp_path)
    locked_too(story, path)
    with pytest.raises(PreflowError, match=f"dvc.lock names {path} in stage evaluate, which is not below this project"):
        CliRunner().invoke(app, ["verify", "--fix"], catch_exceptions=False)
    assert kept.read_text() == "mine" and ran == []


def without_remote(root: Path) -> None:
    (root / ".dvc/config.local").unlink()
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n")


@pytest.mark.faults(
    50,
    injected="dvc.lock names a folder of the project as an output of a stage that writes no such thing",
    happens="verify --fix leaves it as it is",
)
def test_only_outputs_of_dvc_yaml_are_ever_deleted(story: Path, ran: list[str]) -> None:
    mine = story / "data/mine/notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    locked_too(story, "data/mine")
    assert {(one["where"], one["mended"]) for one in said("--fix", code=1)["wrong"]} == {("data/mine", None)}
    assert mine.read_text() == "mine" and ran == []


def test_nothing_is_deleted_behind_a_link_out_of_the_project(story: Path, tmp_path: Path, ran: list[str]) -> None:
    both(story)
    without_remote(story)
    shutil.move(story / "data/rl", tmp_path / "rl")
    (story / "data/rl").symlink_to(tmp_path / "rl")
    files = sorted((tmp_path / "rl").rglob("*"))
    assert said("--fix", code=1)["left"] == 2
    assert sorted((tmp_path / "rl").rglob("*")) == files and ran == []


def test_what_is_right_by_the_time_that_nobody_else_is_at_work_is_left_alone(
    story: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that was going on wrote it meanwhile."""
    flip(story / ROWS / "rows.jsonl")
    alone = objects.nobody_else

    @contextmanager
    def later(root: Path, what: str) -> Iterator[None]:
        with alone(root, what):
            flip(story / ROWS / "rows.jsonl")  # back
            yield

    monkeypatch.setattr(objects, "nobody_else", later)
    assert said("--fix", code=0)["wrong"] == []


def test_before_the_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_story(tmp_path / "fresh"))
    with pytest.raises(PreflowError, match="nothing was run here yet; `preflow run`"):
        CliRunner().invoke(app, ["verify"], catch_exceptions=False)
