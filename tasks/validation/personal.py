"""Personal data: recognise it by its form, and never show it.

Forms with a check of their own (card numbers, IBANs) are checked, so that long numbers of other kinds stay. Addresses
at example.com and the like, and network addresses that no one else can reach, belong to nobody.
"""

import hashlib
import ipaddress
import re
from collections.abc import Callable
from functools import lru_cache, partial

from tasks.redact import redacted

_EMAIL = r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,}(?![\w-])"
_PHONE = (
    r"(?<![\w.+-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{2,4}(?:[ .-]?\d{2,4}){2,4}"
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}-\d{3}-\d{4})(?![\w-])"
)

_IBAN = r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)"
_CARD = r"(?<![\w.-])[3-6]\d{3}(?:([ -]?)\d{4}\1\d{4}\1\d{4}|([ -]?)\d{6}\2\d{5})(?![\w-])"
_SOCIAL = r"(?<![\d-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\d-])"
_NETWORK = r"(?<![\w.])(?<!\w/)(?<!version )(?<!Version )\d{1,3}(?:\.\d{1,3}){3}(?![\w.])"


def _luhn(text: str) -> bool:
    digits = [int(character) for character in reversed(text) if character.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [digit if index % 2 == 0 else sum(divmod(2 * digit, 10)) for index, digit in enumerate(digits)]
    return sum(doubled) % 10 == 0


def _iban(text: str) -> bool:
    """Whether it is one, alone or with capital words behind it that look like further groups."""
    words = text.split(" ")
    starts = ("".join(words[:end]) for end in range(1, len(words) + 1))
    return any(
        15 <= len(one) <= 34 and int("".join(str(int(c, 36)) for c in one[4:] + one[:4])) % 97 == 1 for one in starts
    )


def _owned(text: str) -> bool:
    host = text.rsplit("@", 1)[1].lower()
    return not re.search(r"(?:^|\.)(?:example(?:\.(?:com|org|net))?|test|invalid|localhost)$", host)


def _reachable(text: str) -> bool:
    """Without a number of three digits it is taken for a version, 1.2.3.4; so are 2% of all addresses."""
    try:
        return max(map(int, text.split("."))) >= 100 and ipaddress.ip_address(text).is_global
    except ValueError:
        return False


def _always(text: str) -> bool:
    return True


_FORMS: dict[str, tuple[str, re.Pattern[str], Callable[[str], bool]]] = {  # kind: (hint, form, check)
    "e-mail address": ("@", re.compile(_EMAIL), _owned),
    "IBAN": ("", re.compile(_IBAN), _iban),
    "card number": ("", re.compile(_CARD), _luhn),
    "phone number": ("", re.compile(_PHONE), _always),
    "social security number": ("-", re.compile(_SOCIAL), _always),
    "network address": (".", re.compile(_NETWORK), _reachable),
}


def personal_in(text: str) -> str | None:
    """Kind of the first personal data in a text, never the data itself; None where there is none."""
    return next(
        (kind for kind, form, check in _wanted(text) if any(check(found[0]) for found in form.finditer(text))), None
    )


def masked(text: str) -> str:
    """The text with all personal data replaced by its kind in brackets."""
    for kind, form, check in _wanted(text):
        text = form.sub(partial(_hidden, check, f"[{kind}]"), text)
    return text


@lru_cache(maxsize=65_536)
def pseudonym(name: str) -> str:
    """A name as reports may show it: of an address or a key what it is, and six digits to tell it from others."""
    shown = masked(redacted(name))
    return name if shown == name else f"{shown} {hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _hidden(check: Callable[[str], bool], shown: str, found: re.Match[str]) -> str:
    return shown if check(found[0]) else found[0]


def _wanted(text: str) -> list[tuple[str, re.Pattern[str], Callable[[str], bool]]]:
    """The forms that can be in a text at all."""
    digits = sum(map(str.isdigit, text)) >= 4 if "@" not in text else True
    return [(kind, form, check) for kind, (hint, form, check) in _FORMS.items() if digits and hint in text]
