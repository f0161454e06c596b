"""The number that a text gives as its answer, and whether two such numbers are the same.

Values are exact fractions: 0.1 is one tenth, and 2.50 is 2.5. Units and currencies around a number do not count.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rlhf.errors import PreflowError
from rlhf.verifiers.texts import answers_of

_SIGN = r"(?P<sign>[-−+]?)[$€£¥₹]?(?P<after>[-−+]?)"
_PLAIN = r"(?P<plain>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3})?|\.[0-9]+)"
_FRACTION = r"(?<!/)(?:(?P<whole>[0-9]+) )?(?P<over>[0-9]+)/(?P<under>[0-9]+)(?![0-9./])"
_NUMBER = re.compile(rf"(?<![\w.]){_SIGN}(?:{_FRACTION}|{_PLAIN}(?![0-9]|\.[0-9]))(?P<percent>\s?%)?")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_MARKER = "####"


@dataclass(frozen=True, slots=True)
class Number:
    """A number as it stands in a text."""

    value: Fraction
    """Without the percent sign: 50 of "50%"."""
    percent: bool = False

    def same(self, other: "Number") -> bool:
        """Equal values. Where only one of them has a percent sign, 50% is 50 of that unit as well as one half."""
        if self.percent == other.percent:
            return self.value == other.value
        share, plain = (self, other) if self.percent else (other, self)
        return plain.value in (share.value, share.value / 100)


def number(meta: Mapping[str, Any]) -> Callable[[str], bool]:
    """The number that the text gives as its answer is that of the prompt's answer."""
    wanted = [final_number(answer) for answer in answers_of(meta)]
    if None in wanted:
        raise PreflowError(f"verifier `number`: the answer {meta['answer']!r} holds no number")

    def check(text: str) -> bool:
        given = final_number(text)
        return given is not None and any(given.same(one) for one in wanted if one is not None)

    return check


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
    found = ((_value(match), bool(match["percent"])) for match in _NUMBER.finditer(text))
    return [Number(value, percent) for value, percent in found if value is not None]


def _value(match: "re.Match[str]") -> Fraction | None:
    if match["plain"] is not None:
        value = Fraction(match["plain"].replace(",", ""))
    elif int(match["under"]) == 0:
        return None
    else:
        value = Fraction(int(match["over"]), int(match["under"]))
        if match["whole"] is not None and value < 1:
            value += int(match["whole"])
    negative = "-" in (match["sign"] + match["after"]).replace("−", "-")
    return -value if negative else value
