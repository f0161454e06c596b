"""The stage adapter through its front door: a program started as dvc.yaml would start it."""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
TOY = '''
"""A toy stage."""
import atexit, os, sys, time
from collections import deque
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace
from pydantic import Field
from rlhf.errors import DataRefused
from rlhf.spending import ACCOUNT
from tasks.config import Section
from tasks.journal import Log
from tasks.stage import main


class Common(Section):
    length: int = Field(5, description="used by several stages")


class Toy(Section):
    lr: float = Field(1e-3, description="a number")
    mode: str = Field("ok", description="what to do")

    def further_outs(self) -> dict[str, str]:
        return {"looks": "mode"} if self.mode == "kept" else {}


def fail(*_: object) -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def toy(
    config: Toy, *, seed: int, common: Common, source: Path, other: Path | None = None, parts: dict[str, Path],
    out: Path, scratch: Path, shared: Path, log: Log,
) -> None:
    if os.environ.get("DEVICE_FAILS"):
        ACCOUNT.add(flops=1.0)
        cuda = {name: fail for name in ("is_available", "synchronize", "get_device_name", "max_memory_allocated")}
        sys.modules["torch"] = SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: True, **cuda))
    if config.mode == "refuse":
        (out / "half").write_text("never seen")
        raise DataRefused("3 bad rows, 0 allowed: mend rows.jsonl:7")
    if config.mode == "hang":
        (scratch / "here").write_text(str(os.getpid()))
        print("ready", flush=True)
        time.sleep(600)
    if config.mode == "deaf":
        print("ready", flush=True)
        deque(repeat(0), maxlen=0)  # for ever, with the interpreter's lock held: no handler of Python's runs
    if config.mode == "last words":
        atexit.register(Path("said").touch)
        print("not written yet")
    if config.mode == "kept":
        (out / "looks").mkdir()
    log({"toy/loss": 0.5}, step=1)
    (out / "model").mkdir()
    (out / "model" / "resumed").write_text(str((scratch / "progress").exists()))
    (scratch / "progress").touch()
    if os.environ.get("DIE"):
        raise SystemExit(9)
    (out / "model" / "weights").write_text(f"{source.read_text()} {seed} {config.lr} {common.length}")
    (out / "model" / "parts").write_text(" ".join(f"{name}:{path}" for name, path in parts.items()))
    (out / "model" / "seen").write_text(" ".join(path.name for path in shared.iterdir()))
    (shared / "kept").touch()
    (out / "model" / "scratch").write_text(scratch.name.rpartition("-")[0])


if __name__ == "__main__":
    main(toy)
'''
DVC = "import subprocess, sys; raise SystemExit(subprocess.run(sys.argv[1:]).returncode)"
GRAPH = """
stages:
  toy:
    cmd: python toy.py --params toy --source rows.jsonl --parts a=data/a b=data/b --out data/toy
    deps: [rows.jsonl]
    params: [seed, toy]
    outs: [data/toy/model]
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "toy.py").write_text(TOY)
    (tmp_path / "dvc").write_text(DVC)
    (tmp_path / "dvc.yaml").write_text(GRAPH)
    (tmp_path / "params.yaml").write_text("seed: 7\ntoy:\n  lr: 5e-6\ncommon: {length: 6}\n")
    (tmp_path / "rows.jsonl").write_text("rows")
    (tmp_path / "environment.json").write_bytes((REPO / "environment.json").read_bytes())
    return tmp_path


def command(*extra: str) -> list[str]:
    given = ["--params", "toy", "--source", "rows.jsonl", "--parts", "a=data/a", "b=data/b=c", "--out", "data/toy"]
    return [sys.executable, "toy.py", *given, *extra]


def environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPO), "PREFLOW_RUN": "test"}


def under_dvc(root: Path, stage: str = "toy", *extra: str, **further: str) -> subprocess.CompletedProcess[str]:
    """As dvc starts it, which is above its stages and tells them which one they are; with `further` variables."""
    argv = [sys.executable, "dvc", *command(*extra)]
    env = environ() | {"DVC_STAGE": stage} | further
    return subprocess.run(argv, cwd=root, env=env, text=True, capture_output=True, check=False)


def run(root: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*extra), cwd=root, env=environ(), text=True, capture_output=True, check=False)


def events(root: Path, attempt: int = 1) -> list[dict[str, object]]:
    path = root / ".preflow" / "journal" / "test" / f"toy-{attempt}" / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_stage_gets_its_section_and_leaves_its_output_and_journal(root: Path) -> None:
    done = run(root)
    assert done.returncode == 0, done.stderr
    assert (root / "data/toy/model/weights").read_text() == "rows 7 5e-06 6"
    kinds = [event["event"] for event in events(root)]
    assert kinds == ["start", "metrics", "end"]
    assert events(root)[-1]["status"] == "FINISHED"
    assert not list((root / "data").glob(".tmp-*"))
    assert (root / "data/toy/model/parts").read_text() == "a:data/a b:data/b=c"


def test_what_waits_for_the_end_of_a_stage_is_done(root: Path) -> None:
    (root / "params.yaml").write_text("seed: 7\ntoy: {lr: 1.0, mode: last words}\ncommon: {}\n")
    for start in (run, under_dvc):
        assert start(root).stdout == "not written yet\n"
        (root / "said").unlink()


def test_a_shared_folder_outlives_the_key_and_belongs_to_the_module(root: Path) -> None:
    assert run(root).returncode == 0
    assert (root / "data/toy/model/seen").read_text() == ""
    (root / "rows.jsonl").write_text("other rows")
    assert run(root).returncode == 0
    assert (root / "data/toy/model/seen").read_text() == "kept"
    assert (root / ".preflow" / "shared" / "toy" / "kept").exists()


def resumed(root: Path) -> bool:
    assert run(root).returncode == 0
    return (root / "data/toy/model/resumed").read_text() == "True"


def test_a_stage_typed_again_after_its_end_starts_anew(root: Path) -> None:
    assert not resumed(root)
    assert not list((root / ".preflow/scratch").glob("toy-*/"))
    assert not resumed(root)


DIGEST = "[0-9a-f]{12}"
CHANGED = {
    "nothing": None,
    "a file": f"rows.jsonl {DIGEST} → {DIGEST}$",
    "a file in a folder": f"data/a {DIGEST} → {DIGEST}$",
    "its section": "toy.lr 5e-06 → 6e-06$",
    "a shared section": "common.length 6 → 7$",
}


@pytest.mark.parametrize("changed", CHANGED)
@pytest.mark.faults(
    17, injected="a file, a folder or a setting of a stage changed after it was killed",
    happens="begins anew, and says how far the other attempt had come, what changed, old and new, and the way back",
)  # fmt: skip
def test_a_stage_typed_again_after_a_kill_goes_on_if_its_inputs_are_the_same(root: Path, changed: str) -> None:
    """The command line is the same each time: it holds names of files, not what is in them."""
    (root / "data/a").mkdir(parents=True)
    (root / "data/a/rows").write_text("1")
    (root / "dvc.yaml").write_text(GRAPH.replace("[rows.jsonl]", "[environment.json]").replace("[seed, toy]", "[seed]"))
    done = subprocess.run(command(), cwd=root, env=environ() | {"DIE": "1"}, check=False)
    assert done.returncode == 9
    params = (root / "params.yaml").read_text()
    if changed == "a file":
        (root / "rows.jsonl").write_text("other rows")
    elif changed == "a file in a folder":
        (root / "data/a/rows").write_text("2")
    elif changed == "its section":
        (root / "params.yaml").write_text(params.replace("5e-6", "6e-6"))
    elif changed == "a shared section":
        (root / "params.yaml").write_text(params.replace("length: 6", "length: 7"))
    done = run(root)
    assert (root / "data/toy/model/resumed").read_text() == str(changed == "nothing")
    anew = r"^toy: begins anew: an attempt that did not end had come to no checkpoint yet \(.*\), and since then: "
    assert bool(re.search(anew + (CHANGED[changed] or ""), done.stderr, re.MULTILINE)) is (changed != "nothing")
    newest = max((root / ".preflow/journal/test").glob("toy-*/events.jsonl"), key=lambda path: path.stat().st_mtime_ns)
    cost = json.loads(newest.read_text().splitlines()[-1])["cost"]
    assert ("resumed" in cost) is (changed == "nothing")  # its seconds are not those of all of the work


def test_what_dvc_runs_keeps_its_scratch_until_the_run_is_closed(root: Path) -> None:
    assert under_dvc(root).returncode == 0
    assert len(list((root / ".preflow/scratch").glob("toy-*/progress"))) == 1


def test_of_an_attempt_that_ended_or_is_at_work_nothing_is_said_when_another_begins(root: Path) -> None:
    assert under_dvc(root).returncode == 0
    (root / "params.yaml").write_text("seed: 7\ntoy: {mode: hang}\n")
    argv, env = [sys.executable, "dvc", *command()], environ() | {"DVC_STAGE": "toy"}
    with subprocess.Popen(argv, cwd=root, env=env, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        (root / "params.yaml").write_text("seed: 7\ntoy: {lr: 1}\n")
        said = under_dvc(root).stderr
        (at_work,) = (root / ".preflow/scratch").glob("toy-*/here")
        os.kill(int(at_work.read_text()), signal.SIGKILL)
    assert "anew" not in said
    (root / "params.yaml").write_text("seed: 7\ntoy: {lr: 2}\n")
    assert "toy.mode hang → absent" in under_dvc(root).stderr


def test_under_dvc_it_says_which_code_changed_and_goes_on_when_that_is_put_back(root: Path) -> None:
    (root / "dvc.yaml").write_text(GRAPH.replace("[rows.jsonl]", "[rows.jsonl, toy.py, environment.json]"))
    assert under_dvc(root, DIE="1").returncode == 9
    (root / "toy.py").write_text(TOY + "# a comment\n")
    said = under_dvc(root, DIE="1").stderr
    assert re.search(f"since then: toy.py {DIGEST} → {DIGEST}$", said, re.MULTILINE)
    assert "with that put back, the same command goes on from there" in said
    (root / "toy.py").write_text(TOY)
    assert under_dvc(root).returncode == 0
    assert (root / "data/toy/model/resumed").read_text() == "True"


@pytest.mark.faults(
    17, injected="the scratch folder of a stage under the name of another", happens="refused by what it is made of"
)
def test_what_is_of_another_attempt_is_refused_under_any_name(root: Path) -> None:
    assert under_dvc(root, DIE="1").returncode == 9
    (folder,) = (root / ".preflow/scratch").glob("toy-*/")
    kept = root / "kept"
    folder.rename(kept)
    (root / "params.yaml").write_text("seed: 8\ntoy:\n  lr: 5e-6\n")
    assert under_dvc(root, DIE="1").returncode == 9
    (other,) = (root / ".preflow/scratch").glob("toy-*/")
    shutil.rmtree(other)
    kept.rename(other)
    refused = under_dvc(root)
    assert refused.returncode == 1
    assert f"toy: what lies in {other} is of another toy (seed 7 → 8): remove the folder" in refused.stderr
    assert (other / "progress").exists()


def test_under_dvc_a_setting_that_writes_more_must_find_it_among_the_outs(root: Path) -> None:
    (root / "params.yaml").write_text("seed: 7\ntoy: {mode: kept}\n")
    refused = under_dvc(root)
    assert refused.returncode == 1
    assert "toy.mode writes data/toy/looks, which is not among the outs of stage `toy`" in refused.stderr
    assert run(root).returncode == 0  # by hand nothing is versioned
    (root / "dvc.yaml").write_text(GRAPH.replace("[data/toy/model]", "[data/toy/model, data/toy/looks]"))
    assert under_dvc(root).returncode == 0


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["a=x", "a=y"], "--parts: a is given more than once"),
        (["a"], "`a`: expected NAME=PATH"),
        (["=x"], "`=x`: expected NAME=PATH"),
    ],
)
def test_named_paths_are_named_once_each(root: Path, parts: list[str], message: str) -> None:
    done = run(root, "--parts", *parts)
    assert done.returncode == 2
    assert message in done.stderr


def test_two_stages_of_one_module_share_neither_scratch_nor_journal(root: Path) -> None:
    (root / "params.yaml").write_text("toy: {lr: 1}\ntoy_again: {lr: 2}\n")
    again = GRAPH.partition("stages:\n")[2].replace("toy:", "toy_again:").replace("--params toy", "--params toy_again")
    (root / "dvc.yaml").write_text(
        GRAPH + again.replace("data/toy", "data/again").replace("[seed, toy]", "[toy_again]")
    )
    done = under_dvc(root, "toy_again", "--params", "toy_again")
    assert done.returncode == 0, done.stderr
    assert (root / "data/toy/model/weights").read_text() == "rows 0 2.0 5"
    assert (root / "data/toy/model/scratch").read_text() == "toy_again"
    (journal,) = (root / ".preflow" / "journal" / "test").iterdir()
    assert journal.name == "toy_again-1"
    start = json.loads((journal / "events.jsonl").read_text().splitlines()[0])
    assert (start["stage"], list(start["config"])) == ("toy_again", ["toy_again", "common", "seed"])


def test_a_refusal_ends_with_its_code_and_reason_and_no_output(root: Path) -> None:
    (root / "params.yaml").write_text("seed: 7\ntoy: {mode: refuse}\n")
    done = run(root)
    assert done.returncode == 3
    assert done.stderr.strip() == "toy: 3 bad rows, 0 allowed: mend rows.jsonl:7"
    assert events(root)[-1]["exit_code"] == 3
    assert not (root / "data/toy").exists()


@pytest.mark.parametrize(("mode", "code", "status"), [("ok", 0, "FINISHED"), ("refuse", 3, "FAILED")])
def test_figures_that_cannot_be_had_change_nothing_of_its_end(root: Path, mode: str, code: int, status: str) -> None:
    """The device has failed when it is asked what it did."""
    (root / "params.yaml").write_text(f"seed: 7\ntoy: {{mode: {mode}}}\n")
    done = subprocess.run(
        command(), cwd=root, env=environ() | {"DEVICE_FAILS": "1"}, text=True, capture_output=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert "CUDA" not in done.stderr
    end = events(root)[-1]
    assert (end["status"], end["exit_code"]) == (status, code)
    cost = end["cost"]
    assert isinstance(cost, dict) and cost["flops"] == 1.0 and "matmul_rate" not in cost


def test_an_unknown_key_names_the_nearest_one(root: Path) -> None:
    (root / "params.yaml").write_text("toy: {lrr: 1}\n")
    done = run(root)
    assert done.returncode == 2
    assert "toy.lrr: unknown key; did you mean `lr`?" in done.stderr


@pytest.mark.faults(
    7,
    injected="a stage started twice, and with other parameters, then kill -9 of the first one's parent alone",
    happens="the others are refused with 75: one holds key and output folder; it ends with its parent",
)
def test_a_second_writer_is_refused_and_a_dead_parent_ends_the_first(root: Path) -> None:
    (root / "params.yaml").write_text("seed: 7\ntoy: {mode: hang}\n")
    wrapper = f"import subprocess; subprocess.run({command()!r})"
    with subprocess.Popen(
        [sys.executable, "-c", wrapper], cwd=root, env=environ(), stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "ready\n"
        second = run(root)
        (root / "params.yaml").write_text("seed: 8\ntoy: {mode: ok}\n")
        other = run(root)
        parent.send_signal(signal.SIGKILL)
        # The pipe closes only when the orphan is gone too: it holds the writing end.
        assert parent.stdout.read() == ""
    (here,) = (root / ".preflow/scratch").glob("toy-*/here")
    holder = f"is in use by stage toy, process {here.read_text()} on {platform.node()}"
    assert second.returncode == other.returncode == 75
    assert f"{here.parent.name} {holder}" in second.stderr
    assert f"data/toy {holder}" in other.stderr
    assert run(root).returncode == 0
    assert not list((root / "data").glob(".tmp-*"))
