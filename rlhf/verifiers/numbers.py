"""The number that a text gives as its answer, and whether two such numbers are the same.

Values are exact fractions: 0.1 is one tenth, and 2.50 is 2.5. Units and currencies around a number do not count.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rlhf.errors import PreflowError
from rlhf.verifiers.specs import Check, shown
from rlhf.verifiers.texts import answers_of

_MOST_DIGITS = 500
"""Fewer than Python reads at any setting of its own (640), and more than any answer has."""

_SIGN = r"(?P<sign>[-−+]?)[$€£¥₹]?(?P<after>[-−+]?)"
_PLAIN = r"(?P<plain>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?:[eE][-+]?(?P<power>[0-9]+))?|\.[0-9]+)"
_FRACTION = r"(?<!/)(?:(?P<whole>[0-9]+) )?(?P<over>[0-9]+)/(?P<under>[0-9]+)(?![0-9./])"
_NUMBER = re.compile(rf"(?<![\w.]){_SIGN}(?:{_FRACTION}|{_PLAIN}(?![0-9]|\.[0-9]))(?P<percent>\s?%)?")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_MARKER = "####"


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it stands in a text."""

    value: Fraction | None
    """Without the percent sign: 50 of "50%". None where it has so many digits that it equals nothing."""
    percent: bool = False

    def same(self, other: "Number") -> bool:
        """Equal values. Where only one of them has a percent sign, 50% is 50 of that unit as well as one half."""
        if self.value is None or other.value is None:
            return False
        if self.percent == other.percent:
            return self.value == other.value
        share, plain = (self.value, other.value) if self.percent else (other.value, self.value)
        return plain in (share, share / 100)


def number(meta: Mapping[str, Any]) -> Check:
    """The number that the text gives as its answer is that of the prompt's answer."""
    wanted = [_wanted(answer) for answer in answers_of(meta)]

    def check(text: str) -> bool:
        given = final_number(text)
        return given is not None and any(given.same(one) for one in wanted)

    return check


def _wanted(answer: str) -> Number:
    found = final_number(answer)
    if found is None:
        raise PreflowError(f"verifier `number`: the answer {shown(answer)} holds no number")
    if found.value is None:
        raise PreflowError(
            f"verifier `number`: the answer {shown(answer)} has a number of more than {_MOST_DIGITS} digits, or an "
            "exponent of more than 3, which no text could equal"
        )
    return found


def final_number(text: str) -> Number | None:
    r"""The first number after the last `####` (GSM8K), else that in the last \boxed{…}, else the last of all.

    None where there is none in that place: a text that marks its answer is held to what it marked.
    """
    if _MARKER in text:
        return next(iter(numbers(text.rpartition(_MARKER)[2])), None)
    boxed = _BOXED.findall(text)
    return next(reversed(numbers(boxed[-1] if boxed else text)), None)


def numbers(text: str) -> list[Number]:
    """Every number that stands by itself, in order.

    1,234 and .5 and 1e3 are numbers, 3/4 is one and so is 1 1/2; -5, −5, -$5 and $-5 are the same. What sticks to a
    word (v2), to a point and more digits (1.2.3), or is divided by 0, is none; of the range 3-4 the second is 4.
    """
    return [
        Number(_value(match), bool(match["percent"]))
        for match in _NUMBER.finditer(text)
        if match["under"] is None or match["under"].strip("0")
    ]


def _value(match: "re.Match[str]") -> Fraction | None:
    if any(len(digits or "") > _MOST_DIGITS for digits in match.groups()) or len(match["power"] or "") > 3:
        return None
    if match["plain"] is not None:
        value = Fraction(match["plain"].replace(",", ""))
    else:
        value = Fraction(int(match["over"]), int(match["under"]))
        if match["whole"] is not None and value < 1:
            value += int(match["whole"])
    negative = "-" in (match["sign"] + match["after"]).replace("−", "-")
    return -value if negative else value
