"""OpenAssistant trees: a prompt and the replies to it, replies to these, and so on; replies of a message are ranked.

Each message of a user gives what its kind wants: the best-ranked reply in its context (demonstrations), all ranked
replies (preferences), or the context alone (prompts, eval). A single reply is the best there is. Messages that were
deleted or that reviewers refused are left out, with all below them.
"""

from collections.abc import Iterator
from typing import Any

from tasks.shapes.fields import Malformed, Message, Value, said, text, type_of

MAX_DEPTH = 64
"""Messages from the first one down: every context is written out whole, so depth costs its square."""
_ROLES = {"prompter": "user", "assistant": "assistant"}


def is_tree(value: Value) -> bool:
    """Whether a row is a tree of messages."""
    return isinstance(value.get("prompt"), dict) and "replies" in value["prompt"]


def unfolded(kind: str, value: Value) -> Iterator[Value]:
    """Rows of plainer shapes: contexts, and for kinds with answers the replies and their ranks. Raises Malformed."""
    for context, replies in _asked(value["prompt"]):
        if kind in ("prompts", "eval"):
            yield {"messages": context}
        elif len(replies) > 1 or (replies and kind == "demonstrations"):
            yield {
                "messages": context,
                "completions": [text(reply, "text") for reply in replies],
                "ranks": [reply.get("rank") for reply in replies],
            }


def _asked(root: Any) -> Iterator[tuple[list[Message], list[Any]]]:
    """Conversations that end with the user, and what was replied, from the top down."""
    waiting: list[tuple[list[Message], Any]] = [([], root)]
    while waiting:
        before, message = waiting.pop(0)
        if not isinstance(message, dict):
            raise Malformed(f"a message of the tree is {type_of(message)}, expected an object")
        if _is_out(message):
            continue
        if len(before) == MAX_DEPTH:
            raise Malformed(f"the tree has more than {MAX_DEPTH} levels")
        role, replies = message.get("role"), message.get("replies") or []
        if not isinstance(role, str) or role not in _ROLES or not isinstance(replies, list):
            raise Malformed(f"a message of the tree: expected the role {' or '.join(_ROLES)} and a list of replies")
        context = [*before, said(_ROLES[role], text(message, "text"))]
        if role == "prompter":
            kept = [reply for reply in replies if not _is_out(reply)]
            yield context, [reply for reply in kept if isinstance(reply, dict) and reply.get("role") == "assistant"]
        waiting[:0] = [(context, reply) for reply in replies]


def _is_out(message: Any) -> bool:
    return isinstance(message, dict) and bool(message.get("deleted") or message.get("review_result") is False)
