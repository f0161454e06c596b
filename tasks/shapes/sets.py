"""Several answers to one prompt, ranked or scored together (InstructGPT, 2203.02155): all their pairs.

`completions` are texts; `ranks` say which is better (the smaller), or `scores` do (the larger). Equal ones make no
pair, and one without a rank (null) takes part in none. With scores a pair's `margin` is their difference. Every pair
carries the `set` it is from, so that all pairs of a set train in one batch.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from rlhf.records import content_id
from tasks.shapes.fields import Malformed, Value, is_number, messages, said, type_of

MAX_COMPLETIONS = 32
"""Of one set: 496 pairs."""
_OWN = ("completions", "ranks", "scores", "rewards")


def is_set(value: Value) -> bool:
    """Whether a row holds several completions."""
    return "completions" in value


def pairs(value: Value) -> Iterator[Value | Malformed]:
    """Every pair of which one side is better, in the order of the completions; then what kept others from being one."""
    try:
        completions, goodness, scored = _read(value)
    except Malformed as error:
        yield error
        return
    name = content_id({"set": [value.get(key) for key in ("messages", "prompt", "instruction", "input", *_OWN)]})
    rest = {key: item for key, item in value.items() if key not in _OWN}
    for first, second in combinations(range(len(completions)), 2):
        above, below = goodness[first], goodness[second]
        if above is None or below is None or above == below:
            continue
        better, worse = (first, second) if above > below else (second, first)
        found = {"chosen": completions[better], "rejected": completions[worse], "set": name}
        yield rest | found | ({"scores": [goodness[better], goodness[worse]]} if scored else {})
    if problem := _problem(goodness):
        yield Malformed(problem, "ranking")


def best(value: Value) -> Value | Malformed:
    """The row with the best completion alone as its answer, where one stands above all others."""
    try:
        completions, goodness, _ = _read(value)
        known = [one for one in goodness if one is not None]
        if len(completions) > 1 and (not known or known.count(max(known)) > 1):
            raise Malformed(_problem(goodness) or "the best completions share a rank", "ranking")
        answer = completions[goodness.index(max(known)) if known else 0]
        rest = {key: item for key, item in value.items() if key not in _OWN}
        if "messages" in rest:
            return rest | {"messages": [*messages(rest["messages"], "messages"), said("assistant", answer)]}
        return rest | {"completion": answer}
    except Malformed as error:
        return error


def _read(value: Value) -> tuple[list[str], list[float | None], bool]:
    """Completions, how good each is (larger is better, None is not known), and whether these are scores."""
    completions = value["completions"]
    if not isinstance(completions, list) or not all(isinstance(one, str) for one in completions):
        raise Malformed(f"completions: expected a list of texts, found {type_of(completions)} of others")
    if not 1 <= len(completions) <= MAX_COMPLETIONS:
        raise Malformed(f"completions: expected 1 to {MAX_COMPLETIONS}, found {len(completions)}")
    name = next((name for name in ("ranks", "scores", "rewards") if value.get(name) is not None), None)
    if name is None:
        raise Malformed(f"0 of {len(completions)} completions are ranked: expected ranks or scores", "ranking")
    given: Any = value[name]
    if not isinstance(given, list) or not all(one is None or is_number(one) for one in given):
        raise Malformed(f"{name}: expected a list of numbers, found {type_of(given)} of others")
    if len(given) != len(completions):
        raise Malformed(f"{name}: expected {len(completions)}, one a completion, found {len(given)}")
    return completions, [-one if name == "ranks" and one is not None else one for one in given], name != "ranks"


def _problem(goodness: Sequence[float | None]) -> str:
    known = [one for one in goodness if one is not None]
    if len(known) < len(goodness):
        return f"{len(known)} of {len(goodness)} completions are ranked"
    return f"all {len(known)} completions share a rank" if len(set(known)) == 1 < len(known) else ""
