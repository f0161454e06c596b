"""Texts that overlap: the same thirteen words in a row, and texts that are nearly the same.

Thirteen words is what Brown et al. ("Language models are few-shot learners", 2005.14165, appendix C) call
contamination. Nearly the same is a Jaccard similarity of the sets of three words in a row of 0.8 or more, estimated
from MinHash signatures (Broder, 1997): P(two minima agree) is the similarity, so 48 minima know it to ±0.06. Texts that
agree in all of one of twelve groups of four minima are compared; at 0.8 that finds 1 − (1 − 0.8⁴)¹² = 99.8% of them.

All words of many rows are worked on together, as numbers of 64 bits: two different texts of the same number are one in
10⁸ at a million rows.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

NGRAM = 13
SHINGLE = 3
SIMILAR = 0.8
MINIMA, BANDS = 48, 12

Numbers: TypeAlias = NDArray[np.uint64]

_WORD = re.compile(r"\w+")
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that nothing is lost modulo 2⁶⁴
_CACHE = 200_000  # words whose numbers are remembered


class Words:
    """Words as numbers, the same in every process; those seen last are remembered, up to a limit."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}

    def of(self, texts: Sequence[str]) -> tuple[Numbers, NDArray[np.int64]]:
        """The words of all texts, one after the other, and where each text starts (and the last one ends)."""
        if len(self._known) > _CACHE:
            self._known.clear()
        known, found, starts = self._known, [], [0]
        for text in texts:
            for word in _WORD.findall(text.casefold()):
                number = known.get(word)
                if number is None:
                    number = known[word] = number_of(word)
                found.append(number)
            starts.append(len(found))
        return np.array(found, dtype=np.uint64), np.array(starts, dtype=np.int64)


def number_of(*texts: str) -> int:
    """64 bits of the blake2b hash of texts, each with its length, so that ("ab", "c") is not ("a", "bc")."""
    hashed = hashlib.blake2b(digest_size=8)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        hashed.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(hashed.digest(), "little")


def runs(words: Numbers, starts: NDArray[np.int64], length: int) -> tuple[Numbers, NDArray[np.int64]]:
    """One number for every run of `length` words within a text, and the position of the text it is from."""
    count = len(words) - length + 1
    if count <= 0:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    numbers: Numbers = np.zeros(count, np.uint64)
    for offset in range(length):
        numbers = numbers * _BASE + words[offset : offset + count]
    owner: NDArray[np.int64] = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    whole = owner[:count] == owner[length - 1 :]
    return _mixed(numbers[whole]), owner[:count][whole]


def signatures(numbers: Numbers, owner: NDArray[np.int64], texts: int) -> NDArray[np.uint32]:
    """The least of each of 48 hashes of a text's runs, (texts, 48); all ones for a text of too few words."""
    found: NDArray[np.uint32] = np.full((texts, MINIMA), 0xFFFFFFFF, np.uint32)
    if not len(numbers):
        return found
    present, first = np.unique(owner, return_index=True)
    for index in range(MINIMA):
        hashed = (numbers * _MULTIPLIERS[index] + _OFFSETS[index]) >> np.uint64(32)
        found[present, index] = np.minimum.reduceat(hashed, first).astype(np.uint32)
    return found


def nearly_the_same(signed: NDArray[np.uint32], apart: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For every text the position of an earlier one that is nearly the same, −1 where there is none.

    Args:
        signed: signatures, (texts, 48).
        apart: a number for each text; texts of one number are not compared, (texts,).
    """
    found: NDArray[np.int64] = np.full(len(signed), -1, np.int64)
    empty = (signed == 0xFFFFFFFF).all(1)
    rows = MINIMA // BANDS
    for band in range(BANDS):
        bucket = np.ascontiguousarray(signed[:, band * rows : (band + 1) * rows]).view(np.uint64) * _BASE
        key = bucket[:, 0] * _BASE + bucket[:, 1]
        _, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        candidate = first[inverse]
        open_ = np.flatnonzero((candidate < np.arange(len(signed))) & (found < 0) & ~empty)
        alike = (signed[open_] == signed[candidate[open_]]).mean(1) if len(open_) else np.empty(0)
        near = open_[(alike >= SIMILAR) & (apart[open_] != apart[candidate[open_]])]
        found[near] = candidate[near]
    return found


def _mixed(numbers: Numbers) -> Numbers:
    """Murmur's finaliser: runs that differ in one word get numbers that differ everywhere."""
    for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53)):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(33))


_MULTIPLIERS = _mixed(np.arange(1, MINIMA + 1, dtype=np.uint64)) | np.uint64(1)
_OFFSETS = _mixed(np.arange(1001, MINIMA + 1001, dtype=np.uint64))
