"""Fields of a row, each of the type it must have, or the reason why not."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

Message = dict[str, str]
Content = dict[str, Any]
Value = Mapping[str, Any]


class Malformed(ValueError):
    """A row that could be read and is of no shape that its kind knows. The message is the reason.

    `rule` is its name in the quarantine: shape; contexts, where the two sides of a pair answer different conversations;
    ranking, where answers are not, or not all, ranked.
    """

    def __init__(self, reason: str, rule: str = "shape") -> None:
        super().__init__(reason)
        self.rule = rule


def nothing_of(what: str, names: Sequence[str], value: Value) -> Malformed:
    """None of these fields is there; which ones are."""
    found = ", ".join(sorted(map(str, value))[:12]) or "none"
    return Malformed(f"no {what}: expected one of {', '.join(names)}, found {found} (collect.columns gives names)")


def text(value: Value, name: str) -> str:
    """The text of a field that must be there."""
    if name not in value:
        raise Malformed(f"{name} is missing")
    found = value[name]
    if not isinstance(found, str):
        raise Malformed(f"{name}: expected text, found {type_of(found)}")
    return found


def typed(value: Value, name: str, kind: type, default: Any) -> Any:
    """A field that may be left out."""
    found = default if value.get(name) is None else value[name]
    if not isinstance(found, kind):
        raise Malformed(f"{name}: expected {kind.__name__}, found {type_of(found)}")
    return found


def number(value: Value, name: str) -> float | None:
    """A finite number, as it was written; None where there is none."""
    found = value.get(name)
    if found is None:
        return None
    if not is_number(found):
        raise Malformed(f"{name}: expected a number, found {type_of(found)}")
    return found  # type: ignore[no-any-return]


def is_number(found: Any) -> bool:
    """Whether this is a finite number; true and false are none."""
    return isinstance(found, int | float) and not isinstance(found, bool) and abs(found) <= sys.float_info.max


def boolean(value: Value, name: str) -> bool:
    """true or false, also as 1 or 0, and in a text as yes or no."""
    if name not in value:
        raise Malformed(f"{name} is missing")
    found = value[name]
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, 1: True, 0: False}
    plain = found.strip().lower() if isinstance(found, str) else found
    if not isinstance(plain, str | int | float) or plain not in known:
        shown = repr(found)[:40] if isinstance(found, str | int | float) else type_of(found)
        raise Malformed(f"{name}: expected true or false, found {shown}")
    return known[plain]  # type: ignore[index]


def name_of_someone(value: Value, name: str, default: str) -> str:
    """Who or what a row is of, by name or number."""
    found = value.get(name)
    return str(found) if isinstance(found, int) and not isinstance(found, bool) else typed(value, name, str, default)


def name_of_group(value: Value) -> str:
    """What `group` says, a text or a whole number (17.0 where a table had to hold missing ones too); "" where it says
    nothing. Passing over what it says would put rows that belong together on both sides of a split."""
    found = value.get("group")
    found = int(found) if isinstance(found, float) and found.is_integer() else found
    return name_of_someone({"group": found}, "group", "")


def messages(value: Any, name: str) -> list[Message]:
    """A list of role and content. What a message says of itself besides must be null, as tables fill it in."""
    if not isinstance(value, list) or not value:
        raise Malformed(
            f"{name}: expected a list of messages, found {'an empty list' if value == [] else type_of(value)}"
        )
    found = []
    for index, message in enumerate(value, start=1):
        if isinstance(message, dict):
            message = {key: item for key, item in message.items() if item is not None or key == "content"}
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            keys = ", ".join(map(str, message)) if isinstance(message, dict) else type_of(message)
            raise Malformed(f"{name}: message {index} must have role and content alone, found {keys or 'nothing'}")
        for key in ("role", "content"):
            if not isinstance(message[key], str):
                raise Malformed(f"{name}: {key} of message {index} must be text, found {type_of(message[key])}")
        found.append({"role": message["role"], "content": message["content"]})
    return found


def said(role: str, content: str) -> Message:
    """One message."""
    return {"role": role, "content": content}


def type_of(value: Any) -> str:
    """What a wrong value is, for a message."""
    return "null" if value is None else type(value).__name__
