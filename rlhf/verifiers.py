"""Is an answer right? Checks that need no model: a text and what is known about the question in, 1 or 0 out.

A verifier gets `meta` of the prompt: `answer` (a text, or a list of texts that are all right), or for the embedded
world its `kind` and `args`. Which one is meant, `meta["verifier"]` may say; questions of the embedded world need not.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from rlhf.errors import PreflowError
from rlhf.records import normalised
from rlhf.world.gold import correctness, take_apart
from rlhf.world.kinds import KINDS

Verifier = Callable[[Mapping[str, Any], str], bool]

_NUMBER = re.compile(r"(?<![\w.])[-−+]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?!\d|[eE][-+]?\d)")


def verify(meta: Mapping[str, Any], text: str, name: str | None = None) -> float:
    """1 where `text` is a right answer, else 0, by the verifier `name`, or by the one that the prompt names.

    Raises PreflowError where the prompt says too little to be verified: that is no wrong answer.
    """
    chosen = name or meta.get("verifier") or ("world" if "kind" in meta else None)
    if chosen is None:
        raise PreflowError(
            f"a prompt has no verifier (its meta has {sorted(meta) or 'nothing'}): give it `verifier` and `answer`, "
            f"or name one of {', '.join(VERIFIERS)} for all"
        )
    if chosen not in VERIFIERS:
        raise PreflowError(f"verifier `{chosen}` is unknown: there are {', '.join(VERIFIERS)}")
    return float(VERIFIERS[chosen](meta, text))


def world(meta: Mapping[str, Any], text: str) -> bool:
    """The embedded world: the words that answer are right, all of them; manner and focus, which gold has too, are not
    looked at."""
    if meta.get("kind") not in KINDS:
        raise PreflowError(
            f"verifier `world` knows the kinds {', '.join(KINDS)}, a prompt has {meta.get('kind')!r}: "
            "name another verifier"
        )
    return correctness(meta, take_apart(text).core) == 1.0


def exact(meta: Mapping[str, Any], text: str) -> bool:
    """The same text but for case, white space and one full stop at the end."""
    return _plain(text) in {_plain(answer) for answer in _answers(meta)}


def number(meta: Mapping[str, Any], text: str) -> bool:
    """The last number of the text is that of the answer: `1,234`, `-3` and `2.50` are numbers, and 2.50 is 2.5."""
    wanted = {last_number(answer) for answer in _answers(meta)}
    if None in wanted:
        raise PreflowError(f"verifier `number`: the answer {meta['answer']!r} holds no number")
    return last_number(text) in wanted


def regex(meta: Mapping[str, Any], text: str) -> bool:
    """The answer, a regular expression, is found in the text (the dot takes line breaks too)."""
    try:
        return any(re.search(pattern, text, re.DOTALL) for pattern in _answers(meta))
    except re.error as error:
        raise PreflowError(f"verifier `regex`: {meta['answer']!r} is no regular expression: {error}") from None


def last_number(text: str) -> Decimal | None:
    """The last number that stands by itself in a text; None where there is none."""
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "").replace("−", "-")) if found else None


VERIFIERS: dict[str, Verifier] = {"world": world, "exact": exact, "number": number, "regex": regex}


def _answers(meta: Mapping[str, Any]) -> list[str]:
    found: Any = meta.get("answer")
    answers: list[str] = found if isinstance(found, list) else [found]
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise PreflowError(f"a prompt has the answer {found!r}, expected a text or a list of texts in `answer`")
    return answers


def _plain(text: str) -> str:
    return normalised(text).removesuffix(".").rstrip()
