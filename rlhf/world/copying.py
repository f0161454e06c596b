"""Kinds whose answer copies words of the instruction: greet, repeat, backwards, message and refuse."""

import random

from rlhf.world.kind import Args, Kind, another
from rlhf.world.words import ADJECTIVES, ALL_THINGS, INSULTS, NAMES, PLACES, TIMES

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
        "adjective": rng.choice(ADJECTIVES),
        "thing": rng.choice(ALL_THINGS),
        "times": rng.randint(2, 4),
    },
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
