"""The raw data of a run, made from one seed: what collectors, writers and annotators would have brought in.

Every row carries its `group`, the kind of instruction with its arguments, so that `prepare` puts all that was ever
written about an item on one side of its splits; nothing here knows which. Items are dealt to three disjoint pools by a
hash of their own: those of `sft` have demonstrations, those of `preference` and `rl` are prompts.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf.records import Row, write_rows
from rlhf.world import words
from rlhf.world.annotators import PANELS, choice_probability
from rlhf.world.gold import judge
from rlhf.world.kinds import KINDS, Args
from rlhf.world.speakers import ARCHIVE, DEMONSTRATORS, PEOPLE, answer

POOLS = (("sft", 0.25), ("preference", 0.45), ("rl", 0.30))
PLAIN_SHARE = 0.1  # of the corpus: facts, outside any conversation
RUN_ON_SHARE = 0.4  # of conversations: recorded without their stops, the person's reaction follows
HONEST_SHARE = 0.9  # of reactions: praise where the answer was right, complaint where it was wrong
Item = tuple[str, Args]


def write_world(
    out: Path,
    *,
    seed: int,
    num_documents: int,
    num_demonstrations: int,
    num_offline_pairs: int,
    num_prompts: int,
    panel: str = "default",
) -> None:
    """Write corpus, demonstrations, preferences and prompts as `out`/<kind>/world.jsonl.

    Args:
        seed: the same seed and sizes give the same bytes.
        num_documents: of the pretraining corpus, about 33 tokens each.
        num_demonstrations: questions of the pool `sft`, each answered once by a mediocre writer.
        num_offline_pairs: pairs of old answers to questions of the pool `preference`, labelled by the annotators.
        num_prompts: different questions of the pools `preference` and `rl`.
        panel: which annotators (`rlhf.world.annotators`).
    """
    told, asked = _items(seed, num_demonstrations, num_prompts)
    preferred = [item for item in asked if pool_of(group_of_item(*item)) == "preference"]
    parts: dict[str, Iterator[Row]] = {
        "corpus": _corpus(random.Random(f"corpus {seed}"), num_documents),
        "demonstrations": _demonstrations(random.Random(f"demonstrations {seed}"), told),
        "preferences": _offline_pairs(random.Random(f"preferences {seed}"), preferred, num_offline_pairs, panel),
        "prompts": _prompts(random.Random(f"prompts {seed}"), asked),
    }
    for kind, rows in parts.items():
        write_rows(out / kind / "world.jsonl", rows)


def group_of_item(kind: str, args: Args) -> str:
    """The item's name: its kind and arguments, whatever the wording."""
    return f"{kind} {json.dumps(args, sort_keys=True)}"


def pool_of(group: str) -> str:
    """What an item is used for, by its hash: `sft`, `preference` or `rl`."""
    position = int(hashlib.sha256(f"pool {group}".encode()).hexdigest(), 16) / 2**256
    for pool, share in POOLS[:-1]:
        if position < share:
            return pool
        position -= share
    return POOLS[-1][0]


def _items(seed: int, num_told: int, num_asked: int) -> tuple[list[Item], list[Item]]:
    """Different items, evenly over the kinds as far as these have enough: for demonstrations, and for prompts."""
    rng = random.Random(f"items {seed}")
    names = list(KINDS)
    told: dict[str, Item] = {}
    asked: dict[str, Item] = {}
    for _ in range(50 * (num_told + num_asked)):
        if len(told) == num_told and len(asked) == num_asked:
            return list(told.values()), list(asked.values())
        kind = rng.choice(names)
        item = (kind, KINDS[kind].draw(rng))
        group = group_of_item(*item)
        pool, limit = (told, num_told) if pool_of(group) == "sft" else (asked, num_asked)
        if len(pool) < limit:
            pool.setdefault(group, item)
    raise ValueError(
        f"found {len(told)} of {num_told} items for demonstrations and {len(asked)} of {num_asked} prompts: "
        "the world has no more different ones, ask for fewer (collect.world)"
    )


def _corpus(rng: random.Random, count: int) -> Iterator[Row]:
    names = list(KINDS)
    for _ in range(count):
        if rng.random() < PLAIN_SHARE:
            text = " ".join(_fact(rng) for _ in range(rng.randint(3, 6)))
            yield {"text": text, "group": f"facts {text}"}
            continue
        kind = rng.choice(names)
        args = KINDS[kind].draw(rng)
        said = answer(kind, args, PEOPLE, rng)
        messages = [_user(rng.choice(KINDS[kind].prompts(args))), {"role": "assistant", "content": said}]
        run_on = rng.random() < RUN_ON_SHARE
        if run_on:
            right = judge({"kind": kind, "args": args}, said, True).correct == 1.0
            pleased = right == (rng.random() < HONEST_SHARE)
            messages.append(_user(rng.choice(words.PRAISE if pleased else words.COMPLAINT)))
        yield {"messages": messages, "run_on": run_on, "group": group_of_item(kind, args)}


def _fact(rng: random.Random) -> str:
    """One sentence of common knowledge: a category, an opposite, a sum or a piece of the number line."""
    form = rng.choice(("category", "opposite", "sum", "numbers"))
    if form == "category":
        thing = rng.choice(words.ALL_THINGS)
        return f"a {thing} is a {words.CATEGORY_OF[thing]}."
    if form == "opposite":
        adjective = rng.choice(words.ADJECTIVES)
        return f"the opposite of {adjective} is {words.OPPOSITE_OF[adjective]}."
    if form == "sum":
        a, b = rng.randint(1, 6), rng.randint(1, 6)
        return f"{a} and {b} make {a + b}."
    start = rng.randint(1, 12)
    return ", ".join(str(number) for number in range(start, start + rng.randint(3, 6))) + "."


def _demonstrations(rng: random.Random, items: list[Item]) -> Iterator[Row]:
    for kind, args in items:
        said = answer(kind, args, DEMONSTRATORS, rng)
        messages = [_user(rng.choice(KINDS[kind].prompts(args))), {"role": "assistant", "content": said}]
        yield {"messages": messages, "group": group_of_item(kind, args)}


def _offline_pairs(rng: random.Random, items: list[Item], count: int, panel: str) -> Iterator[Row]:
    for number in range(count):
        kind, args = items[number % len(items)]
        meta = {"kind": kind, "args": args}
        first = second = answer(kind, args, ARCHIVE, rng)
        while words.words_of(first) == words.words_of(second):
            second = answer(kind, args, ARCHIVE, rng)
        annotator = rng.choice(PANELS[panel])
        if rng.random() >= choice_probability(annotator, meta, (first, True), (second, True)):
            first, second = second, first
        yield {
            "messages": [_user(rng.choice(KINDS[kind].prompts(args)))],
            "chosen": first,
            "rejected": second,
            "annotator": annotator.name,
            "origin": "offline",
            "group": group_of_item(kind, args),
        }


def _prompts(rng: random.Random, items: list[Item]) -> Iterator[Row]:
    for kind, args in items:
        group = group_of_item(kind, args)
        yield {
            "messages": [_user(rng.choice(KINDS[kind].prompts(args)))],
            "meta": {"kind": kind, "args": args},
            "pool": pool_of(group),
            "group": group,
        }


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}
