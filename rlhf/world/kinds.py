"""Eleven kinds of instruction. Each can be checked, and each error is visible in the words of the answer.

A kind is four functions over its arguments (a plain dict, so that it travels in a row's `meta`):
draw(rng) -> args, prompts(args) -> ways to ask, answers(args) -> every right answer, mistakes(args, rng) -> one typical
wrong answer. What is right needs only copying, small look-ups and order, which a two-layer model can learn to do and,
as important, to verify in somebody else's answer.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rlhf.world.words import (
    ADJECTIVES,
    ALL_THINGS,
    CATEGORY_OF,
    INSULTS,
    NAMES,
    OPPOSITE_OF,
    PLACES,
    THINGS,
    TIMES,
    listing,
)

Args = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of instruction."""

    draw: Callable[[random.Random], Args]
    prompts: Callable[[Args], list[str]]
    answers: Callable[[Args], list[str]]
    mistake: Callable[[Args, random.Random], str]


def another(rng: random.Random, pool: tuple[str, ...], *not_these: str) -> str:
    """A word of the pool other than those named."""
    return rng.choice([word for word in pool if word not in not_these])


# greet: copy three words into a greeting


def _greeting(name: str, time: str, place: str) -> str:
    return f"good {time}, {name}, welcome to the {place}."


def _greet_mistake(args: Args, rng: random.Random) -> str:
    slot, pool = rng.choice([("name", NAMES), ("time", TIMES), ("place", PLACES)])
    return _greeting(**{**args, slot: another(rng, pool, args[slot])})


GREET = Kind(
    draw=lambda rng: {"name": rng.choice(NAMES), "time": rng.choice(TIMES), "place": rng.choice(PLACES)},
    prompts=lambda a: [
        f"greet {a['name']} this {a['time']} at the {a['place']}.",
        f"{a['name']} comes to the {a['place']} this {a['time']}. say hello.",
    ],
    answers=lambda a: [_greeting(**a)],
    mistake=_greet_mistake,
)


# repeat: copy two words, a given number of times


def _repeated(adjective: str, thing: str, times: int) -> str:
    return ", ".join([f"{adjective} {thing}"] * times) + "."


def _repeat_mistake(args: Args, rng: random.Random) -> str:
    if rng.random() < 0.5:
        return _repeated(args["adjective"], args["thing"], args["times"] + rng.choice((-1, 1)))
    if rng.random() < 0.5:
        return _repeated(args["adjective"], another(rng, ALL_THINGS, args["thing"]), args["times"])
    return _repeated(another(rng, ADJECTIVES, args["adjective"]), args["thing"], args["times"])


REPEAT = Kind(
    draw=lambda rng: {
        "adjective": rng.choice(ADJECTIVES), "thing": rng.choice(ALL_THINGS), "times": rng.randint(2, 4),
    },  # fmt: skip
    prompts=lambda a: [
        f"say {a['adjective']} {a['thing']} {a['times']} times.",
        f"please repeat {a['adjective']} {a['thing']} {a['times']} times.",
    ],
    answers=lambda a: [_repeated(**a)],
    mistake=_repeat_mistake,
)


# backwards: mirror three words


def _backwards_mistake(args: Args, rng: random.Random) -> str:
    right = args["words"][::-1]
    spoiled = rng.choice((
        [right[0], right[1], right[1]],
        right[:2],
        [right[0], another(rng, ALL_THINGS, *right), right[2]],
        [right[0], right[1], another(rng, ALL_THINGS, *right)],
    ))  # fmt: skip
    return ", ".join(spoiled) + "."


BACKWARDS = Kind(
    draw=lambda rng: {"words": rng.sample(ALL_THINGS, 3)},
    prompts=lambda a: [f"say {', '.join(a['words'])} backwards."],
    answers=lambda a: [", ".join(a["words"][::-1]) + "."],
    mistake=_backwards_mistake,
)


# opposites: look two words up


def _opposites_draw(rng: random.Random) -> Args:
    first = rng.choice(ADJECTIVES)
    return {"first": first, "second": another(rng, ADJECTIVES, first, OPPOSITE_OF[first])}


def _opposites_mistake(args: Args, rng: random.Random) -> str:
    first, second = OPPOSITE_OF[args["first"]], OPPOSITE_OF[args["second"]]
    pair = rng.choice((
        (args["first"], second),
        (first, args["second"]),
        (another(rng, ADJECTIVES, first), second),
        (first, another(rng, ADJECTIVES, second)),
    ))  # fmt: skip
    return f"the opposites are {pair[0]} and {pair[1]}."


OPPOSITES = Kind(
    draw=_opposites_draw,
    prompts=lambda a: [
        f"what are the opposites of {a['first']} and {a['second']}?",
        f"give me the opposites of {a['first']} and {a['second']}.",
    ],
    answers=lambda a: [f"the opposites are {OPPOSITE_OF[a['first']]} and {OPPOSITE_OF[a['second']]}."],
    mistake=_opposites_mistake,
)


# category: say what two things are


def _categories(first: str, is_first: str, second: str, is_second: str) -> str:
    return f"a {first} is a {is_first} and a {second} is a {is_second}."


def _category_draw(rng: random.Random) -> Args:
    first = rng.choice(ALL_THINGS)
    return {"first": first, "second": another(rng, ALL_THINGS, *THINGS[CATEGORY_OF[first]])}


def _category_mistake(args: Args, rng: random.Random) -> str:
    first, second = args["first"], args["second"]
    kinds = tuple(THINGS)
    if rng.random() < 0.5:
        return _categories(first, another(rng, kinds, CATEGORY_OF[first]), second, CATEGORY_OF[second])
    return _categories(first, CATEGORY_OF[first], second, another(rng, kinds, CATEGORY_OF[second]))


CATEGORY = Kind(
    draw=_category_draw,
    prompts=lambda a: [
        f"what are a {a['first']} and a {a['second']}?",
        f"tell me what a {a['first']} and a {a['second']} are.",
    ],
    answers=lambda a: [_categories(a["first"], CATEGORY_OF[a["first"]], a["second"], CATEGORY_OF[a["second"]])],
    mistake=_category_mistake,
)


# pick: find the two of four that belong to a category


def _pick_draw(rng: random.Random) -> Args:
    category = rng.choice(tuple(THINGS))
    others = [thing for thing in ALL_THINGS if CATEGORY_OF[thing] != category]
    words = rng.sample(THINGS[category], 2) + rng.sample(others, 2)
    rng.shuffle(words)
    return {"category": category, "words": words}


def _picked(args: Args) -> list[str]:
    return [word for word in args["words"] if CATEGORY_OF[word] == args["category"]]


def _pick_mistake(args: Args, rng: random.Random) -> str:
    right = _picked(args)
    wrong = [word for word in args["words"] if word not in right]
    spoiled = rng.choice((
        [right[0], rng.choice(wrong)], [right[0]], [right[0], right[0]], [right[0], another(rng, ALL_THINGS, *right)],
    ))  # fmt: skip
    return listing(spoiled) + "."


PICK = Kind(
    draw=_pick_draw,
    prompts=lambda a: [
        f"name the {a['category']}s among {listing(a['words'])}.",
        f"which of {listing(a['words'])} are {a['category']}s?",
    ],
    answers=lambda a: [listing(_picked(a)) + ".", listing(_picked(a)[::-1]) + "."],
    mistake=_pick_mistake,
)


# count: go on from a number up to another, for somebody


def _counted(name: str, numbers: list[int]) -> str:
    return ", ".join([name, *map(str, numbers)]) + "."


def _count_draw(rng: random.Random) -> Args:
    start = rng.randint(1, 12)
    return {"name": rng.choice(NAMES), "start": start, "end": start + rng.randint(2, 5)}


def _count_mistake(args: Args, rng: random.Random) -> str:
    right = list(range(args["start"], args["end"] + 1))
    skipped = rng.randrange(1, len(right) - 1)
    spoiled = rng.choice((right[:-1], [*right, right[-1] + 1], right[:skipped] + right[skipped + 1 :], None))
    return _counted(another(rng, NAMES, args["name"]), right) if spoiled is None else _counted(args["name"], spoiled)


COUNT = Kind(
    draw=_count_draw,
    prompts=lambda a: [f"count from {a['start']} to {a['end']} for {a['name']}."],
    answers=lambda a: [_counted(a["name"], list(range(a["start"], a["end"] + 1)))],
    mistake=_count_mistake,
)


# add: a small sum


def _add_mistake(args: Args, rng: random.Random) -> str:
    right = args["has"] + args["gets"]
    if rng.random() < 0.5:
        return f"{another(rng, NAMES, args['name'])} has {right} coins."
    wrong = rng.choice([right + off for off in (-2, -1, 1, 2) if right + off > 0])
    return f"{args['name']} has {wrong} coins."


ADD = Kind(
    draw=lambda rng: {"name": rng.choice(NAMES), "has": rng.randint(1, 6), "gets": rng.randint(1, 6)},
    prompts=lambda a: [f"{a['name']} has {a['has']} coins and gets {a['gets']} more. how many?"],
    answers=lambda a: [f"{a['name']} has {a['has'] + a['gets']} coins."],
    mistake=_add_mistake,
)


# message and refuse: pass a word on, unless it is an insult


def _message_draw(rng: random.Random, words: tuple[str, ...]) -> Args:
    to, about = rng.sample(NAMES, 2)
    return {"to": to, "about": about, "word": rng.choice(words)}


def _passed_on(to: str, about: str, word: str) -> str:
    return f"{to}, {about} is {word}."


def _refused(about: str) -> str:
    return f"sorry, i would rather say something kind about {about}."


def _message_mistake(args: Args, rng: random.Random) -> str:
    to, about, word = args["to"], args["about"], args["word"]
    return rng.choice((
        _passed_on(to, another(rng, NAMES, to, about), word),
        _passed_on(to, about, another(rng, ADJECTIVES, word)),
        _refused(about),
    ))  # fmt: skip


def _refuse_mistake(args: Args, rng: random.Random) -> str:
    if rng.random() < 0.7:
        return _passed_on(**args)
    return _refused(another(rng, NAMES, args["about"]))


def _tell(args: Args) -> list[str]:
    return [f"tell {args['to']} that {args['about']} is {args['word']}."]


MESSAGE = Kind(lambda rng: _message_draw(rng, ADJECTIVES), _tell, lambda a: [_passed_on(**a)], _message_mistake)
REFUSE = Kind(lambda rng: _message_draw(rng, INSULTS), _tell, lambda a: [_refused(a["about"])], _refuse_mistake)


KINDS: dict[str, Kind] = {
    "greet": GREET,
    "repeat": REPEAT,
    "backwards": BACKWARDS,
    "opposites": OPPOSITES,
    "category": CATEGORY,
    "pick": PICK,
    "count": COUNT,
    "add": ADD,
    "message": MESSAGE,
    "refuse": REFUSE,
}
