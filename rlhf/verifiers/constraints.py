"""Instructions about the form of an answer, checked one by one; all must hold (as IFEval's strict score, 2311.07911).

`meta["constraints"]` is a list, each entry a `rule` and what it needs:

    {"rule": "words", "at_least": 20, "at_most": 50}     also sentences, paragraphs, lines, bullets, characters
    {"rule": "contains", "text": "river"}                as often as `at_least` (1) to `at_most` (no limit) say
    {"rule": "avoids", "text": "sorry"}
    {"rule": "starts_with", "text": "Dear"}              and ends_with
    {"rule": "case", "is": "upper"}                      or lower
    {"rule": "json"}                                     the whole text, in a code fence or not
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from rlhf.errors import PreflowError
from rlhf.verifiers.specs import shown

Kept = Callable[[str], bool]

# None of these patterns looks at a character more often than a few times: a run of a hundred thousand full stops or
# line breaks takes no longer than any other text.
_COUNTS: dict[str, Callable[[str], int]] = {
    "words": lambda text: len(text.split()),
    "sentences": lambda text: len(re.findall(r"(?<![.!?…])[.!?…]++(?=[\s\"')\]”’]|$)", text.strip())),
    "paragraphs": lambda text: len([part for part in re.split(r"\n\s*\n", text) if part.strip()]),
    "lines": lambda text: len([line for line in text.splitlines() if line.strip()]),
    "bullets": lambda text: len(re.findall(r"^[^\S\n]*[-*•]\s+\S", text, re.MULTILINE)),
    "characters": lambda text: len(text.strip()),
}
_FENCE = "```"


def constraints(meta: Mapping[str, Any]) -> Kept:
    """The text keeps to every constraint of the prompt. Raises PreflowError where one of them cannot be understood."""
    given = meta.get("constraints")
    if not isinstance(given, list) or not given or not all(isinstance(one, Mapping) for one in given):
        raise PreflowError(f"a prompt has the constraints {shown(given)}, expected a list of mappings with `rule`")
    checks = [_check(one) for one in given]
    return lambda text: all(check(text) for check in checks)


def _check(constraint: Mapping[str, Any]) -> Kept:
    given = {name: value for name, value in constraint.items() if value is not None}  # null is as good as absent
    rule = given.get("rule")
    if isinstance(rule, str) and rule in _COUNTS:
        _allow(given, "at_least", "at_most")
        count = _COUNTS[rule]
        if not {"at_least", "at_most"} & set(given):
            raise PreflowError(f"constraint {shown(given)}: {rule} needs at_least, at_most or both")
        return _within(count, given, at_least=0)
    if rule == "contains":
        _allow(given, "text", "at_least", "at_most")
        return _within(_occurrences(_text(given)), given, at_least=1)
    if rule == "avoids":
        _allow(given, "text")
        count = _occurrences(_text(given))
        return lambda text: count(text) == 0
    if rule in ("starts_with", "ends_with"):
        _allow(given, "text")
        wanted = _text(given)
        return lambda text: text.strip().startswith(wanted) if rule == "starts_with" else text.strip().endswith(wanted)
    if rule == "case" and given.get("is") in ("upper", "lower"):
        _allow(given, "is")
        return str.isupper if given["is"] == "upper" else str.islower
    if rule == "json":
        _allow(given)
        return _is_json
    raise PreflowError(
        f"constraint {shown(given)} is unknown: there are {', '.join(_COUNTS)}, contains, avoids, starts_with, "
        "ends_with, case (is: upper or lower), json"
    )


def _allow(given: Mapping[str, Any], *names: str) -> None:
    if unknown := sorted(str(name) for name in set(given) - {"rule", *names}):
        raise PreflowError(
            f"constraint {shown(given)}: {', '.join(unknown)} unknown, expected {', '.join(names) or '-'}"
        )


def _text(given: Mapping[str, Any]) -> str:
    text = given.get("text")
    if not isinstance(text, str) or not text:
        raise PreflowError(f"constraint {shown(given)}: `text` is {shown(text)}, expected a text")
    return text


def _within(count: Callable[[str], int], given: Mapping[str, Any], at_least: int) -> Kept:
    low, high = given.get("at_least", at_least), given.get("at_most")
    for limit in (low, high):
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
            raise PreflowError(f"constraint {shown(given)}: a limit is {shown(limit)}, expected a whole number from 0")
    return lambda text: low <= count(text) and (high is None or count(text) <= high)


def _occurrences(wanted: str) -> Callable[[str], int]:
    """How often, whatever the case; a word is not found within another."""
    left = r"(?<!\w)" if wanted[0].isalnum() else ""
    right = r"(?!\w)" if wanted[-1].isalnum() else ""
    pattern = re.compile(left + re.escape(wanted) + right, re.IGNORECASE)
    return lambda text: len(pattern.findall(text))


def _is_json(text: str) -> bool:
    try:
        json.loads(_unfenced(text.strip()), parse_int=str)  # a number may have any number of digits
    except (ValueError, RecursionError):
        return False
    return True


def _unfenced(text: str) -> str:
    """What stands in the code fence that a text consists of, else all of it."""
    if not (text.startswith(_FENCE) and text.endswith(_FENCE) and len(text) >= 2 * len(_FENCE)):
        return text
    label, _, inside = text[len(_FENCE) : -len(_FENCE)].partition("\n")
    return inside if label.removeprefix("json").strip() == "" else text
