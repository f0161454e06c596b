"""Data sets that are known by their fields: small rows by hand, and the real files where they are."""

from collections import Counter
from pathlib import Path

import pytest

from tasks.readers import Raw, read
from tasks.shapes import Malformed, canonical_rows
from tasks.shapes.trees import MAX_DEPTH


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def node(role, text, *replies, **more):
    return {"role": role, "text": text, "replies": list(replies), **more}


TREE = {
    "message_tree_id": "x",
    "prompt": node(
        "prompter",
        "hi",
        node("assistant", "good", node("prompter", "and?", node("assistant", "so")), rank=1),
        node("assistant", "best", rank=0),
        node("assistant", "spam", node("prompter", "what"), rank=2, review_result=False),
        node("assistant", "late", rank=None),
        node("assistant", "gone", rank=3, deleted=True),
    ),
}


def test_a_tree_gives_the_best_reply_of_every_message_in_its_context():
    assert [row["messages"] for row in canonical_rows("demonstrations", TREE)] == [
        [user("hi"), assistant("best")],
        [user("hi"), assistant("good"), user("and?"), assistant("so")],
    ]


def test_a_tree_gives_the_pairs_of_ranked_siblings():
    *pairs, problem = canonical_rows("preferences", TREE)
    assert [(pair["messages"], pair["chosen"], pair["rejected"]) for pair in pairs] == [([user("hi")], "best", "good")]
    assert isinstance(problem, Malformed) and str(problem) == "2 of 3 completions are ranked"


def test_a_tree_gives_every_question_in_its_context():
    assert [row["messages"] for row in canonical_rows("prompts", TREE)] == [
        [user("hi")],
        [user("hi"), assistant("good"), user("and?")],
    ]


def test_a_tree_without_two_ranked_replies_does_not_vanish():
    (found,) = canonical_rows("preferences", {"prompt": node("prompter", "hi", node("assistant", "a", rank=0))})
    assert isinstance(found, Malformed) and found.rule == "ranking"


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (node("wizard", "hi"), "expected the role prompter or assistant"),
        (node(["prompter"], "hi"), "expected the role prompter or assistant"),
        (node("prompter", None), "text: expected text, found null"),
        (node("prompter", "hi", "reply"), "is str, expected an object"),
    ],
)
def test_a_tree_that_is_none_is_said_to_be(prompt, reason):
    found = list(canonical_rows("prompts", {"prompt": prompt}))
    assert isinstance(found[-1], Malformed) and reason in str(found[-1])


def test_a_tree_as_deep_as_a_well_is_refused_and_not_written_out():
    well = node("assistant", "end", rank=0)
    for depth in range(900):
        well = node("assistant" if depth % 2 else "prompter", "down", well)
    found = list(canonical_rows("prompts", {"prompt": well}))
    assert f"more than {MAX_DEPTH} levels" in str(found[-1])
    assert sum(len(row["messages"]) for row in found[:-1]) < MAX_DEPTH**2


def test_gsm8k_loses_the_notes_for_the_calculator_and_keeps_the_answer():
    row = {"question": "48 and half?", "answer": "Half is 48/2 = <<48/2=24>>24.\nAll: $<<48+24=72>>72.\n#### 1,072"}
    (told,) = canonical_rows("demonstrations", row)
    assert told["messages"] == [user("48 and half?"), assistant("Half is 48/2 = 24.\nAll: $72.\n#### 1,072")]
    (asked,) = canonical_rows("prompts", row)
    assert asked["meta"] == {"answer": "1,072", "verifier": "number"} == told["meta"]
    assert asked["messages"] == [user("48 and half?")]


def test_svamp_is_a_question_and_keeps_its_equation():
    row = {"Body": "Dan had $ 3 left", "Question": "How much?", "Answer": 1.0, "Equation": "( 4.0 - 3.0 )"}
    (asked,) = canonical_rows("eval", row)
    assert asked["messages"] == [user("Dan had $ 3 left. How much?")]
    assert asked["meta"] == {"equation": "( 4.0 - 3.0 )", "answer": "1", "verifier": "number"}
    (told,) = canonical_rows("demonstrations", row | {"Body": "Dan had some.", "Answer": 2.5})
    assert told["messages"] == [user("Dan had some. How much?"), assistant("2.5")]


def test_every_instance_of_an_instruction_is_a_row():
    row = {"instruction": "Add.", "instances": [{"input": "1 1", "output": "2"}, {"input": "", "output": "0"}]}
    assert [one["messages"] for one in canonical_rows("demonstrations", row)] == [
        [user("Add.\n\n1 1"), assistant("2")],
        [user("Add."), assistant("0")],
    ]


def test_choices_of_the_first_papers_are_pairs():
    four = {"query": "Once", "sample0": "a", "sample1": "b", "sample2": "c", "sample3": "d", "best": 2}
    found = list(canonical_rows("preferences", four))
    assert [(pair["chosen"], pair["rejected"]) for pair in found] == [("c", "a"), ("c", "b"), ("c", "d")]
    two = {
        "info": {"post": "Long story", "article": None}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 1,
        "worker": "w1", "extra": {"confidence": 8},
    }  # fmt: skip
    (pair,) = canonical_rows("preferences", two)
    assert (pair["messages"], pair["chosen"], pair["rejected"]) == ([user("Long story")], "b", "a")
    assert (pair["annotator"], pair["confidence"]) == ("w1", 8)


def test_solutions_that_are_marked_are_ratings():
    solved = {"is_correct": False, "solution": "3 + 3 = <<3+3=5>>5\nA: 5"}
    row = {"question": "3 and 3?", "ground_truth": "A: 6", "small": solved, "large": solved | {"is_correct": True}}
    assert list(canonical_rows("ratings", row)) == [
        {"messages": [user("3 and 3?")], "completion": "3 + 3 = 5\nA: 5", "label": label, "annotator": name}
        for name, label in (("small", False), ("large", True))
    ]


@pytest.mark.parametrize(
    ("file", "kind", "rows", "refused"),
    [
        ("rasbt_instruction/instruction-data-with-preference.json", "preferences", 1100, {}),
        ("rasbt_instruction/instruction-data.json", "demonstrations", 1100, {}),
        (
            "hh_harmless_test/test.jsonl.gz", "preferences", 2307,
            {(line, "contexts"): 1 for line in (1255, 1689, 1951, 1953, 2037)},
        ),
        ("oasst_100_trees/en_100_tree.jsonl", "demonstrations", 252, {(70, "ranking"): 2}),
        ("oasst_100_trees/en_100_tree.jsonl", "preferences", 754, {(59, "ranking"): 1, (70, "ranking"): 2}),
        ("oasst_100_trees/en_100_tree.jsonl", "prompts", 480, {}),
        ("gsm8k/train.jsonl", "demonstrations", 7473, {}),
        ("gsm8k/test.jsonl", "prompts", 1319, {}),
        ("gsm8k/example_model_solutions.jsonl", "ratings", 4 * 1319, {}),
        ("svamp/SVAMP.json", "prompts", 1000, {}),
        ("self_instruct_human/seed_tasks.jsonl", "demonstrations", 175, {}),
        ("self_instruct_human/user_oriented_instructions.jsonl", "demonstrations", 252, {}),
    ],
)  # fmt: skip
def test_real_files_are_read_whole(shared: Path, file, kind, rows, refused):
    found = [
        (raw.line, one) for raw in read(shared / "data" / file, 1_000_000) if isinstance(raw, Raw)
        for one in canonical_rows(kind, raw.value)
    ]  # fmt: skip
    assert Counter((line, one.rule) for line, one in found if isinstance(one, Malformed)) == refused
    assert sum(not isinstance(one, Malformed) for _, one in found) == rows


def test_what_gsm8k_teaches_has_no_calculator_left_and_ends_in_its_answer(shared: Path):
    for raw in read(shared / "data/gsm8k/train.jsonl", 100_000):
        assert isinstance(raw, Raw)
        (row,) = canonical_rows("demonstrations", raw.value)
        said = row["messages"][-1]["content"]
        assert "<<" not in said and said.endswith(f"#### {row['meta']['answer']}"), raw.line


def test_numbers_that_a_table_made_floats_and_ten_samples_keep_their_places():
    post = {"info": {"post": "long"}, "summaries": [{"text": "a"}, {"text": "b"}], "choice": 1.0}
    (pair,) = canonical_rows("preferences", post)
    assert (pair["chosen"], pair["rejected"]) == ("b", "a")
    samples = {"query": "q", **{f"sample{number}": f"s{number}" for number in range(11)}, "best": 2}
    assert {pair["chosen"] for pair in canonical_rows("preferences", samples)} == {"s2"}


def test_a_problem_without_its_answer_is_none():
    (found,) = canonical_rows("demonstrations", {"Body": "One.", "Question": "How many?", "Answer": None})
    assert isinstance(found, Malformed) and "Answer is missing" in str(found)
