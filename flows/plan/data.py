"""How long the rows of a run are, in tokens, and how many: from its validated data, or as far as anybody can know."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from flows.plan.passes import Lengths

FOLDERS = {
    "corpus": ("data/03_validated/corpus",),
    "demonstrations": ("data/03_validated/demonstrations",),
    "preferences": ("data/06_preferences/pairs", "data/03_validated/preferences"),
    "prompts": ("data/03_validated/prompts",),
}
MOST_ROWS = 2000
CHARACTERS = 4.0
"""A token of a pretrained model, in English."""
CONTROL = 4
"""Tokens of a row that mark turns."""
WORLD: dict[str, tuple[tuple[float, ...], ...]] = {
    "corpus": ((0.0, 34.0), (0.0, 60.0)),
    "demonstrations": ((14.0, 16.0), (18.0, 40.0)),
    "preferences": ((14.0, 16.0, 24.0), (18.0, 40.0, 30.0)),
    "prompts": ((14.0, 16.0), (18.0, 40.0)),
}
"""Of the embedded world, before it is made: common and long rows."""
IN_WORLD, AT_MOST = "those of the embedded world", "what the data gate lets through at most"


@dataclass(frozen=True)
class Facts:
    """Of one kind of data."""

    lengths: Lengths
    rows: int
    assumed: str = ""
    """Whose lengths these are where no rows were read; empty where they were."""


def facts(root: Path, kind: str, values: Mapping[str, Any]) -> Facts:
    """Of `kind`: corpus, demonstrations, preferences or prompts."""
    by_words = values["base"]["source"] == "scratch"
    for folder in FOLDERS[kind]:
        path = root / folder / "train.jsonl"
        if path.is_file():
            try:
                sizes = tuple(_sizes(row, by_words) for row in islice(_rows(path), MOST_ROWS))
            except (ValueError, LookupError, TypeError, AttributeError):  # rows that are none: nothing is known
                sizes = ()
            if sizes:
                return Facts(Lengths(sizes), _count(path))
    if values["collect"]["source"] == "world":
        return Facts(Lengths(WORLD[kind] * (MOST_ROWS // 2)), _in_world(kind, values), IN_WORLD)
    gate = values["validate"]
    prompt, answer = (gate[name] / CHARACTERS for name in ("max_prompt_chars", "max_completion_chars"))
    answers = 2 if kind == "preferences" else 1
    return Facts(Lengths(((prompt, *[answer] * answers),) * MOST_ROWS), 0, AT_MOST)


def _in_world(kind: str, values: Mapping[str, Any]) -> int:
    world = values["collect"]["world"]
    named = {
        "corpus": "num_documents",
        "demonstrations": "num_demonstrations",
        "preferences": "num_offline_pairs",
        "prompts": "num_prompts",
    }
    return int(world[named[kind]])


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _count(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _sizes(row: Mapping[str, Any], by_words: bool) -> tuple[float, ...]:
    """Tokens of a row's prompt and of each of its answers; a text is all answer, and prompts have an empty one."""
    if "text" in row:
        return 0.0, _tokens(row["text"], by_words)
    turns = [turn["content"] for turn in row["messages"]]
    answers = [row[name] for name in ("chosen", "rejected", "completion") if isinstance(row.get(name), str)]
    if not answers:
        answers = [turns.pop() if row["messages"][-1]["role"] == "assistant" else ""]
    prompt = sum(_tokens(text, by_words) for text in turns) + CONTROL
    return prompt, *(_tokens(text, by_words) for text in answers)


def _tokens(text: str, by_words: bool) -> float:
    return float(len(re.findall(r"\w+|[^\w\s]", text))) if by_words else len(text) / CHARACTERS
