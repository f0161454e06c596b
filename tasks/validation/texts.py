"""What a text hides: chat markup, also when it is disguised, characters nobody sees, and heaps of accents.

The stated rule: texts are kept as they came, letter by letter. Joiners, marks and isolates that scripts and emoji need
(U+200C to U+200F, U+2066 to U+2069, variation selectors) are kept too; what reorders or hides text is set aside.
"""

import re
import unicodedata

from rlhf.records import nfkc

_NAMES = """im_start im_end im_sep endoftext endofprompt begin_of_text end_of_text start_header_id end_header_id eot_id
eom_id user assistant system tool bot end eos bos pad unk start stop return call channel message"""
_SPACED = "|".join(r"\s*".join(map(re.escape, name)) for name in _NAMES.split())  # "<| im_ start |>"
_MARKER = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<(?:start|end)_of_turn>"
    r"|\[/?INST\]|<</?SYS>>|\n\n(?:Human|Assistant):|\n\n### (?:Instruction|Response):"
    rf"|<\s*\|\s*(?:{_SPACED})\s*\|\s*>",
    re.IGNORECASE,
)
_TAG = re.compile(r"</?s>|<(?:bos|eos|pad|unk|user|bot|end|system|assistant)>", re.IGNORECASE)

_UNSEEN = (
    *(0xAD, 0x34F, 0x61C, 0x115F, 0x1160, 0x180E, 0x3164, 0xFEFF, 0xFFA0),
    *range(0x200B, 0x2010),
    *range(0x202A, 0x202F),
    *range(0x2060, 0x2070),
    *range(0xFE00, 0xFE10),
    *range(0xE0000, 0xE0080),
)
_ALIKE = {
    "<": "‹〈⟨❮˂ᐸ≺", ">": "›〉⟩❯˃ᐳ≻", "|": "∣│┃❘❙ǀ⎮¦︱", "[": "【〔⟦", "]": "】〕⟧",
    "/": "⁄∕╱", "_": "‗ˍ▁", ":": "։∶꞉",
    "a": "аα", "c": "сϲ", "d": "ԁ", "e": "еє", "h": "һ", "i": "іιı", "j": "ј", "k": "кκ", "m": "м", "n": "ո",
    "o": "оοօ", "p": "рρ", "q": "ԛ", "r": "г", "s": "ѕ", "t": "тτ", "u": "υս", "v": "ν", "w": "ԝ", "x": "хχ", "y": "уγ",
    "A": "АΑ", "H": "НΗ", "I": "ІΙ", "N": "Ν", "S": "Ѕ", "T": "ТΤ",
}  # fmt: skip
_SKELETON = dict.fromkeys(_UNSEEN) | {ord(odd): plain for plain, odds in _ALIKE.items() for odd in odds}

_HIDDEN = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u202a-\u202e\ufff9-\ufffb\U000e0001-\U000e007f]"
)  # tab, line feed, line tab, form feed, carriage return and NEL lay text out
_FLAG = re.compile(
    "\U0001f3f4[\U000e0020-\U000e007e]{1,6}\U000e007f"
)  # 🏴󠁧󠁢󠁳󠁣󠁴󠁿 is spelled with tags, and is no secret writing

_FOREIGN = re.compile("[^\x00-\u02ff]{2,}")  # where marks can be; a lone curly quote is none


def marker(text: str) -> str | None:
    """The first markup of turns in a text, also where blanks or unseen characters split it up or look-alikes spell."""
    if not text.isascii():
        text = nfkc(text).translate(_SKELETON)
    if "<" not in text and "[" not in text and "\n\n" not in text:
        return None
    found = _MARKER.search(text)
    return None if found is None else " ".join(found.group().split())


def tag(text: str) -> str | None:
    """The first short tag that some model has as a special token, and ordinary text as HTML or as a placeholder."""
    found = _TAG.search(text) if "<" in text else None
    return None if found is None else found.group()


def hidden(text: str) -> str | None:
    """The first character that hides or reorders text, by name: NUL and other control characters, bidirectional
    overrides and embeddings, tag characters outside flags."""
    if text.isascii() and text.isprintable():
        return None
    if "\U0001f3f4" in text:
        text = _FLAG.sub("", text)
    found = _HIDDEN.search(text)
    if found is None:
        return None
    character = found.group()
    return f"U+{ord(character):04X} {unicodedata.name(character, 'control character')}"


def mark_run(text: str) -> int:
    """Length of the longest run of marks that stack on one letter (Unicode categories Mn, Me); one is no run."""
    longest = 0
    for heap in _FOREIGN.findall(text):
        run = 0
        for character in heap if len(heap) > longest else "":
            run = run + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
            longest = max(longest, run)
    return longest
