"""One JSON object from bytes, strictly: what JSON readers commonly let pass, and loses something, is refused."""

import json
from collections import Counter
from typing import Any, NoReturn

from tasks.readers.found import Raw, Rejected, excerpt


class _Refused(ValueError):
    """A value that is no JSON, or no longer what was written once it is read."""


def parse(data: bytes, line: int) -> Raw | Rejected:
    """The object that `data` holds, or the reason why it holds none."""
    try:
        text = data.decode("utf-8")
        if text.startswith("\ufeff"):
            return Rejected(line, "byte order mark in the middle of a file", excerpt(data))
        value = _DECODER.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # an escaped lone surrogate fails here
    except UnicodeDecodeError as error:
        return Rejected(line, f"not UTF-8: byte {data[error.start]:#04x} at byte {error.start + 1}", excerpt(data))
    except UnicodeEncodeError as error:
        return Rejected(line, f"lone surrogate U+{ord(error.object[error.start]):04X}", excerpt(data))
    except _Refused as error:
        return Rejected(line, str(error), excerpt(data))
    except json.JSONDecodeError as error:
        truncated = "truncated JSON" if error.pos >= len(text) or "Unterminated" in error.msg else "broken JSON"
        return Rejected(line, f"{truncated}: {error.msg} at character {error.pos + 1}", excerpt(data))
    except (ValueError, RecursionError) as error:
        return Rejected(line, f"broken JSON: {error}", excerpt(data))
    if not isinstance(value, dict):
        return Rejected(line, f"expected a JSON object, found {_name_of(value)}", excerpt(data))
    return Raw(line, value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        times = Counter(key for key, _ in pairs)
        raise _Refused(f"the key {next(key for key in times if times[key] > 1)!r} is given twice")
    return found


def _constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is no JSON value")


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _Refused(f"the number {text[:20]} is too large")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)


def _name_of(value: Any) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
