"""`preflow data show`, from files of several shapes and from a project's own data."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows import cli
from flows.data.show import kind_of
from rlhf.chat import Chat
from rlhf.errors import PreflowError
from rlhf.records import content_id, write_rows

PAIR = {"prompt": "say no", "chosen": "no", "rejected": "yes yes"}
CANONICAL = {
    "messages": [{"role": "user", "content": "say no"}],
    "chosen": "no",
    "rejected": "yes yes",
    "annotator": "unknown",
    "origin": "offline",
    "margin": None,
}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a chat alone, and a terminal in an empty folder beside it."""
    Chat.from_words(["say", "no", "yes"]).save(tmp_path / "model")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "model"


def show(*words: str, env: dict[str, str] | None = None) -> str:
    done = CliRunner().invoke(cli.app, ["data", "show", *words], env=env)
    if done.exception:
        raise done.exception
    return done.stdout


def test_a_pair_of_a_file_token_by_token(model: Path) -> None:
    Path("pairs.jsonl").write_text(json.dumps({**PAIR, "chosen": "say"}) + "\n" + json.dumps(PAIR))
    told = json.loads(show("pairs.jsonl", "--row", "2", "--model", str(model), "--json"))
    assert (told["kind"], told["line"], told["id"]) == ("preferences", 2, content_id(CANONICAL))
    chosen, rejected = told["sequences"]
    assert (chosen["name"], rejected["name"]) == ("chosen", "rejected")
    assert chosen["tokens"] == ["<bos>", "<user>", "say", " no", "<bot>", "no", "<end>"]
    assert chosen["loss"] == [False] * 5 + [True] * 2
    assert rejected["loss"] == [False] * 5 + [True] * 3
    assert chosen["control"] == [True, True, False, False, True, False, True]
    plain = show("pairs.jsonl", "--row", "2", "--model", str(model))
    assert "\x1b" not in plain  # nobody's terminal
    lines = [" ".join(line.split()) for line in plain.splitlines()]
    assert lines[3:7] == ["1-2 control <bos>|<user>", "3-4 context say| no", "5 control <bot>", "6-7 loss no|<end>"]
    assert lines[2] == "chosen: 7 tokens, 2 under the loss, 4 control"
    assert lines[-1] == "6-8 loss yes| yes|<end>"


def test_colours_are_for_terminals_that_want_them(model: Path) -> None:
    Path("one.jsonl").write_text(json.dumps(PAIR))
    words = ("one.jsonl", "--model", str(model))
    loud = show(*words, env={"FORCE_COLOR": "1", "TERM": "xterm-256color"})
    assert "\x1b[1;32mno\x1b[0m" in loud  # trained: green
    quiet = show(*words, env={"FORCE_COLOR": "1", "TERM": "xterm-256color", "NO_COLOR": "1"})
    assert "\x1b[1;32m" not in quiet


def test_columns_of_other_names_and_tables(model: Path) -> None:
    Path("mine.csv").write_text('question,better,worse\n"say\nno",no,yes\nsay no,no,"yes yes"\n')
    named = ("--columns", "prompt=question", "--columns", "chosen=better", "--columns", "rejected=worse")
    told = json.loads(show("mine.csv", "--row", "2", *named, "--model", str(model), "--json"))
    assert (told["line"], told["id"]) == (4, content_id(CANONICAL))
    with pytest.raises(PreflowError, match="--columns chosen: expected OURS=THEIRS"):
        show("mine.csv", "--columns", "chosen")


def test_columns_that_nothing_reads_are_named(model: Path) -> None:
    Path("mine.csv").write_text("question,good,bad\nsay no,no,yes\n")
    done = CliRunner().invoke(cli.app, ["data", "show", "mine.csv", "--model", str(model)])
    assert done.stderr == "not used: good, bad; if they are answers: --columns chosen=good,rejected=bad\n"


def test_a_column_that_is_not_there_is_named_with_those_that_are(model: Path) -> None:
    Path("mine.csv").write_text("question,better,worse\nsay no,no,yes\n")
    Path("mine.jsonl").write_text(json.dumps({"question": "say no", "better": "no", "worse": "yes"}) + "\n")
    named = ("--columns", "prompt=question,chosen=beter,rejected=worse", "--model", str(model))
    for file in ("mine.csv", "mine.jsonl"):
        with pytest.raises(PreflowError) as told:
            show(file, *named)
        wanted = f"{file}: there is no column `beter` (--columns chosen; nearest: `better`); "
        assert str(told.value) == wanted + "the file has better, question, worse"
    with pytest.raises(PreflowError) as told:
        show("mine.csv", "--columns", "chose=better")
    assert str(told.value) == "--columns chose=better: `chose` is none of our fields; did you mean `chosen`?"


def test_a_kind_of_the_projects_data_by_id(model: Path) -> None:
    project = model.parent / "project"
    (project / "below").mkdir(parents=True)
    (project / "params.yaml").write_text("sft: {loss_on: all}\n")
    said = [{"role": "user", "content": "say"}, {"role": "assistant", "content": "no"}] * 2
    write_rows(project / "data/03_validated/demonstrations/train.jsonl", [{"id": "aa", "messages": said[:2]}])
    write_rows(project / "data/03_validated/demonstrations/val.jsonl", [{"id": "bb1", "messages": said}])
    Chat.from_words(["say", "no", "yes"]).save(project / "data/04_base/policy")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project / "below")
        told = json.loads(show("demonstrations", "--id", "bb", "--json"))
        assert (told["file"], told["line"]) == ("data/03_validated/demonstrations/val.jsonl", 1)
        assert sum(told["sequences"][0]["loss"]) == 4  # both turns: the project trains all
        with pytest.raises(PreflowError, match="demonstrations has no row of id cc"):
            show("demonstrations", "--id", "cc")
        with pytest.raises(PreflowError, match="there is no data/03_validated/prompts here"):
            show("prompts")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("none.jsonl",), "none.jsonl: no such file; name one, or a kind"),
        ((".",), r"^\. is a folder; name its files: bad.jsonl, ok.jsonl, role.jsonl$"),
        (("empty",), "^empty is a folder; no file in it can be read$"),
        (("ok.jsonl", "--row", "3"), "ok.jsonl has 1 rows, there is no row 3"),
        (("ok.jsonl", "--kind", "pairs"), "--kind pairs: no such kind"),
        (("ok.jsonl", "--kind", "corpus"), "ok.jsonl:1: no row of kind corpus: "),
        (("bad.jsonl",), "bad.jsonl:1: cannot be read: truncated JSON"),
        (("ok.txt",), "ok.txt: unknown kind of file"),
        (("role.jsonl",), "role.jsonl:1: .* cannot take this row: .*system"),
        (("ok.jsonl", "--model", "nowhere"), "--model nowhere: no tokenizer.json there"),
    ],
)
def test_mistakes_are_one_sentence(model: Path, words: tuple[str, ...], sentence: str) -> None:
    Path("empty").mkdir()
    Path("ok.jsonl").write_text(json.dumps(PAIR))
    Path("ok.txt").write_text(json.dumps(PAIR))
    Path("bad.jsonl").write_text('{"prompt": ')
    Path("role.jsonl").write_text(
        json.dumps({"messages": [{"role": "system", "content": "no"}] + CANONICAL["messages"]})
    )  # type: ignore[operator]
    with pytest.raises(PreflowError, match=sentence):
        show(*words, *(() if "--model" in words else ("--model", str(model))))


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (PAIR, "preferences"),
        ({"prompt": "a", "completions": ["b", "c"], "ranks": [1, 2]}, "preferences"),
        ({"prompt": "a", "completion": "b", "label": True}, "ratings"),
        ({"prompt": "a", "completion": "b"}, "demonstrations"),
        ({"instruction": "a", "input": "", "output": "b"}, "demonstrations"),
        ({"messages": [{"role": "user", "content": "a"}]}, "prompts"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "demonstrations"),
        ({"prompt": "a", "answer": "4"}, "prompts"),
        ({"text": "once"}, "corpus"),
    ],
)
def test_the_kind_is_told_by_the_keys(row: dict[str, object], kind: str) -> None:
    assert kind_of(row) == kind


def test_what_would_steer_the_terminal_is_written_out(model: Path) -> None:
    Chat.from_words(["a\x1b[2J", "b\u202e"]).save(model)
    Path("steers.jsonl").write_text(json.dumps({"prompt": "a\x1b[2J b\u202e"}))
    shown = show("steers.jsonl", "--model", str(model))
    assert r"a\x1b[2J| b\u202e" in shown
    assert "\x1b" not in shown and "\u202e" not in shown


def test_lengths_are_not_those_of_a_padded_batch(model: Path) -> None:
    """Some tokenizers are saved with the padding and the limit of their last batch, or take text for control tokens."""
    from tokenizers import Tokenizer

    from flows.data.tokens import tokenizer_of

    saved = Tokenizer.from_file(str(model / "tokenizer.json"))
    saved.enable_padding(length=9)
    saved.enable_truncation(4)
    saved.save(str(model / "tokenizer.json"))
    tokenizer, room = tokenizer_of(str(model))
    assert room == 0  # there is no config.json yet
    windowed = {"model_type": "mistral", "max_position_embeddings": 128, "sliding_window": 96}
    for values, wanted in ((windowed, 96), ({**windowed, "sliding_window": None}, 128), ({"n_positions": 5}, 0)):
        (model / "config.json").write_text(json.dumps(values))
        assert tokenizer_of(str(model))[1] == wanted
    encoded = tokenizer.encode_batch(["say no yes say no", "no"], add_special_tokens=False)
    assert [len(one.ids) for one in encoded] == [5, 1]
    (model / "config.json").write_text("version https://git-lfs")
    with pytest.raises(PreflowError, match="it cannot be read"):
        tokenizer_of(str(model))
