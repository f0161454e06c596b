"""`preflow chat`: questions in, answers out, on a pipe and between two policies; what it cannot do it says."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows import chat as chatting
from flows import cli
from flows.chat import Side, answer, converse
from rlhf import talk as talking
from rlhf.chat import Chat
from rlhf.errors import PreflowError
from rlhf.models import new_policy, save_policy
from rlhf.sampler import sample
from rlhf.seeding import derive
from rlhf.talk import Talk

WORDS = ["red", "green", "blue", "one", "two", "three"]


def policy(seed: int) -> Any:
    return new_policy(
        Chat.from_words(WORDS), seed, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, max_tokens=48,
        init_std=0.3,
    )  # fmt: skip


def expected(seed: int, question: str, number: int = 1) -> str:
    one = policy(seed)
    prompt = one.chat.encode_prompt([{"role": "user", "content": question}])
    drawn = sample(
        one, [prompt], max_new_tokens=10, temperature=0.7, group_size=1, seed=derive(0, "chat", number)
    )  # fmt: skip
    return str(one.chat.decode(drawn[0].ids))


def test_a_pipe_gives_an_answer_a_line(tmp_path: Path) -> None:
    save_policy(policy(1), tmp_path / "one")
    words = ["chat", str(tmp_path / "one"), "--max-new-tokens", "10"]
    done = CliRunner().invoke(cli.app, words, input="red two\n\n/reset\nred two\n/quit\nblue\n")
    assert done.exception is None
    assert done.stdout == (expected(1, "red two") + "\n") * 2
    assert "forgotten" in done.stderr


def test_two_policies_answer_each_question_with_their_own_history(tmp_path: Path) -> None:
    for seed in (1, 2):
        save_policy(policy(seed), tmp_path / str(seed))
    words = ["chat", str(tmp_path / "1"), "--versus", str(tmp_path / "2"), "--max-new-tokens", "10"]
    done = CliRunner().invoke(cli.app, words, input="red two\n")
    assert done.exception is None
    assert done.stdout == "".join(f"{tmp_path / str(seed)}: {expected(seed, 'red two')}\n" for seed in (1, 2))


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def sides() -> list[Side]:
    return [Side(f"policy v{seed}", Talk(policy(seed), max_new_tokens=10)) for seed in (1, 2)]


def test_what_cannot_be_asked_is_said_and_the_talk_goes_on(
    sides: list[Side], said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ["red " * 60, "/system be brief", "/nonsense", "/help", "//red", "one"]
    converse(sides[:1], iter(lines), answer, said.append)
    assert said[0].startswith("not asked: the question makes 63 tokens")
    assert said[1] == "policy v1 knows no system messages: its template has no place for them"
    assert said[2] == "/nonsense: no such command; there are /reset, /system, /help, /quit"
    assert [line.split()[0] for line in said[3:7]] == ["/reset", "/system", "/help", "/quit"]
    assert [message["content"] for message in sides[0].talk.messages[::2]] == ["/red", "one"]
    refused, *answered = capsys.readouterr().out.splitlines()  # a line each
    assert refused == ""
    assert len(answered) == 2


def test_an_answer_is_one_line_and_cannot_steer_the_terminal(
    sides: list[Side], said: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "one\n\x1b[2Jtwo\u202e\u2028é"
    monkeypatch.setattr(Talk, "ask", lambda *_: iter(evil))
    converse(sides[:1], iter(["red"]), answer, said.append)
    assert capsys.readouterr().out == "one\\n\\x1b[2Jtwo\\u202e\\u2028é\n"
    assert chatting.plain(evil) == "one\n\\x1b[2Jtwo\\u202e\\u2028é"
    converse(sides, iter(["red"]), chatting.answer_json, said.append)
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["answer"] for line in lines] == [evil, evil]
    assert all(line.isascii() for line in lines)


def test_a_line_that_is_no_utf8_is_refused_and_the_next_one_answered(tmp_path: Path) -> None:
    save_policy(policy(1), tmp_path / "one")
    words = ["chat", str(tmp_path / "one"), "--max-new-tokens", "10"]
    done = CliRunner().invoke(cli.app, words, input=b"red \xff\xfe\nred two\n")
    assert done.exception is None
    assert done.stdout == "\n" + expected(1, "red two") + "\n"
    assert "not asked: " in done.stderr
    done = CliRunner().invoke(cli.app, [*words, "--json"], input=b"red \xff\nred two\n")
    refused, told = map(json.loads, done.stdout.splitlines())
    assert refused["answer"] is None
    assert "refused" in refused
    assert told == {
        "model": str(tmp_path / "one"), "question": "red two", "answer": expected(1, "red two"),
        "cut": told["cut"], "forgotten": 0,
    }  # fmt: skip


def test_a_full_room_and_a_cut_answer_are_said(
    sides: list[Side], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy says one word a token: to its limit when asked in red, and then stops when asked in blue."""
    chat = sides[0].talk.policy.chat
    (red,), stop = chat.encode_text("red"), chat.stop_id

    def stream(_: Any, prompt: list[int], max_new_tokens: int, **__: Any) -> Iterator[int]:
        yield from [red] * max_new_tokens if prompt[-2] == red else [red, stop]

    monkeypatch.setattr(talking, "stream", stream)
    converse(sides[:1], iter(["blue " * 12, "red " * 12, "blue " * 3]), answer, said.append)
    assert said == [
        "(policy v1 was cut at its token limit)",
        "(policy v1 no longer sees the first 2 messages: its room is full)",
    ]
    answers = [len(message["content"].split()) for message in sides[0].talk.messages[1::2]]
    assert answers == [1, 10, 1]


def test_ctrl_c_ends_an_answer_and_not_the_talk(sides: list[Side], said: list[str]) -> None:
    def interrupted(_: Any, question: str) -> None:
        if question == "red":
            raise KeyboardInterrupt
        asked.append(question)

    asked: list[str] = []
    converse(sides, iter(["red", "two"]), interrupted, said.append)
    assert (asked, said) == (["two"], [" (stopped)"])


def test_two_columns_hold_whole_answers(sides: list[Side], capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    chatting._side_by_side(sides, "red two", Console(width=80))
    shown = capsys.readouterr().out
    left, right = (side.talk.messages[-1]["content"].split() for side in sides)
    heads, *rows = shown.splitlines()
    assert heads.split() == ["policy", "v1", "policy", "v2"]
    assert " ".join(row[:40] for row in rows).split() == left
    assert " ".join(row[40:] for row in rows).split() == right


def test_typed_lines_end_at_ctrl_d(monkeypatch: pytest.MonkeyPatch) -> None:
    def typed(ends: type[BaseException]) -> Callable[[str], str]:
        lines: Iterator[str] = iter(["a", "b"])

        def read(_: str) -> str:
            for line in lines:
                return line
            raise ends

        return read

    for ends in (EOFError, KeyboardInterrupt):
        monkeypatch.setattr("builtins.input", typed(ends))
        assert list(chatting._typed()) == ["a", "b"]


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("./none", "./none: no such folder; name one, or a registered model as NAME, NAME@champion or NAME/3"),
        ("empty", "empty holds no policy: it has no config.json"),
        ("torn", "torn: .*chat.json"),
    ],
)
def test_what_is_no_policy_is_one_sentence(
    model: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn/config.json").write_text("{}")
    with pytest.raises(PreflowError, match=sentence):
        raise CliRunner().invoke(cli.app, ["chat", model], input="").exception or AssertionError("no error")
