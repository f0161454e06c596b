"""Rows that a model can take: their roles are in its template, and it has positions for all their tokens.

The data gate counts characters and knows no model; here is where its rows meet one. What does not fit is dropped whole
and counted, never cut: half a question has another answer.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rlhf.chat import Chat
from rlhf.errors import PreflowError
from rlhf.models import Policy, room
from rlhf.models.pretrained import limits
from rlhf.records import Row, in_pool

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fitting(Generic[T]):
    """Rows that fit, each with its tokens, and how many did not."""

    kept: list[tuple[Row, T]]
    dropped: dict[str, float]
    """`dropped_long` and `dropped_role`, as metrics have them."""

    @property
    def tokens(self) -> list[T]:
        """The tokens alone."""
        return [tokens for _, tokens in self.kept]


def fitting(
    what: str,
    rows: Iterable[Row],
    chat: Chat,
    encode: Callable[[Row], T],
    size: Callable[[T], int],
    limit: int,
    knob: str,
) -> Fitting[T]:
    """Rows with at most `limit` tokens and known roles, in their order.

    Raises PreflowError where there were rows and none is left: `what` names them, `knob` is what to turn.
    """
    kept: list[tuple[Row, T]] = []
    long = role = 0
    for row in rows:
        if "messages" in row and not chat.knows(row["messages"]):
            role += 1
            continue
        tokens = encode(row)
        if size(tokens) > limit:
            long += 1
        else:
            kept.append((row, tokens))
    if not kept and (long or role):
        raise PreflowError(
            f"0 of {long + role} {what} are left: {long} have more than {limit} tokens ({knob}), "
            f"{role} have roles in an order that the template of the model does not know (it has "
            f"{', '.join(sorted(chat.roles))})"
        )
    return Fitting(kept, {"dropped_long": float(long), "dropped_role": float(role)})


def usable_prompts(
    rows: Iterable[Row], policy: Policy, max_new_tokens: int, *, pool: str | None = None, limit: int | None = None
) -> tuple[list[Row], dict[str, float]]:
    """Prompts that leave room for an answer, at most `limit` of them, and how many were dropped.

    They come in the order of their ids, which are hashes: a random order, but a lasting one. `pool` is the use they
    must have been set aside for. Raises PreflowError where none is left.
    """
    found = list(rows)
    asked = found if pool is None else in_pool(found, pool)
    if not asked:
        raise PreflowError(
            f"there are 0 prompts of pool `{pool or 'any'}` among {len(found)}, expected at least 1: "
            "collect more, or set their `pool` to `any`"
        )
    fit = fitting(
        "prompts",
        sorted(asked, key=lambda row: str(row["id"])),
        policy.chat,
        lambda row: policy.chat.encode_prompt(row["messages"]),
        len,
        room(policy.model) - max_new_tokens,
        f"what {limits(policy.model)} leave beside generation.max_new_tokens={max_new_tokens}: lower it",
    )
    return [row for row, _ in fit.kept][:limit], fit.dropped


def check_room(what: str, longest: int, max_batch_tokens: int, section: str) -> None:
    """Whether the longest row that one pass must hold whole goes into it, before any work is done.

    Raises PreflowError, which names the knob `<section>.max_batch_tokens`, where it does not.
    """
    if longest > max_batch_tokens:
        raise PreflowError(
            f"{what} may take {longest} tokens in one pass through the model, "
            f"{section}.max_batch_tokens is {max_batch_tokens}: raise it to {longest} or more"
        )


def check_answers(
    usable: Sequence[Mapping[str, Any]], policy: Policy, max_new_tokens: int, max_batch_tokens: int, section: str
) -> None:
    """`check_room` for prompts with the longest answers that they may get."""
    longest = max((len(policy.chat.encode_prompt(row["messages"])) for row in usable), default=0)
    check_room("a prompt with its answer", longest + max_new_tokens, max_batch_tokens, section)


def prefixed(counts: Mapping[str, float], prefix: str) -> dict[str, float]:
    """The counts under names of their own, where a stage has several."""
    return {f"{prefix}_{name}": count for name, count in counts.items()}
