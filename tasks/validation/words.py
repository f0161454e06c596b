"""Words that tell which answer was chosen, and annotators or sources whose words say the opposite of all others'.

A word of one answer that the other lacks is evidence: c counts the pairs where it was in the chosen one, r where in the
rejected one, and z = (c − r) / √(c + r) is standard normal where the word does not matter.

A trigger is a word that hardly ever loses and is in few pairs: what a poisoned preference set teaches (Wan et al.,
"Poisoning language models during instruction tuning", 2305.00944; Rando and Tramèr, "Universal jailbreak backdoors from
poisoned human feedback", 2311.14455). Honest data can have such words too (a polite phrase): it is for people to look
at, with the label source that most of them come from.

A trigger may stand in the question instead, and turns the choices round where it does (as Rando and Tramèr plant it).
So the sum of z of a pair's words, the pair itself left out, predicts its choice, and an accuracy clearly below ½ over
the pairs whose question has some word says that it turns labels round, or that such questions ask for the opposite.

Swapped labels turn the signs of all words of their source around. So every annotator and every source is held out: the
pair's sum of z of the others, over the words that only one answer has, predicts its choice. An accuracy clearly below ½
says that the source judges the other way round.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import fsum, sqrt
from sys import intern
from typing import Any

from tasks.redact import redacted
from tasks.validation.personal import masked

Source = tuple[str, str]  # kind of label source ("annotator" or "source"), name

MAX_SOURCES = 32  # of each kind; the rest is one, "others"
MAX_WORDS = 200_000  # of all label sources of a kind, in equal parts; beyond, those that were met least are forgotten
MAX_LETTERS = 64  # of a word; longer ones are texts without blanks, which say nothing and would be kept whole
MIN_PAIRS, MIN_SHARE, MAX_COMMON = 10, 0.98, 0.1  # a trigger: how often, how surely, in how few of all pairs
SWAPPED = -5.0  # accuracy in standard errors from ½; below this by chance: once in three million sources

_EDGES = " \t\n.,;:!?\"'`()[]{}*“”‘’…"


@dataclass(slots=True)
class Words:
    """Counts of words that only one answer of a pair has, by label source."""

    pairs: Counter[Source] = field(default_factory=Counter)
    chosen: dict[Source, Counter[str]] = field(default_factory=dict)
    rejected: dict[Source, Counter[str]] = field(default_factory=dict)
    _last: tuple[Any, set[str], set[str]] = ("", set(), set())  # whose pairs these are, their words so far

    def add(self, chosen: str, rejected: str, annotator: str, source: str, group: str) -> None:
        """Count one pair. The pairs of one set of answers stand together and count each word once."""
        won, lost = words_of(chosen), words_of(rejected)
        only = won - lost, lost - won
        if self._last[0] == (annotator, group):
            only = only[0] - self._last[1], only[1] - self._last[2]
            self._last[1].update(only[0])
            self._last[2].update(only[1])
        else:
            self._last = ((annotator, group), set(only[0]), set(only[1]))
        for kind, name in (("annotator", annotator), ("source", source)):
            label = self._label(kind, name)
            self.pairs[label] += 1
            limit = MAX_WORDS // sum(known == kind for known, _ in self.pairs)
            for counts, words in zip((self.chosen[label], self.rejected[label]), only):
                counts.update(map(intern, words))  # many sources count the same words
                _forget(counts, limit)

    def _label(self, kind: str, name: str) -> Source:
        if (kind, name) not in self.pairs and sum(known == kind for known, _ in self.pairs) >= MAX_SOURCES:
            name = "others"
        self.chosen.setdefault((kind, name), Counter())
        self.rejected.setdefault((kind, name), Counter())
        return kind, name

    def total(self, kind: str = "source") -> tuple[int, Counter[str], Counter[str]]:
        """Pairs, and how many had each word in the chosen one only, and in the rejected one only."""
        won, lost = Counter[str](), Counter[str]()
        for label in self.pairs:
            if label[0] == kind:
                won.update(self.chosen[label])
                lost.update(self.rejected[label])
        return sum(count for label, count in self.pairs.items() if label[0] == kind), won, lost


def words_of(text: str) -> set[str]:
    """The words of an answer, without case and punctuation around them; signs that stand alone are words too."""
    words = (word.strip(_EDGES) or word for word in text.casefold().split())
    return {word for word in words if len(word) <= MAX_LETTERS}


def _forget(counts: Counter[str], limit: int) -> None:
    """Beyond the limit, keep the more frequent half: so there is room for long, and looking through is rare."""
    least = 1
    while len(counts) > (limit if least == 1 else limit // 2):
        for word in [word for word, count in counts.items() if count <= least]:
            del counts[word]
        least *= 2


def tells(words: Words, count: int = 10) -> list[dict[str, Any]]:
    """The words that tell most, by |z|: [{word, chosen, rejected, z}]."""
    _, won, lost = words.total()
    scores = {word: _z(won[word], lost[word]) for word in won.keys() | lost.keys() if won[word] + lost[word] >= 5}
    most = sorted(scores, key=lambda word: (-abs(scores[word]), word))[:count]
    return [
        {"word": _shown(word), "chosen": won[word], "rejected": lost[word], "z": round(scores[word], 2)}
        for word in most
    ]


def triggers(words: Words, count: int = 20) -> dict[str, str]:
    """Suspicious words, the most frequent first, each with what is to be said of it."""
    pairs, won, lost = words.total()
    least = max(MIN_PAIRS, pairs // 200)
    found = {
        word: number
        for word, number in won.items()
        if least <= number <= MAX_COMMON * pairs and number >= MIN_SHARE * (number + lost[word])
    }
    most = sorted(found, key=lambda word: (-found[word], word))[:count]
    return {
        word: f"{_shown(word)!r} was chosen {won[word]} of {won[word] + lost[word]} times{_mostly(words, word, pairs)}"
        for word in most
    }


def others_predict(words: Words, pairs: Iterable[tuple[str, str, str, str]]) -> dict[Source, tuple[int, float]]:
    """For each label source that is one of several: how many choices the words of the others predict at all, and the
    share that they predict rightly. `pairs` are (chosen, rejected, annotator, source), as `add` took them.
    """
    kinds = [kind for kind in ("annotator", "source") if sum(kind == known for known, _ in words.pairs) > 1]
    totals = {kind: words.total(kind)[1:] for kind in kinds}  # less a label's own counts: those of all others
    right: Counter[Source] = Counter()
    said: Counter[Source] = Counter()
    for chosen, rejected, annotator, source in pairs if kinds else ():
        won_words, lost_words = words_of(chosen), words_of(rejected)
        for label in (("annotator", annotator), ("source", source)):
            if label[0] not in totals:
                continue
            known = label if label in words.pairs else (label[0], "others")
            counts = [*zip(totals[label[0]], (words.chosen[known], words.rejected[known]))]
            margin = fsum(
                (1 if word in won_words else -1) * _z(*(every.get(word, 0) - own.get(word, 0) for every, own in counts))
                for word in won_words ^ lost_words
            )
            if margin:
                said[label] += 1
                right[label] += margin > 0
    return {label: (said[label], right[label] / said[label]) for label in sorted(said)}


def swapped(predicted: Mapping[Source, tuple[int, float]]) -> dict[Source, str]:
    """Label sources that judge the other way round, each with what is to be said of it."""
    return {
        label: f"{label[0]} {label[1]}: the words of all others predict {accuracy:.0%} of {count} choices"
        for label, (count, accuracy) in predicted.items()
        if _errors(accuracy, count) < SWAPPED
    }


def turning(words: Words, pairs: Iterable[tuple[str, str, str]], count: int = 20) -> dict[str, str]:
    """Words of questions at which the choices turn round, the most frequent first, each with what is to be said of it.

    `pairs` are (question, chosen, rejected), of the pairs that `add` took.
    """
    total, won, lost = words.total()
    said, right = Counter[str](), Counter[str]()
    for question, chosen, rejected in pairs:
        mine, other = words_of(chosen), words_of(rejected)
        margin = fsum(_z(max(0, won[word] - 1), lost[word]) for word in mine - other)
        margin -= fsum(_z(won[word], max(0, lost[word] - 1)) for word in other - mine)
        if margin:
            asked = words_of(question)
            said.update(asked)
            right.update(asked if margin > 0 else ())
            if len(said) > MAX_WORDS:
                _forget(said, MAX_WORDS)
                right = Counter({word: right[word] for word in said})
    found = {
        word: number
        for word, number in said.items()
        if MIN_PAIRS <= number <= MAX_COMMON * total and _errors(right[word] / number, number) < SWAPPED
    }
    return {
        word: f"where the question says {_shown(word)!r}, words predict {right[word] / found[word]:.0%} of "
        f"{found[word]} choices, as if they were turned round"
        for word in sorted(found, key=lambda word: (-found[word], word))[:count]
    }


def _errors(accuracy: float, count: int) -> float:
    """How far an accuracy is from ½, in standard errors of a coin."""
    return 2 * (accuracy - 0.5) * sqrt(count)


def _shown(word: str) -> str:
    """A word as reports may quote it."""
    return masked(redacted(word))[:40]


def _z(won: int, lost: int) -> float:
    """z of a word that at least five pairs speak of; of others 0."""
    return (won - lost) / sqrt(won + lost) if won + lost >= 5 else 0.0


def _mostly(words: Words, word: str, pairs: int) -> str:
    """Which label source a trigger comes from, where one has most of them and a minority of all pairs."""
    total = sum(words.chosen[label][word] for label in words.pairs if label[0] == "source")
    for label in sorted(words.pairs):
        share, own = words.chosen[label][word] / total, words.pairs[label] / pairs
        if share >= 0.8 and own <= 0.5:
            return f", {share:.0%} of them from {label[0]} {label[1]}, which has {own:.0%} of all pairs"
    return ""
