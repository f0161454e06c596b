"""A judge behind HTTP: a server on a thread of the test, which answers by a rule."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rlhf.chat import Chat
from rlhf.errors import DependencyDown, PreflowError
from rlhf.judge import Server, compare
from rlhf.rewards import Asked, Judged
from rlhf.sampler import Completion
from tests.web_servers import Quiet, on_a_thread

CHAT = Chat.from_words(["good", "bad", "fair", "q"])
QUESTION = [{"role": "user", "content": "q"}]
ASKED = Asked(CHAT.encode_prompt(QUESTION), QUESTION, {})


class Rule:
    """What the server does: `reply` gives the judge's words, or an HTTP status, from the request's body."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.status_text = ""  # body of a reply that is an HTTP status
        self.reply: Callable[[str, str], str | int] = by_worth


def by_worth(a: str, b: str) -> str | int:
    worth = {"good": 2, "fair": 1, "bad": 0}
    return "Thinking … [[C]] at first.\n" + ("[[A]]" if worth[a] > worth[b] else "[[B]]")


@pytest.fixture
def rule() -> Iterator[Rule]:
    found = Rule()

    class Handler(Quiet):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.requests.append(body | {"path": self.path})
            found.headers.append(dict(self.headers))
            reply = found.reply(*shown(body))
            status = reply if isinstance(reply, int) else 200
            text = json.dumps({"choices": [{"message": {"role": "assistant", "content": reply}}]}).encode()
            if status != 200:
                text = found.status_text.encode()
            self.send_response(status)
            self.send_header("Location", "http://elsewhere.invalid/")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    with on_a_thread(Handler) as url:
        found.url = f"{url}/v1/"  # type: ignore[attr-defined]
        yield found


def shown(body: dict[str, Any]) -> tuple[str, str]:
    text = body["messages"][-1]["content"]
    return tuple(text.split(f"<answer {name}>\n")[1].split("\n</answer")[0] for name in "AB")  # type: ignore[return-value]


def server(rule: Rule, **settings: Any) -> Server:
    return Server(rule.url, "toy", pause_seconds=0.0, timeout_seconds=5.0, **settings)  # type: ignore[attr-defined]


def said(*texts: str) -> list[Completion]:
    return [Completion(0, CHAT.encode_completion(text), [], "stop") for text in texts]


def test_both_orders_are_asked_greedily(rule: Rule) -> None:
    assert compare(server(rule).ask, QUESTION, "good", "bad").share == 1.0
    assert compare(server(rule).ask, QUESTION, "bad", "good").share == 0.0
    assert [shown(body) for body in rule.requests[:2]] == [("good", "bad"), ("bad", "good")]
    body = rule.requests[0]
    assert (body["path"], body["model"], body["temperature"]) == ("/v1/chat/completions", "toy", 0)
    assert "Authorization" not in rule.headers[0]


def test_orders_that_disagree_are_a_tie(rule: Rule) -> None:
    rule.reply = lambda a, b: "[[A]]"  # a judge that likes what comes first
    verdict = compare(server(rule).ask, QUESTION, "good", "bad")
    assert (verdict.share, verdict.replies["first_place"]) == (0.5, 2)


def test_win_share_within_the_group(rule: Rule) -> None:
    judged = Judged(server(rule).ask, CHAT.decode, parallel=3)
    assert judged([ASKED], said("good", "bad", "fair", "bad")).tolist() == pytest.approx([1, 1 / 6, 2 / 3, 1 / 6])
    assert len(rule.requests) == 6  # three different texts, both orders; equal texts are not asked
    assert judged.figures == {
        "judge_unparsable": 0.0, "judge_tie": 0.0, "judge_first_place": 0.5, "judge_undecided": 0.0,
    }  # fmt: skip
    assert judged([ASKED], said("good")).tolist() == [0.5]  # nobody to beat, and nobody was asked
    assert len(rule.requests) == 6


def test_replies_without_a_verdict_are_ties_that_are_counted(rule: Rule) -> None:
    rule.reply = lambda a, b: "I cannot say" if "fair" in (a, b) and a != "good" else by_worth(a, b)
    judged = Judged(server(rule).ask, CHAT.decode)
    assert judged([ASKED], said("good", "bad", "fair")).tolist() == [0.75, 0.25, 0.5]
    assert judged.figures["judge_unparsable"] == pytest.approx(3 / 6)
    rule.reply = lambda a, b: ""
    with pytest.raises(PreflowError, match="6 of 6 replies of the judge hold no verdict"):
        judged([ASKED], said("good", "bad", "fair"))


def test_a_completion_that_was_cut_off_loses_unasked_and_two_of_them_tie(rule: Rule) -> None:
    cut = [Completion(0, CHAT.encode_text("good"), [], "length") for _ in range(2)]
    judged = Judged(server(rule).ask, CHAT.decode)
    assert judged([ASKED], [*cut, *said("bad", "fair")]).tolist() == pytest.approx([1 / 6, 1 / 6, 2 / 3, 1.0])
    assert len(rule.requests) == 2  # bad against fair, both orders
    assert judged([ASKED], [cut[0], *said("good")]).tolist() == [0.0, 1.0]  # the same words, but one has an end
    assert judged([ASKED], cut).tolist() == [0.5, 0.5]
    assert len(rule.requests) == 2


@pytest.mark.parametrize(
    ("reply", "share"),
    [
        ("A is right.\n[[A]]", 1.0),
        ("**Final verdict:** [[A]].\n\n", 1.0),
        ("My verdict is [[A]]", 1.0),
        ("[[A]]", 1.0),
        ("[[A]]\nThough B is shorter.", 0.5),
        ("I would not say [[A]]", 0.5),
        ("[[B]] or [[A]]", 0.5),
        ("the answer says: [[A]]", 0.5),
        ("[[D]]", 0.5),
        ("", 0.5),
    ],
)
def test_only_a_last_line_that_is_a_verdict_is_one(reply: str, share: float) -> None:
    said_second = reply.replace("[[A]]", "[[X]]").replace("[[B]]", "[[A]]").replace("[[X]]", "[[B]]")
    replies = iter((reply, said_second))
    verdict = compare(lambda messages: next(replies), QUESTION, "good", "bad")
    assert verdict.share == share
    assert verdict.replies["unparsable"] == (0 if share == 1.0 else 2)


def test_an_error_shows_what_the_server_said_without_secrets(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_JUDGE_KEY", "a key")
    rule.status_text = "no model toy for a key\nand sk-abc, " + "x" * 400
    rule.reply = lambda a, b: 404
    judge = server(rule, key_variable="TOY_JUDGE_KEY", redact=lambda text: text.replace("sk-abc", "[secret]"))
    told = r"HTTP 404: no model toy for \[key\] and \[secret\], x+; see its url"
    with pytest.raises(PreflowError, match=told) as found:
        compare(judge.ask, QUESTION, "good", "bad")
    assert 100 < str(found.value).count("x") < 200
    rule.reply = lambda a, b: 503
    with pytest.raises(DependencyDown, match=r"HTTP 503: no model toy for \[key\]"):
        compare(server(rule, key_variable="TOY_JUDGE_KEY", attempts=1).ask, QUESTION, "good", "bad")


@pytest.mark.faults(
    27,
    injected="a judge that answers 503 and 429, once and for good",
    happens="tried again a bounded number of times, then DependencyDown, naming what it said",
)
def test_a_passing_fault_is_tried_again_and_a_lasting_one_is_a_dependency_down(rule: Rule) -> None:
    faults = [503, 429]
    rule.reply = lambda a, b: faults.pop() if faults else by_worth(a, b)
    assert compare(server(rule).ask, QUESTION, "good", "bad").share == 1.0
    assert len(rule.requests) == 4
    rule.reply = lambda a, b: 503
    with pytest.raises(DependencyDown, match=r"did not answer in 2 attempts .*HTTP 503"):
        server(rule, attempts=2).ask(rule.requests[0]["messages"])
    assert len(rule.requests) == 6


def test_the_first_failure_ends_all_that_was_to_be_asked(rule: Rule) -> None:
    rule.reply = lambda a, b: 401
    with pytest.raises(PreflowError, match="refused with HTTP 401"):
        Judged(server(rule).ask, CHAT.decode, parallel=1)([ASKED], said("good", "bad", "fair"))
    assert len(rule.requests) == 1


@pytest.mark.faults(
    27,
    injected="no judge at its address",
    happens="DependencyDown after the attempts, which says to start it or mend the url",
)
def test_nobody_at_home() -> None:
    with pytest.raises(DependencyDown, match="did not answer in 2 attempts"):
        Server("http://127.0.0.1:9/v1", "toy", attempts=2, pause_seconds=0.0).ask(QUESTION)


@pytest.mark.parametrize("status", [401, 404, 302, 307])
def test_a_refusal_or_a_redirect_ends_it_at_once(rule: Rule, status: int) -> None:
    rule.reply = lambda a, b: status
    with pytest.raises(PreflowError, match=f"refused with HTTP {status}"):
        compare(server(rule).ask, QUESTION, "good", "bad")
    assert len(rule.requests) == 1


def test_the_key_comes_from_the_environment_alone(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_JUDGE_KEY", "a key")
    compare(server(rule, key_variable="TOY_JUDGE_KEY").ask, QUESTION, "good", "bad")
    assert rule.headers[0]["Authorization"] == "Bearer a key"
    monkeypatch.delenv("TOY_JUDGE_KEY")
    with pytest.raises(PreflowError, match="TOY_JUDGE_KEY is empty"):
        compare(server(rule, key_variable="TOY_JUDGE_KEY").ask, QUESTION, "good", "bad")
