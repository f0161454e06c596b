"""Preference pairs where they meet the model."""

from collections.abc import Iterable

from rlhf.models import Policy, room
from rlhf.pairs import Pair, encode_pairs
from rlhf.records import Row
from tasks.prompts import Fitting, fitting


def fitting_pairs(rows: Iterable[Row], policy: Policy) -> Fitting[Pair]:
    """Pairs of which the model has room for both sides, as tokens, and how many were dropped.

    Raises PreflowError where there were rows and none is left.
    """
    return fitting(
        "preference pairs",
        rows,
        policy.chat,
        lambda row: encode_pairs(policy.chat, [row])[0],
        lambda pair: pair.padded_tokens // 2,
        room(policy.model),
        "all that the model has positions for",
    )
