"""From what a server says to completions: nothing is taken on trust, as everything that follows learns from it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.errors import PreflowError
from rlhf.sampler import Completion

_ROUNDING = 1e-5
"""Nats by which a log-probability may be above 0."""
_LEAST = -1e6
"""Below it a log-probability counts as infinite."""


class Garbage(PreflowError):
    """The server said what no sampler may say."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What an answer has to fit to."""

    prompt_index: int
    prompt: Sequence[int]
    choices: int
    """Completions that were asked for."""
    max_new_tokens: int
    num_rows: int
    """Rows of the policy's vocabulary."""
    stop_id: int
    version: str
    """Of the policy."""


def parsed(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is. Raises Garbage where it is none."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise Garbage("answered with no JSON") from None
    if not isinstance(found, dict):
        raise Garbage("answered with JSON that is no object")
    return found


def completions_of(answer: Mapping[str, Any], asked: Asked) -> list[Completion]:
    """The completions of one prompt, in the order of their index. Raises Garbage, which says what was seen."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not all(isinstance(one, dict) for one in choices):
        raise Garbage("answered with no list of choices")
    indices = sorted(str(one.get("index")) for one in choices)
    if indices != sorted(map(str, range(asked.choices))):
        raise Garbage(f"answered with choices {', '.join(indices) or 'none'}, expected 0 to {asked.choices - 1}")
    return [_completion(one, asked) for one in sorted(choices, key=lambda one: int(one["index"]))]


def _completion(choice: Mapping[str, Any], asked: Asked) -> Completion:
    told = choice.get("logprobs")
    told = told if isinstance(told, dict) else {}
    ids = _ids(choice, told)
    if not 0 < len(ids) <= asked.max_new_tokens:
        raise Garbage(f"gave a completion of {len(ids)} tokens, expected 1 to {asked.max_new_tokens}")
    if outside := [token for token in ids if not 0 <= token < asked.num_rows]:
        raise Garbage(f"gave token {outside[0]}, which is not in the policy's vocabulary of {asked.num_rows}")
    if choice.get("prompt_token_ids") not in (None, list(asked.prompt)):
        raise Garbage("read another prompt than it was sent")
    logprobs = _logprobs(told.get("token_logprobs"), len(ids))
    return Completion(asked.prompt_index, ids, logprobs, _stop_reason(choice, ids, asked), asked.version)


def _ids(choice: Mapping[str, Any], told: Mapping[str, Any]) -> list[int]:
    """Token ids, given as such or as "token_id:17" in place of the tokens' texts: texts do not tell ids."""
    ids = choice.get("token_ids")
    if ids is None:
        texts = told.get("tokens")
        if not isinstance(texts, list) or not all(isinstance(one, str) and one[:9] == "token_id:" for one in texts):
            raise Garbage("gave no token ids")
        ids = [int(one[9:]) if one[9:].isdecimal() and len(one) < 24 else -1 for one in texts]
    if not isinstance(ids, list) or not all(type(one) is int for one in ids):
        raise Garbage("gave token ids that are no integers")
    return ids


def _logprobs(values: Any, count: int) -> list[float]:
    if not isinstance(values, list):
        raise Garbage("gave no log-probabilities")
    if len(values) != count:
        raise Garbage(f"gave {len(values)} log-probabilities of {count} tokens")
    for value in values:
        if type(value) not in (int, float) or not _LEAST < value <= _ROUNDING:  # NaN is neither
            raise Garbage(f"gave {str(value)[:24]} as a log-probability, expected a finite number up to 0")
    return [float(value) for value in values]


def _stop_reason(choice: Mapping[str, Any], ids: Sequence[int], asked: Asked) -> str:
    """How it ended, as the ids have it: "stop" or "length"; what the server says of it must agree."""
    if asked.stop_id in ids[:-1]:
        raise Garbage("went on after the stop token")
    reason = "stop" if ids[-1] == asked.stop_id else "length"
    if reason == "length" and len(ids) < asked.max_new_tokens:
        raise Garbage(f"cut a completion off after {len(ids)} tokens, expected a stop or {asked.max_new_tokens} tokens")
    # Some servers look at the length first where the stop token is the last one there is room for.
    if choice.get("finish_reason") not in (reason, "length" if len(ids) == asked.max_new_tokens else reason):
        told = str(choice.get("finish_reason"))[:24]
        raise Garbage(f"gave {told} as the reason for an end that is {reason}")
    return reason
