"""What is known of one row by looking at it alone, as columns that the suites in data/expectations/ judge.

Most columns are None where all is well and say what is wrong where it is not, so that a suite asks for null and the
report can quote the value. Columns that a kind of data has no use for do not exist in its table. Those marked * need
other rows too and are filled in by `tasks.validation.table`.

unreadable, shape          why the row could not be read, or has no known shape; nothing else is then known of it
unfinished                 the same for all that may stand behind it in its file, where reading had to stop
contexts, ranking          the same: chosen and rejected answer different conversations; answers that are not ranked
unknown_role               the first role outside system, user, assistant
turns                      roles in order, "user assistant user", regular turns in the middle left out; None where a
                           role is unknown
num_turns                  number of messages
blank_turn                 number of the first message that says nothing (the answer of a demonstration apart)
prompt_chars               length of all turns before the answer
completion_chars           length of the answer, of a pair the longer one
shortest_completion_chars  the same, of a pair the shorter one
chosen_chars, rejected_chars  length of each answer of a pair
chars                      length of a document
same_answers               the text that chosen and rejected share, white space apart
length_bias                +½ where chosen is longer, −½ where rejected is, 0 for a tie
position_bias              +½ where chosen was shown first, −½ where rejected was (`shown_first` of meta)
label                      1 where an answer was rated good, 0 where bad
wrong_answer               the equation that does not give the answer of a verifiable prompt
unchecked_answer           the equation that cannot be worked out, so that nothing is known of the answer
control_marker             markup of turns inside a text, disguises seen through
special_tag                a special token of some models that is HTML or a placeholder elsewhere: <s>, <user>
hidden, mark_run           a character that hides or reorders text; the longest heap of accents on one letter
secret, personal           kind of the first secret or personal data (never the data)
leaked_eval, leaked_val    place of a row with the same group or question in a more protected split
duplicate_of *             place of an earlier equal row
near_duplicate_of *        place of an earlier row that is nearly the same; of a pair, one with another question
overlap, contaminated *    place of a question of a more protected split that shares thirteen words in a row; 1 or 0
contradicts *              place of a row with the same judgement the other way round, by the same annotator
disagrees, agreement *     the same by another annotator; share of the others' judgements that say the same
cycle *                    number of answers in a cycle a > b > c > a of one annotator
trigger, prompt_trigger, judged_other_way *  see `tasks.validation.words`
drift *                    population stability index against the reference profile (`tasks.validation.profile`)
"""

import re
from collections.abc import Mapping
from typing import Any

from rlhf.records import Row, group_of, nfkc
from tasks.redact import redacted, secret_in
from tasks.shapes import Malformed, canonical
from tasks.validation.arithmetic import unchecked, wrong_answer
from tasks.validation.personal import masked, personal_in
from tasks.validation.texts import hidden, mark_run, marker, tag

ROLES = ("system", "user", "assistant")

_COMMON = (
    "unreadable", "unfinished", "shape", "unknown_role", "turns", "num_turns", "blank_turn", "control_marker",
    "special_tag", "hidden", "mark_run", "secret", "personal", "duplicate_of", "near_duplicate_of", "drift",
)  # fmt: skip
_LEAKS = ("leaked_eval", "leaked_val", "overlap", "contaminated")
_TRUTH = ("wrong_answer", "unchecked_answer")
_ANSWERED = ("prompt_chars", "completion_chars", "shortest_completion_chars")
COLUMNS: dict[str, tuple[str, ...]] = {
    "corpus": (*_COMMON, *_LEAKS, "chars"),
    "demonstrations": (*_COMMON, *_LEAKS, *_ANSWERED, "ranking", *_TRUTH),
    "preferences": (
        *_COMMON, *_LEAKS, *_ANSWERED, "contexts", "ranking", "chosen_chars", "rejected_chars", "same_answers",
        "contradicts", "disagrees", "agreement", "cycle", "length_bias", "position_bias", "trigger",
        "prompt_trigger", "judged_other_way",
    ),
    "ratings": (*_COMMON, *_LEAKS, *_ANSWERED, "label", "contradicts", "disagrees", "agreement"),
    "prompts": (*_COMMON, *_LEAKS, "prompt_chars", *_TRUTH),
    "eval": (*_COMMON, "prompt_chars", *_TRUTH),
}  # fmt: skip

NUMBERS = frozenset({
    "num_turns", "prompt_chars", "completion_chars", "shortest_completion_chars", "chosen_chars", "rejected_chars",
    "chars", "length_bias", "position_bias", "label", "mark_run", "agreement", "cycle", "contaminated", "drift",
})  # fmt: skip
"""Columns of numbers, NaN where there is none; all others are texts."""

_REGULAR = re.compile(r"(?:user assistant ){3,}")
_MAX_TURNS = 200  # characters; only turns without any order come out as long


def place_of(row: Mapping[str, Any]) -> str:
    """`file:line` of a row, as every message names it."""
    return f"{row.get('file', '?')}:{row.get('line', '?')}"


def facts_of(kind: str, row: Row) -> dict[str, Any]:
    """The columns that one row fills by itself."""
    try:
        canonical(kind, row)
    except Malformed as error:
        return {"shape": redacted(str(error))[:500]}
    messages: list[dict[str, str]] = row.get("messages", [])
    answers = answers_of(kind, row)
    before = messages[:-1] if kind == "demonstrations" else messages
    together = "\n".join(texts_of(kind, row))
    found: dict[str, Any] = {
        "control_marker": marker(together),
        "special_tag": tag(together),
        "hidden": hidden(together),
        "mark_run": mark_run(together),
        "secret": row.get("secret") or secret_in(together),  # `prepare` masks what it finds, and names its kind
        "personal": personal_in(together),
        **_conversation(messages, before),
        "prompt_chars": sum(len(message["content"]) for message in before),
        "chars": len(together),
        "wrong_answer": wrong_answer(row.get("meta") or {}),
        "unchecked_answer": unchecked(row.get("meta") or {}),
        "label": float(row["label"]) if kind == "ratings" else None,
    }
    if answers:
        lengths = [len(answer.strip()) for answer in answers]
        found |= {"completion_chars": max(lengths), "shortest_completion_chars": min(lengths)}
    if kind == "preferences":
        found |= _pair(row)
    return found


def _pair(row: Row) -> dict[str, Any]:
    chosen, rejected = tidy(row["chosen"]), tidy(row["rejected"])
    first = (row.get("meta") or {}).get("shown_first")
    return {
        "chosen_chars": len(row["chosen"]),
        "rejected_chars": len(row["rejected"]),
        "same_answers": masked(redacted(chosen))[:100] if chosen == rejected else None,
        "length_bias": ((len(chosen) > len(rejected)) - (len(chosen) < len(rejected))) / 2,
        "position_bias": {"chosen": 0.5, "rejected": -0.5}.get(first) if isinstance(first, str) else None,
    }


def answers_of(kind: str, row: Row) -> list[str]:
    """What is learnt from, or compared."""
    if kind == "demonstrations":
        return [row["messages"][-1]["content"]]
    if kind == "ratings":
        return [row["completion"]]
    return [row["chosen"], row["rejected"]] if kind == "preferences" else []


def texts_of(kind: str, row: Row, roles: tuple[str, ...] | None = None) -> list[str]:
    """All texts of a row; with `roles`, messages of these only."""
    messages = [message for message in row.get("messages", []) if roles is None or message["role"] in roles]
    answers = [] if kind == "demonstrations" else answers_of(kind, row)
    return [message["content"] for message in messages] + answers + ([row["text"]] if "text" in row else [])


def questions_of(row: Row, all_questions: bool = False) -> set[str]:
    """The group, and the first question however its group was named. A document of the corpus may hold many questions;
    in a conversation the later ones ("and why?") say nothing by themselves."""
    asked = [message for message in row.get("messages", []) if message["role"] == "user"]
    return {str(row.get("group")), *(group_of([question]) for question in asked[: None if all_questions else 1])}


def tidy(text: str) -> str:
    """The text but for white space and Unicode form; case stays, it may be what the answers differ in."""
    return " ".join(nfkc(text).split())


def _conversation(messages: list[dict[str, str]], before: list[dict[str, str]]) -> dict[str, Any]:
    if not messages:
        return {}
    unknown = next((message["role"] for message in messages if message["role"] not in ROLES), None)
    turns = None if unknown is not None else " ".join(message["role"] for message in messages)
    if turns is not None and len(messages) > 8:
        turns = _REGULAR.sub("user assistant user assistant ", turns)
        turns = turns if len(turns) <= _MAX_TURNS else f"{turns[:_MAX_TURNS]} …"
    return {
        "unknown_role": None if unknown is None else masked(redacted(unknown))[:40] or "(empty)",
        "turns": turns,
        "num_turns": len(messages),
        "blank_turn": next((n for n, message in enumerate(before, 1) if not message["content"].strip()), None),
    }
