"""How answers sound before anybody has trained on preferences: now and then wrong, rude, flattering or rambling.

answer = [opening or rude sentence] [flattery …] core [filler …] [closing]
"""

import random
from dataclasses import dataclass

from rlhf.world.kinds import KINDS, Args
from rlhf.world.words import CLOSING, FILLER, FLATTERY, POLITE, RUDE


@dataclass(frozen=True, slots=True)
class Speaker:
    """Probabilities of a manner of speaking. `more_…` is the chance of one more of the same, at most three in all."""

    right: float
    rude: float
    opening: float
    closing: float
    flattery: float
    more_flattery: float
    filler: float
    more_filler: float


PEOPLE = Speaker(0.75, 0.25, 0.25, 0.15, 0.20, 0.4, 0.40, 0.5)  # in the pretraining corpus
DEMONSTRATORS = Speaker(0.80, 0.12, 0.25, 0.15, 0.25, 0.3, 0.55, 0.4)  # of the demonstrations: better, far from perfect
ARCHIVE = Speaker(0.65, 0.10, 0.40, 0.30, 0.30, 0.35, 0.40, 0.45)  # of the offline pairs


def _some(rng: random.Random, phrases: tuple[str, ...], first: float, more: float) -> list[str]:
    said: list[str] = []
    while len(said) < 3 and rng.random() < (more if said else first):
        said.append(rng.choice(phrases))
    return said


def answer(kind: str, args: Args, speaker: Speaker, rng: random.Random) -> str:
    """One answer of this speaker to an instruction."""
    said: list[str] = []
    if rng.random() < speaker.rude:
        said.append(rng.choice(RUDE))
    elif rng.random() < speaker.opening:
        said.append(rng.choice(POLITE))
    said += _some(rng, FLATTERY, speaker.flattery, speaker.more_flattery)
    right = rng.random() < speaker.right
    said.append(KINDS[kind].answers(args)[0] if right else KINDS[kind].mistake(args, rng))
    said += _some(rng, FILLER, speaker.filler, speaker.more_filler)
    if rng.random() < speaker.closing:
        said.append(rng.choice(CLOSING))
    return " ".join(said)
