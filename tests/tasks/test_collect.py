import hashlib
import json

import pytest

from rlhf.errors import DataRefused
from rlhf.records import read_rows, write_json
from tasks import collect as collecting
from tasks.collect import collect
from tasks.config.collect import Collect
from tasks.config.prepare import Prepare
from tasks.journal import Log
from tasks.prepare import prepare
from tasks.shapes import KINDS

ROWS = [
    {"instruction": f"Say {n}.", "input": "", "output": str(n), "chosen": f"{n}!", "rejected": "no"} for n in range(200)
]


def config(**values):
    return Collect.parse({"source": "inbox", **values}, "collect")


@pytest.fixture
def inbox(tmp_path):
    (tmp_path / "inbox" / "polite").mkdir(parents=True)
    (tmp_path / "inbox" / "polite" / "rows.json").write_text(json.dumps(ROWS, indent=1))
    return tmp_path / "inbox"


POLITE = {"file": "polite/rows.json", "kinds": ["demonstrations", "preferences", "prompts"]}


def through(tmp_path, inbox, eval_share=0.1, **values):
    collect(config(**values), inbox=inbox, out=tmp_path / "raw", log=Log.null())
    prepare(Prepare(eval_share=eval_share), raw=tmp_path / "raw", out=tmp_path / "prepared", log=Log.null())
    return {kind: list(read_rows(tmp_path / "prepared" / kind)) for kind in KINDS}


def test_one_file_serves_three_kinds_with_its_origin(tmp_path, inbox):
    digest = hashlib.sha256((inbox / "polite" / "rows.json").read_bytes()).hexdigest()
    about = {"name": "set", "origin": "example", "revision": "1", "licence": "MIT"}
    write_json(inbox / "sources.json", [about | {"sha256": digest, "files": {"polite/rows.json": digest}}])
    rows = through(tmp_path, inbox, inputs=[POLITE])
    origins = json.loads((tmp_path / "raw" / "preferences" / "origin.json").read_text())
    assert origins == {"rows.json": about | {"sha256": digest}}
    assert [len(rows[kind]) for kind in KINDS[:4]] == [0, 200, 200, 200]
    assert {row["source"] for row in rows["demonstrations"]} == {"set"}
    assert rows["preferences"][7]["file"] == "preferences/rows.json"
    lines = (inbox / "polite" / "rows.json").read_text().split("\n")
    assert "Say 7." in lines[rows["preferences"][7]["line"]]  # the line after the one with the brace


def test_a_question_is_on_one_side_in_every_kind_and_eval_is_the_eval_split(tmp_path, inbox):
    rows = through(tmp_path, inbox, inputs=[POLITE])
    sides = {}
    for kind in KINDS[1:]:
        for row in rows[kind]:
            sides.setdefault(row["group"], set()).add(row["split"])
    assert len(sides) == 200 and all(len(side) == 1 for side in sides.values())
    assert {row["group"] for row in rows["eval"]} == {row["group"] for row in rows["prompts"] if row["split"] == "eval"}
    assert len({row["id"] for row in rows["prompts"]}) == 200


def test_prompts_are_the_questions_where_none_came(tmp_path, inbox):
    rows = through(tmp_path, inbox, inputs=[POLITE | {"kinds": ["demonstrations", "preferences"]}])
    assert [row["messages"] for row in rows["prompts"]] == [row["messages"][:1] for row in rows["demonstrations"]]
    assert rows["prompts"][0]["file"] == "demonstrations/rows.json"


def test_a_shard_dropped_into_the_inbox_joins_and_changes_no_other_kind(tmp_path, inbox):
    before = through(tmp_path / "a", inbox, inputs=[POLITE])
    (inbox / "preferences").mkdir()
    (inbox / "preferences" / "more.jsonl").write_text('{"prompt": "Say 1000.", "chosen": "1000", "rejected": "no"}\n')
    after = through(tmp_path / "b", inbox, inputs=[POLITE])
    assert len(after["preferences"]) == 201
    assert after["preferences"][0]["file"] == "preferences/more.jsonl"
    for kind in ("demonstrations", "prompts", "eval", "corpus"):
        assert after[kind] == before[kind]
        for stage in ("raw", "prepared"):
            for file in (tmp_path / "a" / stage / kind).iterdir():
                assert file.read_bytes() == (tmp_path / "b" / stage / kind / file.name).read_bytes()


def test_evaluation_prompts_that_came_are_joined_by_those_set_apart(tmp_path, inbox):
    (inbox / "eval").mkdir()
    apart = through(tmp_path / "a", inbox, inputs=[POLITE])["eval"]
    own = [{"prompt": "Why?"}, {"prompt": apart[0]["messages"][0]["content"]}]
    (inbox / "eval" / "own.jsonl").write_text("\n".join(map(json.dumps, own)))
    rows = through(tmp_path / "b", inbox, inputs=[POLITE])["eval"]
    assert [row["id"] for row in rows[2:]] == [row["id"] for row in apart[1:]]
    assert [row["file"] for row in rows[:2]] == ["eval/own.jsonl"] * 2
    alone = through(tmp_path / "c", inbox, eval_share=0, inputs=[POLITE])["eval"]
    assert [row["split"] for row in alone] == ["eval", "eval"]


def test_the_embedded_world_is_written_and_a_shard_joins_it(tmp_path, inbox):
    small = {"num_documents": 100, "num_demonstrations": 20, "num_offline_pairs": 20, "num_prompts": 40}
    (inbox / "preferences").mkdir()
    (inbox / "preferences" / "more.jsonl").write_text('{"prompt": "Hi?", "chosen": "a", "rejected": "b"}')
    rows = through(tmp_path, inbox, source="world", world=small)
    assert [len(rows[kind]) for kind in KINDS[:4]] == [100, 20, 21, 40]
    assert {row["source"] for row in rows["preferences"]} == {"world", "more"}
    assert json.loads((tmp_path / "raw" / "prompts" / "origin.json").read_text())["world.jsonl"]["revision"] == "seed 0"


def test_a_group_that_the_source_names_is_kept(tmp_path, inbox):
    (inbox / "prompts").mkdir()
    (inbox / "prompts" / "p.jsonl").write_text(
        '{"prompt": "One?", "group": "sum 1"}\n{"prompt": "What is one?", "group": "sum 1"}'
    )
    rows = through(tmp_path, inbox)["prompts"]
    assert [row["group"] for row in rows] == ["sum 1", "sum 1"]


def test_what_cannot_be_read_is_carried_on(tmp_path, inbox):
    (inbox / "eval").mkdir()
    (inbox / "eval" / "e.jsonl").write_text('{"prompt": "Why?"}\n{"prompt": \n{"ask": "Why?"}\n')
    assert len(through(tmp_path, inbox)["eval"]) == 1
    refused = list(read_rows(tmp_path / "prepared" / "quarantine"))
    assert [(row["kind"], row["file"], row["line"], row["rule"]) for row in refused] == [
        ("eval", "eval/e.jsonl", 2, "readable"),
        ("eval", "eval/e.jsonl", 3, "shape"),
    ]


@pytest.mark.faults(47, injected="a file of the inbox changed after it was listed", happens="refused with both digests")
def test_a_file_that_was_changed_is_refused(tmp_path, inbox):
    about = {"name": "set", "origin": "example", "revision": "1", "licence": "MIT", "sha256": "0" * 64}
    write_json(inbox / "sources.json", [about | {"files": {"polite/rows.json": "0" * 64}}])
    with pytest.raises(DataRefused, match=r"rows\.json: sha256 is .*expects 0000"):
        through(tmp_path, inbox, inputs=[POLITE])


@pytest.mark.parametrize(
    ("name", "message"),
    [("absent.json", "no such file"), ("a.txt", "cannot be read"), ("rows.json", "has this name already")],
)
def test_a_file_that_cannot_be_taken_is_named(tmp_path, inbox, name, message):
    (inbox / "more").mkdir()
    for file in ("a.txt", "rows.json"):
        (inbox / "more" / file).write_text("[]")
    with pytest.raises(DataRefused, match=message):
        through(tmp_path, inbox, inputs=[POLITE, {"file": f"more/{name}", "kinds": ["prompts"]}])


def test_a_shard_that_nobody_would_read_is_refused(tmp_path, inbox):
    (inbox / "more.jsonl").write_text('{"text": "lost"}\n')
    with pytest.raises(DataRefused, match=r"more\.jsonl: would not be read; move it .* collect\.inputs"):
        through(tmp_path, inbox, inputs=[POLITE])
    (inbox / "preference").mkdir()
    (inbox / "more.jsonl").rename(inbox / "preference" / "more.jsonl")
    with pytest.raises(DataRefused, match=r"preference: would not be read; did you mean preferences/\?"):
        through(tmp_path, inbox, inputs=[POLITE])


def test_what_a_run_has_brought_is_taken_with_its_columns(tmp_path, inbox):
    given = inbox / "given" / "preferences"
    (given / "set" / "part").mkdir(parents=True)
    (given / "pairs.csv").write_text("question,better,worse\nHi?,yes,no\n")
    (given / "set" / "part" / "more.csv").write_text("question,better,worse\nWhy?,so,no\n")
    columns = {"prompt": "question", "preferences": {"chosen": "better", "rejected": "worse"}}
    rows = through(tmp_path, inbox, preferences="pairs.csv", columns=columns)
    assert [(row["file"], row["chosen"]) for row in rows["preferences"]] == [
        ("preferences/pairs.csv", "yes"),
        ("preferences/set-part-more.csv", "so"),
    ]
    origins = json.loads((tmp_path / "raw" / "preferences" / "origin.json").read_text())
    assert origins["pairs.csv"]["columns"] == {"prompt": "question", "chosen": "better", "rejected": "worse"}
    assert rows["demonstrations"] == []


def test_chosen_answers_serve_as_demonstrations_where_none_are_given(tmp_path, inbox):
    about = {"inputs": [POLITE | {"kinds": ["preferences"]}], "chosen_as_demonstrations": True}
    rows = through(tmp_path / "a", inbox, **about)
    pairs = {row["messages"][0]["content"]: row for row in rows["preferences"]}
    assert len(rows["demonstrations"]) == 200
    for row in rows["demonstrations"]:
        assert row["split"] == pairs[row["messages"][0]["content"]]["split"]
    (inbox / "demonstrations").mkdir()
    (inbox / "demonstrations" / "own.jsonl").write_text('{"prompt": "Hi?", "completion": "Hello."}\n')
    assert len(through(tmp_path / "b", inbox, **about)["demonstrations"]) == 1


def test_no_data_at_all_says_how_to_give_some(tmp_path, inbox):
    with pytest.raises(DataRefused, match=r"there is no data: name some \(--set collect\.preferences=FILE\)"):
        through(tmp_path, inbox)
    with pytest.raises(DataRefused, match=r"given/ratings is empty, and collect\.ratings names files"):
        through(tmp_path, inbox, ratings="x.csv")


def test_a_folder_in_a_folder_of_a_kind_is_refused_or_named(tmp_path, inbox):
    below = inbox / "preferences" / "2026" / "may"
    below.mkdir(parents=True)
    (below / "more.jsonl").write_text('{"prompt": "Say 1000.", "chosen": "1000", "rejected": "no"}\n')
    (inbox / "preferences" / ".ipynb_checkpoints").mkdir()
    (inbox / "preferences" / ".ipynb_checkpoints" / "x.jsonl").write_text("{}")
    with pytest.raises(
        DataRefused, match=r"2026/may/more\.jsonl: would not be read; move it up to preferences/, or name"
    ):
        through(tmp_path, inbox, inputs=[POLITE])
    named = {"file": "preferences/2026/may/more.jsonl", "kinds": ["preferences"]}
    assert len(through(tmp_path, inbox, inputs=[POLITE, named])["preferences"]) == 201


def test_a_file_that_comes_while_the_inbox_is_read_is_not_passed_over(tmp_path, inbox, monkeypatch):
    late = inbox / "demonstrations" / "late.json"
    late.parent.mkdir()
    really = collecting._take

    def take(*given, **named):
        late.write_text("[]")
        return really(*given, **named)

    monkeypatch.setattr(collecting, "_take", take)
    with pytest.raises(DataRefused, match=r"demonstrations/late.json was changed while .* was read; run again"):
        collect(config(inputs=[POLITE]), inbox=inbox, out=tmp_path / "raw", log=Log.null())
