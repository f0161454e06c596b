"""Bad rows, one at a time, in every kind of raw data: each is found by the rule that is meant for it, at its place."""

import json
from pathlib import Path

import pytest

from rlhf.records import group_of, read_rows, split_of, write_rows
from tasks.collect import collect
from tasks.config.collect import Collect
from tasks.config.prepare import Prepare
from tasks.config.validate import Validate
from tasks.journal import Log
from tasks.prepare import prepare
from tasks.shapes import KINDS
from tasks.validation import Context, check

EXPECTATIONS = Path(__file__).parents[2] / "data" / "expectations"
SHARES = {"eval": 0.0, "val": 0.1, "train": 0.9}  # all evaluation prompts are given
SECRET = "hf_" + "abcDEF123" * 3
LINE = 3  # where the bad row is put


def said(role, content):
    return {"role": role, "content": content}


def good(kind, number):
    question = [said("user", f"What is {number} and one, for {kind}?")]
    answers = [f"It is {number + 1}.", f"No idea about {number}, sorry."]
    return {
        "corpus": {"text": f"{number} and one is {number + 1}, says the corpus."},
        "demonstrations": {"messages": [*question, said("assistant", answers[0])]},
        "preferences": {"messages": question, "chosen": answers[number % 2], "rejected": answers[1 - number % 2]},
        "prompts": {"messages": question},
        "ratings": {"messages": question, "completion": answers[number % 2], "label": number % 3 > 0},
        "eval": {"messages": question},
    }[kind]


def asking(kind, *messages):
    """A row of the kind with these messages before its answer."""
    if kind == "demonstrations":
        return {"messages": [*messages, said("assistant", "An answer.")]}
    answers = {
        "preferences": {"chosen": "An answer.", "rejected": "Another one."},
        "ratings": {"completion": "An answer.", "label": True},
    }
    return {"messages": list(messages)} | answers.get(kind, {})


def answering(kind, answer):
    question = said("user", "What now?")
    if kind == "demonstrations":
        return {"messages": [question, said("assistant", answer)]}
    if kind == "ratings":
        return {"messages": [question], "completion": answer, "label": False}
    return {"messages": [question], "chosen": answer, "rejected": "Another one."}


def exam_question():
    """One whose own hash says train, so that only the evaluation set protects it."""
    questions = [good("eval", number)["messages"] for number in range(40)]
    return next(messages for messages in questions if split_of(group_of(messages), SHARES) == "train")


def raw(row):
    return json.dumps(row).encode()


TALKING = ("demonstrations", "preferences", "prompts", "eval", "ratings")
ANSWERED = ("demonstrations", "preferences", "ratings")
MARKUP = said("user", "hi <|assi\u200bstant|> ha")
MANY = [said(role, "x") for _ in range(60) for role in ("user", "assistant")] + [said("user", "x")]
WRONG = {"meta": {"equation": "2 + 2", "answer": "5"}}
FAULTS = {  # name: (kinds, the line, rule)
    "truncated": (KINDS, lambda kind: raw(good(kind, 99))[:-6], "readable"),
    "bad UTF-8": (KINDS, lambda kind: raw(good(kind, 99)).replace(b"9", b"\xff", 1), "readable"),
    "key twice": (KINDS, lambda kind: raw(good(kind, 99))[:-1] + b', "x": 1, "x": 2}', "readable"),
    "huge row": (("eval",), lambda kind: raw(good(kind, 99) | {"x": "y" * 60_000}), "readable"),
    "nothing there": (KINDS, lambda kind: b'{"hello": "world"}', "shape"),
    "wrong type": (KINDS, lambda kind: b'{"messages": [{"role": "user", "content": 3}]}', "shape"),
    "no content": (("demonstrations", "preferences"), lambda kind: b'{"messages": [{"role": "user"}]}', "shape"),
    "no answer": (("demonstrations",), lambda kind: raw({"messages": [said("user", "hi")]}), "role_order"),
    "wrong role": (TALKING, lambda kind: raw(asking(kind, said("wizard", "hi"))), "roles"),
    "role order": (TALKING, lambda kind: raw(asking(kind, *[said("user", "hi")] * 2)), "role_order"),
    "empty prompt": (TALKING, lambda kind: raw(asking(kind, said("user", " \n"))), "empty_prompt"),
    "empty reply": (ANSWERED, lambda kind: raw(answering(kind, " ")), "empty_reply"),
    "equal pair": (("preferences",), lambda kind: raw(answering(kind, "Another  one.")), "same_answers"),
    "long prompt": (TALKING, lambda kind: raw(asking(kind, said("user", "why? " * 500))), "long_prompt"),
    "long reply": (ANSWERED, lambda kind: raw(answering(kind, "so " * 900)), "long_reply"),
    "long document": (("corpus",), lambda kind: raw({"text": "so " * 9000}), "long_document"),
    "empty document": (("corpus",), lambda kind: raw({"text": ""}), "empty_document"),
    "duplicate": (TALKING, lambda kind: raw(good(kind, 0)), "duplicate"),
    "markup": (TALKING, lambda kind: raw(asking(kind, MARKUP)), "control_marker"),
    "markup in a document": (("corpus",), lambda kind: raw({"text": "a [INST] b"}), "control_marker"),
    "exam": ((*ANSWERED, "prompts"), lambda kind: raw(asking(kind, *exam_question())), "leaked_eval"),
    "exam in a document": (("corpus",), lambda kind: raw({"messages": exam_question()}), "leaked_eval"),
    "override": (TALKING, lambda kind: raw(asking(kind, said("user", "safe\u202etxt.exe"))), "hidden"),
    "NUL": (TALKING, lambda kind: raw(asking(kind, said("user", "a\0b"))), "hidden"),
    "heap of marks": (TALKING, lambda kind: raw(asking(kind, said("user", "Z" + "\u0336" * 300))), "mark_run"),
    "address": (TALKING, lambda kind: raw(asking(kind, said("user", "mail jane@company.org"))), "personal"),
    "many turns": (TALKING, lambda kind: raw(asking(kind, *MANY)), "many_turns"),
    "wrong sum": (("prompts", "eval"), lambda kind: raw(asking(kind, said("user", "2 + 2?")) | WRONG), "wrong_answer"),
    "secret": (TALKING, lambda kind: raw(asking(kind, said("user", f"is {SECRET} mine?"))), "secret"),
    "secret in a document": (("corpus",), lambda kind: raw({"text": SECRET}), "secret"),
}
STOPS = ("leaked_eval", "secret")  # all other rules here set the row aside
CASES = [(kind, fault) for fault, (kinds, *_) in FAULTS.items() for kind in kinds]


def prepared(tmp_path, kind=None, line=b""):
    """Forty good rows of every kind, and the bad line at LINE of one of them, through collect and prepare."""
    inbox = tmp_path / "inbox"
    for each in KINDS:
        lines = [raw(good(each, number)) for number in range(40)]
        if each == kind:
            lines.insert(LINE - 1, line)
        (inbox / each).mkdir(parents=True)
        (inbox / each / "shard.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    collect(Collect(source="inbox"), inbox=inbox, out=tmp_path / "01_raw", log=Log.null())
    prepare(
        Prepare(eval_share=0, max_row_bytes=50_000),
        raw=tmp_path / "01_raw",
        out=tmp_path / "02_prepared",
        log=Log.null(),
    )
    return tmp_path / "02_prepared"


def judge(folder, kind):
    rows = {each: list(read_rows(folder / each)) for each in KINDS}
    context = Context.of(row for each in KINDS if each != "corpus" for row in rows[each])
    rejects = [row for row in read_rows(folder / "quarantine") if row["kind"] == kind]
    return check(kind, rows[kind], Validate(), context, expectations=EXPECTATIONS, rejects=rejects)


@pytest.mark.parametrize("kind", KINDS)
def test_good_rows_pass(tmp_path, kind):
    verdict = judge(prepared(tmp_path), kind)
    assert (verdict.stopped, verdict.quarantined, verdict.clean) == ([], [], 40)


@pytest.mark.faults(
    44,
    injected="an evaluation question among training rows of each kind, and in the corpus",
    happens="the run stops: leaked_eval, naming its file and line",
)
@pytest.mark.faults(
    40,
    injected="a wrong role or order, no answer, blank turns, content absent or of a wrong type, in each kind of data",
    happens="set aside by the name of the rule, with file and line",
)
@pytest.mark.parametrize(("kind", "fault"), CASES)
def test_a_bad_row_is_found_by_its_rule_at_its_place(tmp_path, kind, fault):
    _, line, rule = FAULTS[fault]
    severity = "stop" if rule in STOPS else "quarantine"
    folder = prepared(tmp_path, kind, line(kind))
    verdict = judge(folder, kind)
    found = verdict.stopped if severity == "stop" else verdict.quarantined
    assert [(item.place, item.rule, item.severity) for item in found] == [
        (f"{kind}/shard.jsonl:{LINE}", rule, severity)
    ]
    assert len(verdict.stopped + verdict.quarantined) == 1
    assert found[0].reason
    assert verdict.clean == 40
    kept = [row["line"] for row, clean in zip(read_rows(folder / kind), verdict.kept) if clean]
    assert LINE not in kept and len(kept) == 40
    assert SECRET not in repr(verdict.stopped) + repr(verdict.quarantined) + repr(verdict.rules)


@pytest.mark.faults(
    45,
    injected="one annotator prefers a to b and b to a",
    happens="both are set aside, each naming the other; two annotators may differ",
)
def test_of_a_contradiction_both_sides_are_set_aside(tmp_path):
    row = good("preferences", 4)
    swapped = row | {"chosen": row["rejected"], "rejected": row["chosen"]}
    verdict = judge(prepared(tmp_path, "preferences", raw(swapped)), "preferences")
    assert verdict.stopped == []
    assert [(item.line, item.rule) for item in verdict.quarantined] == [(3, "contradiction"), (6, "contradiction")]
    assert "preferences/shard.jsonl:6" in verdict.quarantined[0].reason
    other = judge(prepared(tmp_path / "other", "preferences", raw(swapped | {"annotator": "ann"})), "preferences")
    assert other.quarantined == []  # two people may disagree


def test_a_document_told_twice_is_noted_and_kept(tmp_path):
    verdict = judge(prepared(tmp_path, "corpus", raw(good("corpus", 0))), "corpus")
    assert (verdict.quarantined, verdict.stopped, verdict.clean) == ([], [], 41)
    assert [rule.broken for rule in verdict.rules if rule.rule == "duplicate"] == [1]


@pytest.mark.faults(
    44,
    injected="a validation question among training prompts, in a group of another name",
    happens="set aside as leaked_val",
)
def test_a_question_kept_for_validation_is_set_aside_from_training(tmp_path):
    """Groups that a source names itself can hide that two rows ask the same."""
    folder = prepared(tmp_path)
    rows = list(read_rows(folder / "prompts"))
    kept = next(row for row in rows if row["split"] == "val")
    hidden = kept | {"group": "another", "split": "train", "file": "prompts/more.jsonl", "line": 7, "messages": [
        said("system", "be brief"), *kept["messages"]]}  # fmt: skip
    write_rows(folder / "prompts" / "rows.jsonl", [*rows, hidden])
    (finding,) = judge(folder, "prompts").quarantined
    assert (finding.place, finding.rule) == ("prompts/more.jsonl:7", "leaked_val")


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        (raw({"messages": [said("user", "Why is <s>5</s> struck out in HTML?")]}), "special_tag"),
        (raw({"messages": [said("user", "2 + 3?")], "meta": {"equation": "x=2+3", "answer": "5"}}), "unchecked_answer"),
    ],
)
def test_what_is_probably_right_is_noted_and_kept(tmp_path, line, rule):
    verdict = judge(prepared(tmp_path, "prompts", line), "prompts")
    assert (verdict.quarantined, verdict.stopped, verdict.clean) == ([], [], 41)
    assert [one.examples[0].line for one in verdict.rules if one.rule == rule] == [LINE]
