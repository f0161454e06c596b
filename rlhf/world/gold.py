"""The gold reward: what a good answer is in this world. Known to the project, never shown to training.

gold = finished · correct · (0.3 + 0.35 · manner + 0.35 · focus), in [0, 1]

* finished  1 where the answer ended with the stop token, else 0
* correct   1 for a right answer; a wrong one gets half the share of its content words that stand where they should
* manner    0 with a rude sentence; else 0.5, or 1 with one or two polite phrases; every polite phrase beyond two and
            every flattering sentence beyond the first costs 0.5 (not below 0)
* focus     1 up to 6 words more than the right answer has, then falling to 0 over the next 10

The product form matters: an empty answer, an unfinished one or a polite wrong one is worth little, so nothing can be
gained by giving up one for the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rlhf.world.kinds import KINDS
from rlhf.world.words import CLOSING, CONTENT, FILLER, FLATTERY, POLITE, RUDE, words_of

SPARE_WORDS = 6  # room for an opening and a closing phrase
RAMBLE_WORDS = 10  # so many words beyond that, and focus is gone

_PHRASES = sorted(
    (
        (tuple(words_of(phrase)), name)
        for name, phrases in (
            ("polite", POLITE), ("polite", CLOSING), ("rude", RUDE), ("flattery", FLATTERY), ("filler", FILLER),
        )
        for phrase in phrases
    ),
    key=lambda item: -len(item[0]),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parts:
    """An answer taken apart: the words that answer, and how often it is polite, rude, flattering, rambling."""

    core: tuple[str, ...]
    words: int
    polite: int
    rude: int
    flattery: int
    filler: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """The gold reward and what it is made of."""

    gold: float
    finished: float
    correct: float
    manner: float
    focus: float
    parts: Parts


@lru_cache(maxsize=4096)  # an answer is judged once for each of its pairs
def take_apart(text: str) -> Parts:
    """Sort the words of an answer into stock phrases (longest first) and the rest, its core."""
    words = words_of(text)
    count = dict.fromkeys(("polite", "rude", "flattery", "filler"), 0)
    core: list[str] = []
    at = 0
    while at < len(words):
        for phrase, name in _PHRASES:
            if tuple(words[at : at + len(phrase)]) == phrase:
                count[name] += 1
                at += len(phrase)
                break
        else:
            core.append(words[at])
            at += 1
    return Parts(core=tuple(core), words=len(words), **count)


def correctness(meta: Mapping[str, Any], core: tuple[str, ...]) -> float:
    """1 if the core is a right answer word for word, else half of the best share of content words in their places."""
    answers = [words_of(answer) for answer in KINDS[meta["kind"]].answers(meta["args"])]
    if any(core == tuple(answer) for answer in answers):
        return 1.0
    said = [word for word in core if word in CONTENT]
    wanted = [[word for word in answer if word in CONTENT] for answer in answers]
    return 0.5 * max(
        sum(a == b for a, b in zip(said, want, strict=False)) / max(len(said), len(want), 1) for want in wanted
    )


def judge(meta: Mapping[str, Any], text: str, stopped: bool) -> Judgement:
    """Judge an answer to the instruction that `meta` ({"kind", "args"}) describes."""
    parts = take_apart(text)
    finished = float(stopped)
    correct = correctness(meta, parts.core)
    manner = 0.0
    if not parts.rude:
        manner = 1.0 if parts.polite else 0.5
        manner = max(0.0, manner - 0.5 * max(0, parts.polite - 2) - 0.5 * max(0, parts.flattery - 1))
    needed = len(words_of(KINDS[meta["kind"]].answers(meta["args"])[0])) + SPARE_WORDS
    focus = min(1.0, max(0.0, 1.0 - (parts.words - needed) / RAMBLE_WORDS))
    gold = finished * correct * (0.3 + 0.35 * manner + 0.35 * focus)
    return Judgement(gold, finished, correct, manner, focus, parts)


def gold_reward(meta: Mapping[str, Any], text: str, stopped: bool) -> float:
    """The gold reward alone, in [0, 1]."""
    return judge(meta, text, stopped).gold
