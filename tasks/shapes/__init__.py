"""The shapes that rows come in, and the one canonical shape a kind of data has here.

corpus          `text`; or `messages` (+ `run_on`)
demonstrations  `messages`, the last one the assistant's (+ `meta` of a question whose answer can be checked)
                also read: prompt/completion, instruction/input/output, question/answer, an HH dialogue in `chosen`
preferences     `messages`, `chosen`, `rejected`, `annotator`, `origin`, `margin` (+ `scores`, `set`, `confidence`,
                `turn`, `meta`)
                also read: prompt/chosen/rejected as strings or message lists, with or without the prompt in them,
                instruction/input/chosen/rejected, HH dialogues; prompt, completions and ranks or scores: all pairs
ratings         `messages`, `completion`, `label` (+ `annotator`)
                also read: prompt/completion/label, messages that end with the assistant, and a label
prompts, eval   `messages`, the last one the user's, `meta` (+ `pool` of prompts)
                also read: prompt/answer/verifier (the latter go to `meta`), instruction/input, question, and any
                demonstration, preference or rating without its answer

A field `system` is the first message of all shapes; `score_chosen` and `score_rejected` are `scores`, whose difference
is the `margin` where none is given. OpenAssistant trees, GSM8K, SVAMP and a few more are known by their fields
(`tasks.shapes.known`). Only the shape is looked at here: is everything there and of the right type. What the texts say
is the gate's business.
"""

from collections.abc import Iterator

from tasks.shapes import known, sets
from tasks.shapes.fields import Content, Malformed, Message, Value
from tasks.shapes.kinds import canonical

__all__ = ["KINDS", "Content", "Malformed", "Message", "canonical", "canonical_rows"]

KINDS = ("corpus", "demonstrations", "preferences", "prompts", "eval", "ratings")


_NOTHING = {
    "preferences": ("nothing in it has two ranked answers", "ranking"),
    "prompts": ("nothing in it is asked", "shape"),
    "eval": ("nothing in it is asked", "shape"),
}
"""Why a line gives no row at all; for other kinds it is an answer that is not there."""


def canonical_rows(kind: str, value: Value) -> Iterator[Content | Malformed]:
    """All rows that one line gives, in the canonical shape, and what of it gave none and why; never nothing.

    One at a time: written out, the rows of a line may hold hundreds of times what it holds itself.
    """
    found = False
    try:
        for plain in known.unfolded(kind, value):
            for one in _singles(kind, plain):
                found = True
                yield one if isinstance(one, Malformed) else _attempt(kind, one)
    except Malformed as error:
        yield error
        return
    if not found:
        yield Malformed(*_NOTHING.get(kind, ("nothing in it has an answer", "shape")))


def _singles(kind: str, value: Value) -> Iterator[Value | Malformed]:
    """Of a set of ranked completions what a kind wants: all pairs, the best, or none of them."""
    if kind == "preferences" and sets.is_set(value):
        yield from sets.pairs(value)
    elif kind == "demonstrations" and sets.is_set(value):
        yield sets.best(value)
    else:
        yield value


def _attempt(kind: str, value: Value) -> Content | Malformed:
    try:
        return canonical(kind, value)
    except Malformed as error:
        return error
