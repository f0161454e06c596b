"""What the verifiers share: their types, and how they show what a prompt gave them."""

from collections.abc import Callable, Mapping
from typing import Any

Check = Callable[[str], bool | None]
"""Whether a text is right; None where that cannot be said, which is neither."""
Verifier = Callable[[Mapping[str, Any]], Check]

_MOST = 200


def shown(given: Any) -> str:
    """What a prompt gave as it stands in an error: not longer than a line or two, whatever it is."""
    try:
        text = repr(given)
    except (ValueError, RecursionError):  # a whole number of thousands of digits has no text, a bottomless list neither
        return f"a {type(given).__name__} too large to show"
    return text if len(text) <= _MOST else f"{text[:_MOST]}…"
