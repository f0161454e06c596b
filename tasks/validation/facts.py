"""Facts about rows, as columns of a table: computed here, judged by the suites in data/expectations/.

Most columns are None where all is well and say what is wrong where it is not, so that a suite asks for null and the
report can quote the value. Columns that a kind of data has no use for do not exist in its table.

unreadable, shape          why the row could not be read, or has no known shape; nothing else is then known of it
unknown_role               the first role outside system, user, assistant
turns                      roles in order, "user assistant user"; None where a role is unknown
blank_turn                 number of the first message that says nothing (the answer of a demonstration apart)
prompt_chars               length of all turns before the answer
completion_chars           length of the answer, of a pair the longer one
shortest_completion_chars  the same, of a pair the shorter one
chosen_chars, rejected_chars  length of each answer of a pair
chars                      length of a document
same_answers               the text that chosen and rejected share, white space apart
length_bias                +½ where chosen is longer, −½ where rejected is, 0 for a tie
duplicate_of, contradicts  place of an earlier equal row; place of a row with the same pair the other way round
leaked_eval, leaked_val    place of a row with the same group or question in a more protected split
control_marker             chat markup inside a text, zero-width characters seen through
secret                     kind of the first secret (never the secret)
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rlhf.records import Row, group_of
from tasks.redact import redacted, secret_in
from tasks.shapes import Malformed, canonical

ROLES = ("system", "user", "assistant")

_COMMON = ("unreadable", "shape", "unknown_role", "turns", "blank_turn", "control_marker", "secret", "duplicate_of")
COLUMNS: dict[str, tuple[str, ...]] = {
    "corpus": (*_COMMON, "leaked_eval", "leaked_val", "chars"),
    "demonstrations": (
        *_COMMON, "leaked_eval", "leaked_val", "prompt_chars", "completion_chars", "shortest_completion_chars"
    ),
    "preferences": (
        *_COMMON, "leaked_eval", "leaked_val", "prompt_chars", "completion_chars", "shortest_completion_chars",
        "chosen_chars", "rejected_chars", "same_answers", "contradicts", "length_bias",
    ),
    "prompts": (*_COMMON, "leaked_eval", "leaked_val", "prompt_chars"),
    "eval": (*_COMMON, "prompt_chars"),
}  # fmt: skip

_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200c\u200d\u2060\ufeff"))
_MARKER = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|</?s>|<(?:bos|eos|pad|unk|user|bot|end|system|assistant|start_of_turn|end_of_turn)>"
    r"|\[/?INST\]|<</?SYS>>|\n\n(?:Human|Assistant):"
)


@dataclass(frozen=True, slots=True)
class Context:
    """Where every group and every question was seen in the protected splits: split → key → place."""

    seen: Mapping[str, Mapping[str, str]]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Context":
        """From all rows of a run, of all kinds but the corpus."""
        seen: dict[str, dict[str, str]] = {"eval": {}, "val": {}}
        for row in rows:
            if row.get("split") in seen:
                for key in _keys(row):
                    seen[row["split"]].setdefault(key, place_of(row))
        return cls(seen)


def place_of(row: Mapping[str, Any]) -> str:
    """`file:line` of a row, as every message names it."""
    return f"{row.get('file', '?')}:{row.get('line', '?')}"


def frame(kind: str, rows: Sequence[Row], rejects: Sequence[Row], context: Context) -> pd.DataFrame:
    """One line a row, then one a reject; `row` is the position in the two together."""
    firsts: dict[Any, str] = {}
    facts = [_facts(kind, row, context, firsts) for row in rows]
    if kind == "preferences":
        _mark_contradictions(rows, facts)
    facts += [{"unreadable" if reject["rule"] == "readable" else "shape": reject["reason"]} for reject in rejects]
    table = pd.DataFrame(facts, columns=list(COLUMNS[kind]))
    table.insert(0, "row", range(len(facts)))
    return table


def _facts(kind: str, row: Row, context: Context, firsts: dict[Any, str]) -> dict[str, Any]:
    try:
        canonical(kind, row)
    except Malformed as error:
        return {"shape": redacted(str(error))}
    messages: list[dict[str, str]] = row.get("messages", [])
    answers = _answers(kind, row)
    before = messages[:-1] if kind == "demonstrations" else messages
    texts = [message["content"] for message in messages] + ([] if kind == "demonstrations" else answers)
    texts += [row["text"]] if "text" in row else []
    together = "\n".join(texts)
    found: dict[str, Any] = {
        "control_marker": _marker(together),
        "secret": secret_in(together),
        "duplicate_of": _first(firsts, (kind, *_identity(row)), row),
        **_conversation(messages, before),
        **_leaks(kind, row, context),
        "prompt_chars": sum(len(message["content"]) for message in before),
        "chars": len(together),
    }
    if answers:
        lengths = [len(answer.strip()) for answer in answers]
        found |= {"completion_chars": max(lengths), "shortest_completion_chars": min(lengths)}
    if kind == "preferences":
        found["chosen_chars"], found["rejected_chars"] = map(len, answers)
        chosen, rejected = map(_tidy, answers)
        found["same_answers"] = redacted(chosen[:100]) if chosen == rejected else None
        found["length_bias"] = ((len(chosen) > len(rejected)) - (len(chosen) < len(rejected))) / 2
    return found


def _answers(kind: str, row: Row) -> list[str]:
    if kind == "demonstrations":
        return [row["messages"][-1]["content"]]
    return [row["chosen"], row["rejected"]] if kind == "preferences" else []


def _conversation(messages: list[dict[str, str]], before: list[dict[str, str]]) -> dict[str, Any]:
    if not messages:
        return {}
    unknown = next((message["role"] for message in messages if message["role"] not in ROLES), None)
    return {
        "unknown_role": None if unknown is None else redacted(unknown[:40]) or "(empty)",
        "turns": None if unknown is not None else " ".join(message["role"] for message in messages),
        "blank_turn": next((n for n, message in enumerate(before, 1) if not message["content"].strip()), None),
    }


def _leaks(kind: str, row: Row, context: Context) -> dict[str, str | None]:
    """A row may share a group with rows of its own split; in a more protected one it gives an answer away."""
    split = row.get("split", "train")
    keys = _keys(row, all_questions=kind == "corpus")
    found = {}
    for protected, above in (("eval", ("train", "val")), ("val", ("train",))):
        seen = context.seen[protected] if split in above else {}
        found[f"leaked_{protected}"] = next((seen[key] for key in keys if key in seen), None)
    return found


def _keys(row: Row, all_questions: bool = False) -> set[str]:
    """The group, and the first question however its group was named. A document of the corpus may hold many questions;
    in a conversation the later ones ("and why?") say nothing by themselves."""
    questions = [message for message in row.get("messages", []) if message["role"] == "user"]
    return {str(row.get("group")), *(group_of([question]) for question in questions[: None if all_questions else 1])}


def _mark_contradictions(rows: Sequence[Row], facts: list[dict[str, Any]]) -> None:
    """Both sides of a > b and b > a by one annotator: nobody can tell which of them is meant."""
    pairs = [None if "shape" in fact else (*_said(row), row.get("annotator")) for row, fact in zip(rows, facts)]
    places: dict[Any, str] = {}
    for row, pair in zip(rows, pairs):
        if pair is not None:
            places.setdefault(pair, place_of(row))
    for fact, pair in zip(facts, pairs):
        if pair is not None:
            context, chosen, rejected, annotator = pair
            fact["contradicts"] = places.get((context, rejected, chosen, annotator)) if chosen != rejected else None


def _identity(row: Row) -> tuple[Any, ...]:
    if "chosen" in row:
        return (*_said(row), row.get("annotator"))
    if "text" in row:
        return (_tidy(row["text"]),)
    return tuple((message["role"], _tidy(message["content"])) for message in row["messages"])


def _said(row: Row) -> tuple[Any, str, str]:
    context = tuple((message["role"], _tidy(message["content"])) for message in row["messages"])
    return context, _tidy(row["chosen"]), _tidy(row["rejected"])


def _first(firsts: dict[Any, str], identity: Any, row: Row) -> str | None:
    place = place_of(row)
    first = firsts.setdefault(identity, place)
    return None if first is place else first


def _tidy(text: str) -> str:
    """The text but for white space and Unicode form; case stays, it may be what the answers differ in."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _marker(text: str) -> str | None:
    """The first chat marker in a text, also when invisible characters split it up or it is written full-width."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_INVISIBLE)
    if "<" not in text and "[" not in text and ":" not in text:
        return None
    found = _MARKER.search(text)
    return None if found is None else found.group().strip()
