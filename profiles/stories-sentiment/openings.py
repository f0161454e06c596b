"""Writes openings.jsonl beside itself: beginnings of stories that leave open whether things go well.

python profiles/stories-sentiment/openings.py
"""

import json
import random
from pathlib import Path

COUNT = 1200
WHO = {
    "girl": ("She", "Lily Mia Sue Anna Lucy Sara Jane Emma Zoe Amy"),
    "boy": ("He", "Tim Ben Tom Max Sam Jack Leo Finn Bob Joe"),
    "dog": ("He", "Spot Rex Buddy"),
    "cat": ("She", "Mimi Luna Tabby"),
    "bird": ("She", "Kiki Pip Coco"),
    "bear": ("He", "Bruno Billy Bo"),
}
BEGINNINGS = (
    "Once upon a time, there was a {size} {kind} named {name}.",
    "There once was a {size} {kind} whose name was {name}.",
    "{name} was a {size} {kind} who lived near the {place}.",
    "One morning, a {size} {kind} named {name} woke up early.",
    "In a house by the {place}, there lived a {size} {kind} called {name}.",
)
TURNS = (
    "One day, {he} went to the {place} and saw a {thing}.",
    "{he} had a {thing} and took it to the {place}.",
    "One day, {he} found a {thing} under a tree.",
    "{he} wanted to go to the {place}, but it was raining.",
    "At the {place}, {he} met a {other}.",
    "{he} could not find the {thing}.",
    "One day, a {other} came to the {place}.",
    "{he} was looking for a {thing} all day.",
    "Then the {thing} fell into the water.",
    "{he} asked {his} mom for a {thing}.",
)
SIZES = ("little", "small", "young", "tall")
PLACES = ("park", "river", "forest", "lake", "farm", "garden", "beach", "school")
THINGS = (
    "red ball",
    "big box",
    "blue kite",
    "wooden boat",
    "long rope",
    "round stone",
    "green hat",
    "paper bag",
    "bell",
)
OTHERS = ("dog", "fox", "frog", "duck", "man", "horse", "rabbit", "squirrel")


def opening(draw: random.Random) -> str:
    """One beginning, two sentences long."""
    kind = draw.choice(list(WHO))
    he, names = WHO[kind]
    words = {
        "kind": kind,
        "name": draw.choice(names.split()),
        "size": draw.choice(SIZES),
        "place": draw.choice(PLACES),
        "thing": draw.choice(THINGS),
        "other": draw.choice(OTHERS),
        "his": {"He": "his", "She": "her"}[he],
    }
    turn = draw.choice(TURNS)
    words["he"] = he if turn.startswith("{he}") else he.lower()
    return f"{draw.choice(BEGINNINGS)} {turn}".format(**words)


def openings(count: int = COUNT) -> list[str]:
    """As many different beginnings, always the same ones."""
    draw, found = random.Random(0), dict[str, None]()
    while len(found) < count:
        found.setdefault(opening(draw))
    return list(found)


if __name__ == "__main__":
    lines = "".join(json.dumps({"prompt": text}) + "\n" for text in openings())
    Path(__file__).with_name("openings.jsonl").write_text(lines, encoding="utf-8")
