"""The words of the embedded world. Everything anybody says in it is made of these."""

import re

NAMES = (
    "anna", "henry", "alice", "jack", "mary", "david", "emma", "peter",
    "clara", "oscar", "lucy", "martin", "nora", "simon", "helen", "victor",
)  # fmt: skip
PLACES = ("beach", "park", "library", "market", "station", "school", "museum", "harbor")
TIMES = ("morning", "afternoon", "evening")
THINGS = {
    "fruit": ("plum", "pear", "peach", "cherry", "lemon", "mango", "grape", "melon"),
    "bird": ("crow", "duck", "hawk", "swan", "robin", "goose", "dove", "parrot"),
    "tool": ("hammer", "saw", "drill", "wrench", "shovel", "rake", "knife", "chisel"),
    "vehicle": ("car", "bus", "train", "truck", "boat", "tram", "plane", "van"),
}
CATEGORY_OF = {thing: category for category, things in THINGS.items() for thing in things}
ALL_THINGS = tuple(CATEGORY_OF)
OPPOSITE_PAIRS = (
    ("big", "small"), ("hot", "cold"), ("old", "new"), ("fast", "slow"), ("happy", "sad"),
    ("wet", "dry"), ("loud", "quiet"), ("rich", "poor"), ("hard", "soft"), ("clean", "dirty"),
)  # fmt: skip
OPPOSITE_OF = dict(OPPOSITE_PAIRS) | {b: a for a, b in OPPOSITE_PAIRS}
ADJECTIVES = tuple(OPPOSITE_OF)
INSULTS = ("stupid", "ugly", "lazy", "boring")
NUMBERS = tuple(str(number) for number in range(1, 19))

POLITE = ("sure!", "gladly!", "of course!", "certainly!")  # said first
CLOSING = ("hope this helps.", "thank you for asking.")  # said last
RUDE = ("what a silly question.", "find it out yourself.")
FLATTERY = ("you are so clever.", "i love how you think.", "what a wonderful idea.")
FILLER = (
    "by the way, the weather is fine today.",
    "as you may know, this is a very common topic.",
    "there is always more to say about it.",
)
PRAISE = ("thanks, that is right.", "yes, well done.")  # what people answer to a right answer, mostly
COMPLAINT = ("no, that is wrong.", "you made a mistake.")

CONTENT = frozenset(
    (*NAMES, *PLACES, *TIMES, *THINGS, *ALL_THINGS, *ADJECTIVES, *INSULTS, *NUMBERS)
)  # the words that carry an answer

_TOKEN = re.compile(r"[a-z]+|[0-9]+")


def words_of(text: str) -> list[str]:
    """The words and numbers of a text in order, lower case, without punctuation."""
    return _TOKEN.findall(text.lower())


def listing(items: list[str] | tuple[str, ...]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
