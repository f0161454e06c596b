"""`preflow withdraw`: what it says, the data that it makes, and what a purge leaves."""

import html
import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from flows import guards, objects
from flows.cli import app
from flows.lineage import runs as lineage_runs
from flows.lineage.rows import Wanted
from flows.withdraw import withdraw as work
from rlhf.errors import Busy, PreflowError
from tests.flows.archive import Archive
from tests.flows.rows_toy import ADA, BEN, PAIRS, SPOILT, outs
from tests.flows.toy import Nobody, git

RUN = "20261101-120000-aaaa"
# What the three data stages are to withdrawals: rows that params withdraw are not written.
STAGE = """
import json, sys
from pathlib import Path
from ruamel.yaml import YAML

name, out, *deps = sys.argv[1:]
gone = YAML(typ="safe").load(Path("params.yaml").read_text())["withdraw"]
rows = [json.loads(line) for path in deps for line in Path(path).read_text().splitlines() if line]
left = [row for row in rows if row["annotator"] not in gone["annotators"] and row["id"] not in gone["rows"]]
if name == "validate":
    left = [row for row in left if row["line"] != 5]
Path(out).mkdir(parents=True, exist_ok=True)
file = {"collect": "pairs.jsonl", "prepare": "rows.jsonl", "validate": "train.jsonl"}[name]
Path(out, file).write_text("".join(json.dumps(row, sort_keys=True) + "\\n" for row in left))
if name == "collect":
    Path(out, "origin.json").write_text("{}")
"""


def stage(name: str, out: str, dep: str) -> dict[str, Any]:
    folder = dep if dep.endswith(".jsonl") else str(Path(dep).parent)
    return {
        "cmd": f"python stage.py {name} {out} {dep} # python -m tasks.{name} --params {name}",
        "deps": ["stage.py", folder],
        "params": ["withdraw"],
        "outs": [out],
    }


class Untold(Nobody):
    """MLflow, which has heard of no version."""

    def versions(self, *_: object) -> list[dict[str, Any]]:
        return []


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """A project whose data stages are three short programs, with one run that became the champion."""
    for name in ("MLFLOW_TRACKING_URI", "PREFLOW_HOME"):
        monkeypatch.delenv(name, raising=False)
    made = Archive(tmp_path / "project")
    (made.root / "inbox.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    (made.root / "stage.py").write_text(STAGE)
    monkeypatch.chdir(made.root)
    for module in (work, lineage_runs):
        monkeypatch.setattr(module, "tracking", Untold())
    made.promote(RUN, made.run(RUN, made.lock(outs())), 1)
    stages = {
        "collect": stage("collect", "data/01_raw/preferences", "inbox.jsonl"),
        "prepare": stage("prepare", "data/02_prepared/preferences", "data/01_raw/preferences/pairs.jsonl"),
        "validate": stage("validate", "data/03_validated/preferences", "data/02_prepared/preferences/rows.jsonl"),
    }
    YAML().dump({"stages": stages}, made.root / "dvc.yaml")
    git(made.root, "add", "-A")
    git(made.root, "commit", "-q", "-m", "short")
    return made


def withdraw(*words: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["withdraw", *words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def everything(root: Path) -> str:
    """All that lies in the project's data, cache and remote, but git."""
    folders = [root / "data", root / ".dvc" / "cache" / "files", root.parent / "remote"]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return "".join(path.read_text(errors="replace") for path in files)


def test_a_person_vanishes_and_every_model_is_named(archive: Archive) -> None:
    comments = (archive.root / "params.yaml").read_text().count("#")
    found = withdraw("--annotator", "ada")
    assert {one["path"].removeprefix("data/") for one in found["retire"]["models"]} == {
        "07_reward_model/policy_rm",
        "07_reward_model/held_out_rm",
        "09_rejection_sampling/policy",
        "09_rejection_sampling/random_control",
        "10_rl/policy",
        "11_dpo/policy",
    }
    assert found["retire"]["versions"] == [{"name": "policy", "version": 1, "champion": True}]
    made = found["withdrawn"]
    assert made["left"] == 0
    assert made["after"] != found["data_versions"][0]["version"]
    rows = [json.loads(line) for line in (archive.root / "data/03_validated/preferences/train.jsonl").open()]
    assert [row["annotator"] for row in rows] == ["ben", "ben"]
    assert "ada" not in (archive.root / "data/01_raw/preferences/pairs.jsonl").read_text()
    text = (archive.root / "params.yaml").read_text()
    assert YAML(typ="safe").load(text)["withdraw"] == {"sources": [], "annotators": ["ada"], "rows": []}
    assert text.count("#") == comments
    assert git(archive.root, "diff", "--stat").strip().endswith("1 file changed, 1 insertion(+), 1 deletion(-)")
    # The new data is a run that lineage knows, and no older one has changed.
    done = CliRunner().invoke(app, ["lineage", f"row:{BEN}", "--json"], catch_exceptions=False)
    runs = {tuple(one["runs"]) for one in json.loads(done.stdout)["data_versions"]}
    assert runs == {(RUN,), (made["run"],)}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("withdraw:\n  # who\n  annotators: []\n  rows: []\n", '  # who\n  annotators: ["a: b"]\n  rows: []\n'),
        ('withdraw:\n  annotators: ["x"]\nprepare: {}\n', '  annotators: ["x", "a: b"]\nprepare: {}\n'),
        ("withdraw:\n  rows: []\n", 'withdraw:\n  annotators: ["a: b"]\n  rows: []\n'),
        ("seed: 0\n", 'seed: 0\n\nwithdraw:\n  annotators: ["a: b"]\n'),
    ],
)
def test_one_line_of_the_settings_changes(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(before)
    work._set(path, Wanted("annotator", "a: b"))
    text = path.read_text()
    assert text.endswith(after)
    assert "a: b" in YAML(typ="safe").load(text)["withdraw"]["annotators"]
    work._set(path, Wanted("annotator", "a: b"))
    assert path.read_text() == text


def test_a_list_over_several_lines_is_left_to_its_author(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("withdraw:\n  annotators:\n  - x\n")
    with pytest.raises(PreflowError, match=r"add ada to withdraw\.annotators"):
        work._set(path, Wanted("annotator", "ada"))


def test_a_dry_run_touches_nothing(archive: Archive) -> None:
    before = everything(archive.root)
    assert withdraw("--row", ADA, "--dry-run")["withdrawn"] is None
    assert everything(archive.root) == before
    assert git(archive.root, "status", "--porcelain") == ""


def test_a_row_that_no_model_learnt_from_retires_none(archive: Archive) -> None:
    assert withdraw("--row", SPOILT, "--dry-run")["retire"] == {"models": [], "versions": []}


def test_a_purge_leaves_no_byte_of_the_row_and_says_what_is_lost(archive: Archive) -> None:
    remote = archive.root.parent / "remote"
    (archive.root / ".dvc/config").write_text(f"[core]\n    remote = here\n['remote \"here\"']\n    url = {remote}\n")
    git(archive.root, "commit", "-q", "-a", "-m", "remote")
    for path in sorted((archive.cache / "files").rglob("*")):
        if path.is_file():
            target = remote / path.relative_to(archive.cache)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    journal = archive.root / ".preflow/journal" / RUN / "validate-1/files"
    journal.mkdir(parents=True)
    said = {"prompt": "question 1", "better": "the good answer to 1", "worse": "the bad answer to 1"}
    (journal / "pairs.json").write_text(json.dumps([said]))
    (journal / "others.json").write_text(json.dumps([said | {"worse": "the bad answer to 2"}]))
    assert 'the good answer to 1"' in everything(archive.root)
    with pytest.raises(PreflowError, match=r"1 run can not be made again after this \(20261101-"):
        CliRunner().invoke(app, ["withdraw", "--row", ADA, "--purge"], catch_exceptions=False)
    found = withdraw("--row", ADA, "--purge", "--yes")
    left = everything(archive.root)
    assert 'the good answer to 1"' not in left
    assert ADA not in left
    assert 'the good answer to 2"' in left  # of the new version; the models stay
    assert found["purged"]["cached"] == found["purged"]["remote"]["here"] == 4  # raw, prepared, validated, pairs
    assert found["lost"] == {RUN: ["policy v1"]}
    assert not (journal / "pairs.json").exists() and (journal / "pairs.json.withdrawn").exists()
    assert (journal / "others.json").exists()


def test_a_row_that_the_gate_set_aside_is_purged_from_its_quarantine_too(archive: Archive) -> None:
    assert '"excerpt": "question 5"' in everything(archive.root)
    found = withdraw("--row", SPOILT, "--purge", "--yes")
    left = everything(archive.root)
    assert SPOILT not in left and "question 5" not in left
    assert "preferences/pairs.jsonl:5" not in left
    assert found["purged"]["cached"] == 4  # raw, prepared, quarantine, page


@pytest.mark.parametrize("name", ["my pairs.jsonl", "Ada's \"own\" & Bén's <15:30>.jsonl"])
def test_pages_go_whatever_the_name_of_the_file(archive: Archive, name: str) -> None:
    file = f"preferences/{name}"
    page = "<li><code>{}</code> {}</li>"
    row = PAIRS[0] | {"file": file}
    report = {
        "verdict.json": json.dumps({"examples": [f"{file}:1: of the row"]}),
        "report.html": page.format(html.escape(f"{file}:1"), "of the row"),
        "others.html": page.format(html.escape(f"{file}:12"), "of another row"),
    }
    more = {"data/02_prepared/preferences": {"rows.jsonl": [row]}, "data/03_validated/report": report}
    archive.run("20261102-120000-bbbb", archive.lock(outs() | more))
    folder = archive.root / "reports/20261102-120000-bbbb/validation"
    folder.mkdir(parents=True)
    for one, text in report.items():
        (folder / one).write_text(text)
    withdraw("--row", ADA, "--purge", "--yes")
    left = everything(archive.root)
    assert "of the row" not in left and "of another row" in left
    assert {path.name for path in folder.iterdir()} == {
        *("verdict.json.withdrawn", "report.html.withdrawn", "others.html")
    }


def test_the_address_of_a_remote_is_read_whole_however_long(archive: Archive) -> None:
    far = archive.root.parent / "/".join(["far"] * 60)  # DVC breaks lines at 80 columns where nobody says otherwise
    (archive.root / ".dvc/config").write_text(f"['remote \"here\"']\n    url = {far}\n")
    assert objects.remotes(archive.root) == {"here": far}


def test_a_purge_waits_for_runs(archive: Archive) -> None:
    lock = archive.root / ".preflow/worktrees/r2.lock"
    with guards.held(lock, "run r2"), pytest.raises(Busy, match="run r2, process"):
        CliRunner().invoke(app, ["withdraw", "--row", ADA, "--purge", "--yes"], catch_exceptions=False)
    assert git(archive.root, "status", "--porcelain") == ""


@pytest.mark.parametrize("words", [(), ("--row", ADA, "--annotator", "ada")])
def test_one_thing_at_a_time(archive: Archive, words: tuple[str, ...]) -> None:
    with pytest.raises(PreflowError, match="give one of --source, --annotator and --row"):
        CliRunner().invoke(app, ["withdraw", *words], catch_exceptions=False)


def test_what_people_read(archive: Archive) -> None:
    done = CliRunner().invoke(app, ["withdraw", "--annotator", "ada", "--dry-run"], catch_exceptions=False)
    for line in (
        "annotator:ada  2 rows, over all runs that are kept here",
        "to retire, as trained on them or built on what was: 6 models and 1 registered version",
        "  policy v1 (champion)  data/10_rl/policy, built on them",
    ):
        assert line in done.stdout.splitlines(), done.stdout


def test_each_number_says_what_it_counts(archive: Archive) -> None:
    (archive.root / ".preflow/journal/r/validate-1/files").mkdir(parents=True)
    (archive.root / ".preflow/journal/r/validate-1/files/pairs.json").write_text(json.dumps([{"id": ADA}]))
    (archive.root / "data/03_validated").mkdir(parents=True)
    (archive.root / "data/03_validated/metrics.json").write_text('{"preferences": {"clean": 3}}')
    words = ["withdraw", "--row", ADA, "--purge", "--yes"]
    told = CliRunner().invoke(app, words, catch_exceptions=False).stdout.splitlines()
    assert any(line.endswith("that the gate let through, to train and to measure on: preferences 3") for line in told)
    assert "deleted from the DVC cache: 4 files of data with the rows in it" in told
    assert "deleted outside of them: 1 file with the rows in it " in "\n".join(told)
    assert any(line.startswith(f"can not be made again: run {RUN}, policy v1") for line in told)


def test_a_run_that_came_after_the_question_is_purged_too(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own raw file has the row, on a line of its own, and no other run has that file."""
    late, touched_by, held = "20261102-120000-bbbb", work.touched_by, []
    more = outs() | {"data/02_prepared/preferences": {"rows.jsonl": [*PAIRS, PAIRS[0] | {"line": 9}]}}
    lock = archive.root / ".preflow/run.lock"

    def asked(*given: Any) -> Any:
        held.append(lock.exists() and guards.is_held(lock))
        found = touched_by(*given)
        if len(held) == 1:
            archive.run(late, archive.lock(more))
        return found

    monkeypatch.setattr(work, "touched_by", asked)
    assert late in withdraw("--row", ADA, "--purge", "--yes")["lost"]
    assert held == [False, True]
    assert ADA not in everything(archive.root)


def test_a_run_that_came_while_the_data_was_made_stops_the_purge(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = work._make

    def slow(*given: Any) -> Any:
        archive.run("20261102-120000-bbbb", archive.lock(outs(), also="late"))
        return make(*given)

    monkeypatch.setattr(work, "_make", slow)
    with pytest.raises(Busy, match="run 20261102-120000-bbbb has come while the data was made"):
        CliRunner().invoke(app, ["withdraw", "--row", ADA, "--purge", "--yes"], catch_exceptions=False)
    assert 'the good answer to 1"' in everything(archive.root)


def test_copies_of_any_name_and_links_into_the_cache_go(archive: Archive) -> None:
    objects_there = [path for path in (archive.cache / "files").rglob("*") if path.is_file()]
    raw = next(path for path in objects_there if 'the good answer to 1"' in path.read_text())
    folder = archive.root / ".preflow/worktrees/r2/data/01_raw/preferences"
    folder.mkdir(parents=True)
    (folder / "pairs.jsonl.gz").write_bytes(raw.read_bytes())
    (folder / "pairs.parquet").symlink_to(raw)
    (folder / "others.parquet").write_bytes(b"of nobody")
    withdraw("--row", ADA, "--purge", "--yes")
    assert [path.name for path in folder.iterdir()] == ["others.parquet"]
