"""Verifiers that compare words: the answers of the embedded world, the same text, a regular expression."""

from collections.abc import Mapping
from typing import Any

from rlhf.errors import PreflowError
from rlhf.records import normalised
from rlhf.verifiers.patterns import found, refuse_unreadable
from rlhf.verifiers.specs import Check, shown
from rlhf.world.gold import correctness, take_apart
from rlhf.world.kinds import KINDS


def world(meta: Mapping[str, Any]) -> Check:
    """The embedded world: the words that answer are right, all of them; manner and focus, which gold has too, are not
    looked at."""
    kind = meta.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise PreflowError(
            f"verifier `world` knows the kinds {', '.join(KINDS)}, a prompt has {shown(kind)}: name another verifier"
        )
    try:
        correctness(meta, ())
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise PreflowError(
            f"verifier `world`: a prompt of kind `{kind}` has the args {shown(meta.get('args'))}, which are not those "
            f"of its kind: {shown(error)}"
        ) from None
    return lambda text: correctness(meta, take_apart(text).core) == 1.0


def exact(meta: Mapping[str, Any]) -> Check:
    """The same text but for case, white space and one full stop at the end."""
    wanted = {_plain(answer) for answer in answers_of(meta)}
    return lambda text: _plain(text) in wanted


def regex(meta: Mapping[str, Any]) -> Check:
    """The answer, a regular expression, is found in the text (the dot takes line breaks too)."""
    patterns = answers_of(meta)
    refuse_unreadable(patterns, "verifier `regex`:")
    return lambda text: found(patterns, [text])[0]


def answers_of(meta: Mapping[str, Any]) -> list[str]:
    """The right answers of a prompt as texts; a number counts as the text of it.

    Raises PreflowError where `answer` is absent or something else.
    """
    given: Any = meta.get("answer")
    answers: list[Any] = given if isinstance(given, list) else [given]
    if not answers or not all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in answers):
        raise PreflowError(f"a prompt has the answer {shown(given)}, expected a text or a list of texts in `answer`")
    try:
        return [str(one) for one in answers]
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        raise PreflowError("a prompt has a whole number of thousands of digits in `answer`: give it as text") from None


def _plain(text: str) -> str:
    return normalised(text).removesuffix(".").rstrip()
