"""A row as the model sees it: token by token, which are control tokens and which are trained on. Needs no torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from rlhf.chat import Chat

UNFINISHED = "\ufffd"
"""What some bytes of a character decode to."""
WINDOW = 8
"""How many tokens back the text of one may depend on: decoders leave out a blank at the start, or before a mark."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a sequence."""

    id: int
    text: str
    control: bool
    """It is a control token: only the template puts those in."""
    trained: bool
    """It is under the loss mask."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One sequence that a model reads."""

    name: str
    """What it is of the row: "conversation", "chosen", "rejected", "completion", "prompt" or "document"."""
    tokens: tuple[Token, ...]

    def runs(self) -> Iterator[tuple[int, str, list[Token]]]:
        """Neighbours of one part: where they start, from 1, the part ("control", "context", "loss"), and the tokens."""
        start = 1
        for part, tokens in groupby(self.tokens, key=part_of):
            run = list(tokens)
            yield start, part, run
            start += len(run)


def part_of(token: Token) -> str:
    """ "loss" where it is trained on, else "control" or "context"."""
    return "loss" if token.trained else "control" if token.control else "context"


def seen(kind: str, row: Mapping[str, Any], chat: Chat, loss_on: Literal["final", "all"] = "final") -> list[Seen]:
    """The sequences of one canonical row of a kind, as training encodes them.

    A preference is two, a prompt has no loss. Raises ValueError where the template has no place for the row.
    """
    if kind == "preferences":
        prompt = chat.encode_prompt(row["messages"])
        return [_judged(chat, name, prompt, row[name]) for name in ("chosen", "rejected")]
    if kind == "ratings":
        return [_judged(chat, "completion", chat.encode_prompt(row["messages"]), row["completion"])]
    if kind == "demonstrations":
        return [_sequence(chat, "conversation", *chat.encode_conversation(row["messages"], loss_on))]
    if kind == "corpus" and "text" in row:
        ids = chat.encode_document(row["text"])
        return [_sequence(chat, "document", ids, [False, *[True] * (len(ids) - 1)])]
    if kind == "corpus":
        ids, _ = chat.encode_conversation(row["messages"], "all", stops=not row.get("run_on", False))
        return [_sequence(chat, "document", ids, [False, *[True] * (len(ids) - 1)])]
    ids = chat.encode_prompt(row["messages"])
    return [_sequence(chat, "prompt", ids, [False] * len(ids))]


def _judged(chat: Chat, name: str, prompt: list[int], text: str) -> Seen:
    said = chat.encode_completion(text)
    return _sequence(chat, name, [*prompt, *said], [False] * len(prompt) + [True] * len(said))


def _sequence(chat: Chat, name: str, ids: list[int], mask: list[bool]) -> Seen:
    texts = token_texts(chat, ids)
    tokens = (Token(*each) for each in zip(ids, texts, (one in chat.control_ids for one in ids), mask, strict=True))
    return Seen(name, tuple(tokens))


def token_texts(chat: Chat, ids: list[int]) -> list[str]:
    """What each token adds to the text before it, blanks included.

    The first bytes of a character show as the vocabulary writes them, and its last one as the character.
    """
    found: list[str] = []
    whole = [0]  # places between two characters, since the last control token
    for place, token_id in enumerate(ids):
        written = str(chat.tokenizer.id_to_token(token_id))
        if token_id in chat.control_ids:
            found.append(written)
            whole = [place + 1]
            continue
        first = next((one for one in reversed(whole) if one <= whole[-1] - WINDOW), whole[0])
        before, now = _decoded(chat, ids[first : whole[-1]]), _decoded(chat, ids[first : place + 1])
        if now.endswith(UNFINISHED) or not now.startswith(before):
            found.append(written)
            continue
        found.append(now.removeprefix(before))
        whole.append(place + 1)
    return found


def _decoded(chat: Chat, ids: list[int]) -> str:
    return str(chat.tokenizer.decode(ids, skip_special_tokens=False))
