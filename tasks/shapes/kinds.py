"""A line that is one row, in the one canonical shape of its kind."""

from typing import Any

from tasks.shapes.fields import (
    Content,
    Malformed,
    Value,
    boolean,
    is_number,
    messages,
    name_of_someone,
    number,
    text,
    type_of,
    typed,
)
from tasks.shapes.turns import before_answer, conversation, side, with_system

_CHECKED = ("answer", "verifier", "constraints", "tests")
"""Fields of a prompt that say how its answers are checked (`rlhf.verifiers`)."""


def canonical(kind: str, value: Value) -> Content:
    """The content fields of a line that is one row, in the canonical shape. Raises Malformed with the reason."""
    if kind == "corpus":
        return _document(value)
    if kind == "demonstrations":
        meta = _meta(value)
        return {"messages": conversation(value)} | ({"meta": meta} if "verifier" in meta else {})
    if kind == "preferences":
        return _preference(value)
    if kind == "ratings":
        return _rating(value)
    found = {"messages": before_answer(value), "meta": _meta(value)}
    return found | {"pool": typed(value, "pool", str, "any")} if kind == "prompts" else found


def _document(value: Value) -> Content:
    if "messages" in value:
        return {"messages": messages(value["messages"], "messages"), "run_on": typed(value, "run_on", bool, False)}
    return {"text": text(value, "text")}


def _preference(value: Value) -> Content:
    if "messages" in value and isinstance(value.get("chosen"), str):
        context = with_system(value, messages(value["messages"], "messages"))
        chosen, rejected = text(value, "chosen"), text(value, "rejected")
    else:
        (context, chosen), (other, rejected) = side(value, "chosen"), side(value, "rejected")
        if context != other:
            raise Malformed("the conversations before chosen and rejected differ", "contexts")
    scores = _scores(value)
    margin = number(value, "margin")
    found: Content = {
        "messages": context,
        "chosen": chosen,
        "rejected": rejected,
        "annotator": name_of_someone(value, "annotator", "unknown"),
        "origin": typed(value, "origin", str, "offline"),
        "margin": scores[0] - scores[1] if scores and margin is None else margin,
    }
    more = {"scores": scores, "confidence": number(value, "confidence"), "turn": number(value, "turn")}
    shown = {"shown_first": value["shown_first"]} if isinstance(value.get("shown_first"), str) else {}
    more |= {"set": typed(value, "set", str, "") or None, "meta": (typed(value, "meta", dict, {}) | shown) or None}
    return found | {name: item for name, item in more.items() if item is not None}


def _scores(value: Value) -> list[float] | None:
    """Of the chosen and of the rejected answer."""
    given: Any = value.get("scores")
    if given is None and "score_chosen" in value and "score_rejected" in value:
        given = [number(value, "score_chosen"), number(value, "score_rejected")]
        if None in given:
            return None
    if given is None:
        return None
    if not isinstance(given, list) or len(given) != 2 or not all(map(is_number, given)):
        raise Malformed(f"scores: expected two numbers, of chosen and of rejected, found {type_of(given)} of others")
    return list(given)


def _rating(value: Value) -> Content:
    name = next((name for name in ("completion", "output", "response") if name in value), None)
    if name is None and "messages" not in value:
        raise Malformed("no answer to rate: expected completion, or messages that end with the assistant")
    label = boolean(value, "label")
    if name and "messages" in value:
        context, completion = with_system(value, messages(value["messages"], "messages")), text(value, name)
    elif name:
        context, completion = side(value, name)
    else:
        context, completion = side({**value, "chosen": value["messages"]}, "chosen")
    someone = name_of_someone(value, "annotator", "")
    found = {"messages": context, "completion": completion, "label": label}
    return found | ({"annotator": someone} if someone else {})


def _meta(value: Value) -> Content:
    """What is known of a question: its `meta`, and how its answer is checked."""
    given = {name: value[name] for name in _CHECKED if value.get(name) is not None}
    if "answer" in given:
        given["answer"] = _answer(given["answer"])
    return typed(value, "meta", dict, {}) | given


def _answer(found: Any) -> str | list[str]:
    """Right answers as texts: 51.0 is "51"."""
    if isinstance(found, list):
        return [str(_answer(one)) for one in found]
    if is_number(found):
        return str(int(found)) if float(found).is_integer() else str(found)
    if not isinstance(found, str):
        raise Malformed(f"answer: expected a text, a number or a list of these, found {type_of(found)}")
    return found
