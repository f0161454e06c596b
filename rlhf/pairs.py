"""Preference pairs as tokens."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.chat import Chat


@dataclass(frozen=True, slots=True)
class Pair:
    """One comparison; both sides begin with the same prompt."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    """The preferred completion, its stop token included."""
    rejected_ids: list[int]

    @property
    def padded_tokens(self) -> int:
        """Tokens that the pair takes in a batch, both sides as long as the longer one."""
        return 2 * (len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids)))


def encode_pairs(chat: Chat, rows: Iterable[Mapping[str, Any]]) -> list[Pair]:
    """Rows with `messages`, `chosen` and `rejected` as token ids, in order."""
    return [
        Pair(
            chat.encode_prompt(row["messages"]),
            chat.encode_completion(row["chosen"]),
            chat.encode_completion(row["rejected"]),
        )
        for row in rows
    ]
