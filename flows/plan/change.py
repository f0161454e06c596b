"""What to change where a stage does not fit: the settings that cost least."""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any

HOST = 8
"""GPUs of the largest host that is sold: a stage starts all of its processes on one."""
CHANGES: list[tuple[str, Any, str]] = [
    ("training.gradient_checkpointing", True, "a third more time"),
    ("training.optimizer", "adamw_8bit", "moments in 8 bits"),
    ("training.dtype", "bfloat16", "half precision"),
    ("training.method", "lora", "an adapter on frozen weights"),
    ("training.method", "qlora", "the frozen weights in 4 bits"),
]
"""In the order of what they cost: first what changes nothing but time."""
Fits = Callable[[Mapping[str, Any]], bool]


def cheapest(values: Mapping[str, Any], section: str, longest: float, fits: Fits, gpu: bool) -> str:
    """Settings with which a stage fits: one alone if one does, else the first ones together; empty where none do.

    Args:
        section: of the stage.
        longest: tokens of its longest row.
        fits: whether it fits with these settings, and may have them.
    """
    smaller, changes = list(_smaller(values, section, longest)), list(_changes(values))
    for key, value, why in [*smaller, *changes]:
        if fits(changed(values, key, value)):
            return f"{key}={_word(value)} ({why})"
    taken: list[tuple[str, Any]] = []
    after = values
    least = {key: (key, value, why) for key, value, why in smaller}  # the last of each
    for key, value, _ in [*least.values(), *changes]:
        after = changed(after, key, value)
        taken = [one for one in taken if one[0] != key] + [(key, value)]
        if fits(after):
            return ", ".join(_needed(values, after, taken, fits))
    return _more_processes(values, fits) if gpu else ""


def _changes(values: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Those that go together with what is set: moments in 8 bits are not divided, nor are weights in 4 bits."""
    if not values["training"]["shard"]:
        yield from CHANGES
        return
    yield from (one for one in CHANGES if one[1] not in ("adamw_8bit", "qlora"))
    yield "training.shard", False, "whole copies"
    yield from (one for one in CHANGES if one[1] == "qlora")


def _needed(before: Mapping[str, Any], after: Mapping[str, Any], taken: list[tuple[str, Any]], fits: Fits) -> list[str]:
    """The changes without those that it fits without, or that change nothing."""
    kept = []
    for key, value in taken:
        section, _, name = key.partition(".")
        without = changed(after, key, before[section][name])
        if fits(without):
            after = without
        else:
            kept.append(f"{key}={_word(value)}")
    return kept


def _more_processes(values: Mapping[str, Any], fits: Fits) -> str:
    """How many GPUs it takes where their processes divide the blocks; "" where those of one host do not help."""
    for count in (2, 4, HOST):
        if fits(spread(values, count)):
            return f"training.nproc={count}, training.shard=true (on {count} GPUs)"
    return ""


def spread(values: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The settings for so many GPUs: weights divided, those in 4 bits as copies."""
    shard = values["training"]["method"] != "qlora" and count > 1
    return changed(changed(values, "training.nproc", count), "training.shard", shard)


def _smaller(values: Mapping[str, Any], section: str, longest: float) -> Iterator[tuple[str, int, str]]:
    """Fewer completions at a time, down to one, and smaller passes, down to one row: halves."""
    size, limit = values["generation"]["batch_size"], values[section].get("max_batch_tokens", 0)
    while size > 1:
        size //= 2
        yield "generation.batch_size", size, "fewer completions at a time, same result but for rounding"
    row = longest + values["generation"]["max_new_tokens"]
    while limit // 2 >= 2 * row:
        limit //= 2
        yield f"{section}.max_batch_tokens", limit, "smaller passes, same result but for rounding"


def changed(values: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """The settings with another value of `section.name`."""
    changed = deepcopy(dict(values))
    section, _, name = key.partition(".")
    changed[section][name] = value
    return changed


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
