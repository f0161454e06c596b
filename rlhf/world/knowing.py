"""Kinds whose answer needs a look-up as well: opposites, category, pick, count and add."""

import random

from rlhf.world.kind import Args, Kind, another
from rlhf.world.words import ADJECTIVES, ALL_THINGS, CATEGORY_OF, NAMES, OPPOSITE_OF, THINGS, listing

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
