"""How long the rows of a run are, in tokens, and how many: from its validated data, or as far as anybody can know."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

from flows.plan_stages import Lengths

FOLDERS = ("data/03_validated", "data/02_prepared")
MOST_ROWS = 2000
CHARACTERS = 4.0
"""A token of a pretrained model, in English."""
CONTROL = 4
"""Tokens of a row that mark turns."""
WORLD = {"corpus": Lengths(0, 34, 60), "demonstrations": Lengths(14, 22, 70), "prompts": Lengths(14, 22, 70)}
"""Of the embedded world, before it is made."""


@dataclass(frozen=True)
class Facts:
    """Of one kind of data."""

    lengths: Lengths
    rows: int
    measured: bool
    """Whether rows were read; else it is what the data gate lets through at most, or the embedded world's."""


def facts(root: Path, kind: str, values: Mapping[str, Any]) -> Facts:
    """Of `kind`: corpus, demonstrations, preferences or prompts."""
    by_words = values["base"]["source"] == "scratch"
    for folder in FOLDERS:
        path = root / folder / kind / "train.jsonl"
        if path.is_file():
            sizes = [_sizes(row, by_words) for row in islice(_rows(path), MOST_ROWS)]
            if sizes:
                return Facts(_lengths(sizes), _count(path), measured=True)
    if values["collect"]["source"] == "world":
        return Facts(WORLD.get(kind, WORLD["prompts"]), _in_world(kind, values), measured=False)
    gate = values["validate"]
    prompt, answer = (gate[name] / CHARACTERS for name in ("max_prompt_chars", "max_completion_chars"))
    return Facts(Lengths(prompt, answer, prompt + answer), 0, measured=False)


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


def _sizes(row: Mapping[str, Any], by_words: bool) -> tuple[float, float]:
    """Tokens of prompt and answer; of a pair those of the longer answer."""
    if "text" in row:
        return 0.0, _tokens(row["text"], by_words)
    turns = [turn["content"] for turn in row["messages"]]
    answers = [row[name] for name in ("chosen", "rejected", "completion") if isinstance(row.get(name), str)]
    if not answers and row["messages"][-1]["role"] == "assistant":
        answers = [turns.pop()]
    return sum(_tokens(text, by_words) for text in turns) + CONTROL, max(
        (_tokens(text, by_words) for text in answers), default=0.0
    )


def _tokens(text: str, by_words: bool) -> float:
    return float(len(re.findall(r"\w+|[^\w\s]", text))) if by_words else len(text) / CHARACTERS


def _lengths(sizes: Sequence[tuple[float, float]]) -> Lengths:
    return Lengths(
        mean(prompt for prompt, _ in sizes), mean(answer for _, answer in sizes), max(map(sum, sizes), default=1.0)
    )
