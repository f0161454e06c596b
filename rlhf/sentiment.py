"""How positive a text sounds, by a lexicon and rules: VADER (Hutto & Gilbert, ICWSM 2014), written anew from its paper.

A word's valence (−4 to 4, from the lexicon) is changed by what stands around it, the valences of a text are summed to
s, and the compound score is s / √(s² + 15), from −1 to 1. Constants are the published ones. Left out: the handful of
idioms and the list of emoji that the authors' program brings along beside the lexicon.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import punctuation

from rlhf.errors import PreflowError

Lexicon = Mapping[str, float]

NORMALISER = 15.0
BOOST = 0.293
"""What a booster before a word adds to the size of its valence, or a dampener takes from it."""
DISTANCE = (1.0, 0.95, 0.9)
"""Share of a boost that is left one, two and three words away."""
CAPITALS = 0.733
NEGATION = -0.74
"""Factor of a valence with a negation within the three words before it."""
NEVER_SO = 1.25
BUT = (0.5, 1.5)
"""Factors of what comes before and after a "but"."""
EXCLAMATION, MOST_EXCLAMATIONS = 0.292, 4
QUESTION, MOST_QUESTIONS, MANY_QUESTIONS = 0.18, 3, 0.96

_STRONGER = """
absolutely amazingly awfully completely considerable considerably decidedly deeply enormous enormously entirely
especially exceptional exceptionally extreme extremely fabulously fully greatly highly hugely incredible incredibly
intensely major majorly more most particularly purely quite really remarkably so substantially thoroughly total totally
tremendous tremendously uber unbelievably unusually utter utterly very
"""
_WEAKER = """
almost barely hardly kinda less little marginal marginally occasional occasionally partly scarce scarcely slight
slightly somewhat sorta
"""
BOOSTERS = dict.fromkeys(_STRONGER.split(), BOOST) | dict.fromkeys(_WEAKER.split(), -BOOST)
_NEGATIONS = """
aint arent cannot cant couldnt darent didnt doesnt dont hadnt hasnt havent isnt mightnt mustnt neednt neither never
none nope nor not nothing nowhere oughtnt shant shouldnt wasnt werent without wont wouldnt rarely seldom despite uhuh
uh-uh
"""
NEGATIONS = frozenset(_NEGATIONS.split())


def read_lexicon(path: Path) -> dict[str, float]:
    """Word to mean valence, of a file with tab-separated lines that begin so (VADER's own).

    Raises PreflowError where the file is absent or a line is none.
    """
    if not path.is_file():
        raise PreflowError(f"{path}: no such file; a lexicon is needed there for the reward `sentiment`")
    found: dict[str, float] = {}
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if line.strip():
            word, _, rest = line.rstrip("\n").partition("\t")
            try:
                found[word] = float(rest.partition("\t")[0])
            except ValueError:
                raise PreflowError(f"{path.name}:{number}: expected word, tab, valence; found {line[:40]!r}") from None
    return found


def compound(text: str, lexicon: Lexicon) -> float:
    """The compound score of a text, −1 to 1; 0 where no word of it has a valence."""
    words = words_of(text)
    lower = [word.lower() for word in words]
    shouting = _some_in_capitals(words)
    valences = [_valence(place, words, lower, lexicon, shouting) for place in range(len(words))]
    if "but" in lower:
        turn = lower.index("but")
        valences = [one * BUT[place > turn] if place != turn else one for place, one in enumerate(valences)]
    total = sum(valences)
    emphasis = _emphasis(text)
    if total:
        total += math.copysign(emphasis, total)
    return total / math.sqrt(total**2 + NORMALISER)


def words_of(text: str) -> list[str]:
    """Split at white space, punctuation around words taken off; what would leave 2 letters or fewer (":)") stays."""
    pieces = ((piece, piece.strip(punctuation)) for piece in text.split())
    return [piece if len(bare) <= 2 else bare for piece, bare in pieces]


def _valence(place: int, words: Sequence[str], lower: Sequence[str], lexicon: Lexicon, shouting: bool) -> float:
    word = lower[place]
    if word in BOOSTERS or word not in lexicon or lower[place : place + 2] == ["kind", "of"]:
        return 0.0
    valence = lexicon[word]
    if word == "no" and place + 1 < len(lower) and lower[place + 1] in lexicon:
        valence = 0.0  # it negates what follows
    if _negates_from_afar("no", place, lower):
        valence = lexicon[word] * NEGATION
    if shouting and words[place].isupper():
        valence += math.copysign(CAPITALS, valence)
    for back in range(1, min(3, place) + 1):
        before = lower[place - back]
        if before in lexicon:
            continue  # it counts itself
        valence += _boost(place - back, words, valence, shouting) * DISTANCE[back - 1]
        valence *= _negation(place, back, lower)
    return _least(valence, place, lower, lexicon)


def _negates_from_afar(no: str, place: int, lower: Sequence[str]) -> bool:
    near = lower[max(0, place - 2) : place]
    far = place > 2 and lower[place - 3] == no and lower[place - 1] in ("or", "nor")
    return no in near or far


def _boost(place: int, words: Sequence[str], valence: float, shouting: bool) -> float:
    """What a booster adds to a valence, away from 0 or towards it; more where it is shouted."""
    word = words[place].lower()
    softened = word == "of" and place > 0 and words[place - 1].lower() in ("kind", "sort")
    boost = -BOOST if softened else BOOSTERS.get(word, 0.0)
    if not boost:
        return 0.0
    boost = math.copysign(boost, boost * valence)
    if shouting and words[place].isupper():
        boost += math.copysign(CAPITALS, valence)
    return boost


def _negation(place: int, back: int, lower: Sequence[str]) -> float:
    """Factor by what stands `back` words before."""
    before = lower[place - back]
    between = lower[place - back + 1 : place]
    # Three words back the authors' program wants no "never" where "so" or "this" comes right before the word; every
    # figure in the literature is of that program.
    emphatic = {"so", "this"} & set(between)
    if (before == "never" and emphatic) or (back == 3 and lower[place - 1] in ("so", "this")):
        return NEVER_SO
    if before == "without" and "doubt" in between:
        return 1.0
    return NEGATION if before in NEGATIONS or before.replace("'", "") in NEGATIONS or "n't" in before else 1.0


def _least(valence: float, place: int, lower: Sequence[str], lexicon: Lexicon) -> float:
    """ "least" negates, but not "at least" and "very least"."""
    least = place > 0 and lower[place - 1] == "least" and "least" not in lexicon
    return valence * NEGATION if least and (place == 1 or lower[place - 2] not in ("at", "very")) else valence


def _some_in_capitals(words: Sequence[str]) -> bool:
    """Capitals stand out only where other words have none."""
    return 0 < sum(word.isupper() for word in words) < len(words)


def _emphasis(text: str) -> float:
    """What marks of exclamation and question add to the size of the sum."""
    exclaimed = min(text.count("!"), MOST_EXCLAMATIONS) * EXCLAMATION
    questions = text.count("?")
    if questions <= 1:
        return exclaimed
    return exclaimed + (questions * QUESTION if questions <= MOST_QUESTIONS else MANY_QUESTIONS)
