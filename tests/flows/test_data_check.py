"""`preflow data check` from outside: any folder, any file, one page."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flows.commands.data import _columns as columns_of
from flows.data.check import check
from rlhf.errors import PreflowError
from tasks.config import ConfigError

ROOT = Path(__file__).parents[2]


def pairs(path: Path, count: int = 120, **changes) -> Path:
    rows = [
        {
            "question": f"What is {n} plus {n}?",
            "better": f"It is {2 * n}." + " Yes." * (n % 2 * 5),
            "worse": f"Maybe {n}, or so.",
        }
        for n in range(count)
    ]
    for number, row in changes.items():
        rows[int(number.removeprefix("row"))] |= row
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


COLUMNS = {"prompt": "question", "chosen": "better", "rejected": "worse"}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_good_file_of_other_column_names_passes_and_leaves_one_page(tmp_path, capsys):
    pairs(tmp_path / "mine.jsonl", row4={"worse": "It is 8."})
    assert check(["mine.jsonl"], columns=COLUMNS, as_json=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["passed"] and told["files"] == {"preferences": ["mine.jsonl"]}
    assert (told["kinds"]["preferences"]["rows"], told["kinds"]["preferences"]["set_aside"]) == (120, 1)
    (rule,) = [rule for rule in told["kinds"]["preferences"]["rules"] if rule["broken"] and rule["severity"] != "note"]
    assert rule["rule"] == "same_answers" and rule["examples"][0].startswith("preferences/mine.jsonl:5:")
    assert {file.name for file in tmp_path.iterdir()} == {"mine.jsonl", "data-check.html"}
    page = (tmp_path / "data-check.html").read_text()
    for outside in ("http", "src=", "@import", "<script", "url("):
        assert outside not in page
    assert "mine.jsonl as preferences" in page and "the longer answer" in page.casefold()


def test_a_secret_is_refused_with_3_and_shown_nowhere(tmp_path, capsys):
    secret = "hf_" + "abcDEF123" * 3
    pairs(tmp_path / "mine.jsonl", row7={"better": f"use {secret}"})
    assert check(["mine.jsonl"], columns=COLUMNS, html="out/page.html") == 3
    said = capsys.readouterr().out
    assert "preferences/mine.jsonl:8: secret: a Hugging Face token" in said
    assert said.splitlines()[-2] == "refused: 1 to mend"
    assert secret not in said + (tmp_path / "out" / "page.html").read_text()


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (["none.csv"], {}, "none.csv: no such file"),
        (["."], {}, r"^\. is a folder; name its files: empty\.jsonl, mine\.jsonl, torn\.jsonl$"),
        (["mine.txt"], {}, "expected a name ending in .jsonl"),
        (["mine.jsonl"], {"kind": "pairs"}, "no such kind of data; there are corpus"),
        (["mine.jsonl"], {"columns": COLUMNS | {"chosen": "best"}}, "there is no column `best`"),
        (["mine.jsonl"], {"columns": COLUMNS, "model": "."}, "no tokenizer.json there"),
        (["empty.jsonl"], {}, "empty.jsonl: there is no row in it"),
        (["torn.jsonl"], {}, "no row of it can be read, .* The first: truncated JSON"),
        (["mine.jsonl"], {"columns": COLUMNS, "html": "."}, r"--html \.: the page cannot be written there"),
    ],
)
def test_mistakes_end_in_one_sentence(tmp_path, files, options, message):
    pairs(tmp_path / "mine.jsonl")
    for name in ("mine.txt", "empty.jsonl"):
        (tmp_path / name).write_text("")
    (tmp_path / "torn.jsonl").write_text('{"prompt": "one", ')
    with pytest.raises(PreflowError, match=message) as caught:
        check(files, **options)
    assert "\n" not in str(caught.value)


def test_the_command_ends_with_the_gates_exit_code(tmp_path):
    pairs(tmp_path / "mine.jsonl", row7={"better": "AKIA" + "ABCD1234" * 2})
    words = ["data", "check", "mine.jsonl", *(f"--columns={ours}={theirs}" for ours, theirs in COLUMNS.items())]
    call = [sys.executable, "-c", "from flows.cli import main; main()", *words]
    done = subprocess.run(call, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert "secret: a AWS access key" in done.stdout


def test_kinds_are_known_by_what_rows_hold(tmp_path, capsys):
    lines = {
        "a.jsonl": {"instruction": "Add.", "input": "1 and 2", "output": "3"},
        "b.jsonl": {"prompt": "Hi", "completion": "Hello", "label": True},
        "c.jsonl": {"text": "Once upon a time."},
        "d.jsonl": {"question": "1 + 1?", "answer": "One and one.\n#### 2"},
        "e.jsonl": {"prompt": "Hi", "completions": ["a", "b"], "ranks": [1, 2]},
        "f.jsonl": {"prompt": "Tell me."},
    }
    for name, row in lines.items():
        (tmp_path / name).write_text(json.dumps(row) + "\n")
    check(list(lines), as_json=True)
    assert json.loads(capsys.readouterr().out)["files"] == {
        "demonstrations": ["a.jsonl", "d.jsonl"],
        "ratings": ["b.jsonl"],
        "corpus": ["c.jsonl"],
        "preferences": ["e.jsonl"],
        "prompts": ["f.jsonl"],
    }


def test_a_handful_of_rows_is_counted_as_people_count(tmp_path, capsys):
    """Of a few rows 95% are all of them or half: only what is the longest is said."""
    pairs(tmp_path / "mine.jsonl", count=30)
    (tmp_path / "one.jsonl").write_text('{"prompt": "Tell me."}\n')
    check(["mine.jsonl"], columns=COLUMNS)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("mine.jsonl: 30 preferences, 30 clean") and "95% up to" in said[1]
    assert check(["one.jsonl"]) == 3
    assert capsys.readouterr().out.splitlines()[:2] == [
        "one.jsonl: 1 prompt, 1 clean, 0 set aside", "  prompt: 8 characters (median), 8 to 8",
    ]  # fmt: skip


def test_columns_that_nothing_reads_are_named(tmp_path, capsys):
    (tmp_path / "mine.csv").write_text("id,question,good,bad,empty\n1,Why?,So.,No.,\n2,How?,Thus.,Not.,\n")
    check(["mine.csv"])
    note = "mine.csv: not used: good, bad; if they are answers: --columns chosen=good,rejected=bad"
    assert note in capsys.readouterr().out.splitlines()
    assert note in (tmp_path / "data-check.html").read_text()
    check(["mine.csv"], as_json=True)
    assert json.loads(capsys.readouterr().out)["unused"] == {"mine.csv": ["good", "bad"]}
    check(["mine.csv"], columns={"chosen": "good", "rejected": "bad"})
    assert "not used" not in capsys.readouterr().out


def test_columns_of_a_known_data_set_are_read_and_others_than_prompts_hold_no_answers(tmp_path, capsys):
    svamp = {"Body": "Two and two", "Question": "How many?", "Answer": 4, "Equation": "2 + 2", "Type": "sum"}
    (tmp_path / "a.jsonl").write_text(json.dumps(svamp))
    check(["a.jsonl"], kind="demonstrations")
    assert "a.jsonl: not used: Type" in capsys.readouterr().out.splitlines()


def test_names_and_reasons_do_not_steer_the_terminal(tmp_path, capsys):
    name = "a\x1b[2Jb\u202e.jsonl"
    pairs(tmp_path / name, row4={"better": "<|\x1b[31m|>"})
    check([name], columns=COLUMNS)
    said = capsys.readouterr().out
    assert "\\x1b[2J" in said and all(one.isprintable() for one in said.replace("\n", ""))


def test_columns_are_named_one_by_one_or_with_commas():
    given = ["prompt=question,chosen=good", "rejected=bad, or so"]
    assert columns_of(given) == {"prompt": "question", "chosen": "good", "rejected": "bad, or so"}
    with pytest.raises(ConfigError, match="--columns chosen: expected OURS=THEIRS"):
        columns_of(["prompt=question", "chosen"])


@pytest.mark.parametrize("name", ["origin.json", ".jsonl", "2-mine.jsonl", "3-mine.jsonl"])
def test_a_file_of_any_name_is_read_and_left_as_it_is(name, tmp_path, capsys):
    """Also of the name that `prepare` looks for beside rows, of an ending alone, and of what a second one is called."""
    pairs(tmp_path / name)
    (tmp_path / "other").mkdir()
    for folder in (tmp_path, tmp_path / "other"):
        pairs(folder / "mine.jsonl", 60)
    before = (tmp_path / name).read_bytes()
    check([name, "mine.jsonl", "other/mine.jsonl"], columns=COLUMNS, as_json=True)
    assert (tmp_path / name).read_bytes() == before
    assert json.loads(capsys.readouterr().out)["kinds"]["preferences"]["rows"] == 240


def test_a_model_that_names_no_room_is_not_said_to_have_none(tmp_path, capsys, monkeypatch):
    from flows.data import tokens

    pairs(tmp_path / "mine.jsonl")
    monkeypatch.setattr(tokens, "tokenizer_of", lambda _: ())
    counted = {"quantiles": {"prompt": [1, 5, 9]}, "too_long": 0, "room": 0, "rows": 120, "equal_pairs": None}
    monkeypatch.setattr(tokens, "count", lambda *_: counted)
    check(["mine.jsonl"], columns=COLUMNS, model="any")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "tokens (median)" in line]
    assert line.strip() == "tokens (median): prompt 5 (95% up to 9)"
