"""Verifiers that compare words: the answers of the embedded world, the same text, a regular expression."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from rlhf.errors import PreflowError
from rlhf.records import normalised
from rlhf.world.gold import correctness, take_apart
from rlhf.world.kinds import KINDS


def world(meta: Mapping[str, Any]) -> Callable[[str], bool]:
    """The embedded world: the words that answer are right, all of them; manner and focus, which gold has too, are not
    looked at."""
    if meta.get("kind") not in KINDS:
        raise PreflowError(
            f"verifier `world` knows the kinds {', '.join(KINDS)}, a prompt has {meta.get('kind')!r}: "
            "name another verifier"
        )
    return lambda text: correctness(meta, take_apart(text).core) == 1.0


def exact(meta: Mapping[str, Any]) -> Callable[[str], bool]:
    """The same text but for case, white space and one full stop at the end."""
    wanted = {_plain(answer) for answer in answers_of(meta)}
    return lambda text: _plain(text) in wanted


def regex(meta: Mapping[str, Any]) -> Callable[[str], bool]:
    """The answer, a regular expression, is found in the text (the dot takes line breaks too)."""
    try:
        patterns = [re.compile(answer, re.DOTALL) for answer in answers_of(meta)]
    except re.error as error:
        raise PreflowError(f"verifier `regex`: {meta['answer']!r} is no regular expression: {error}") from None
    return lambda text: any(pattern.search(text) for pattern in patterns)


def answers_of(meta: Mapping[str, Any]) -> list[str]:
    """The right answers of a prompt as texts; a number counts as the text of it.

    Raises PreflowError where `answer` is absent or something else.
    """
    found: Any = meta.get("answer")
    answers: list[Any] = found if isinstance(found, list) else [found]
    if not answers or not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in answers):
        raise PreflowError(f"a prompt has the answer {found!r}, expected a text or a list of texts in `answer`")
    return [str(one) for one in answers]


def _plain(text: str) -> str:
    return normalised(text).removesuffix(".").rstrip()
