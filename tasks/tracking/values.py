"""Plain values in the form that MLflow takes: flat, short, finite, without secrets."""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from tasks.redact import address, redacted

T = TypeVar("T")

MAX_PARAM = 6000
MAX_TAG = 8000
MAX_NAME = 250


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested mappings under joined names: `{"rl": {"lr": 1}}` gives `("rl.lr", 1)`."""
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping) and value:
            yield from flat(value, name)
        else:
            yield name, value


def params_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Parameters as text: words only under names that the configuration has, addresses without who asks."""
    return {name[:MAX_NAME]: text(_shown(name, value), MAX_PARAM) for name, value in flat(values)}


def _shown(name: str, value: Any) -> Any:
    if not value or isinstance(value, bool | int | float):
        return value
    if not _known_names() & set(name.split(".")[-2:]):
        return "[not shown: no parameter of preflow]"
    return address(value) if isinstance(value, str) and "://" in value else value


@cache
def _known_names() -> set[str]:
    """Of every field of every section. Whoever adds one vouches for it: what it holds is shown to all."""
    from tasks.config.params import Params

    found: set[str] = set()
    waiting: list[Any] = [Params.model_json_schema()]
    while waiting:
        here = waiting.pop()
        if isinstance(here, dict):
            found |= set(here.get("properties", {}))
        waiting += here.values() if isinstance(here, dict) else here if isinstance(here, list) else []
    return found


def numbers_of(values: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """Every finite number (and truth value) among the leaves, named `prefix/a.b`: one section of charts."""
    return {f"{prefix}/{name}"[:MAX_NAME]: float(value) for name, value in flat(values) if _finite(value)}


def metric_name(name: str) -> str:
    """As long as MLflow takes; two that begin alike stay two."""
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: MAX_NAME - len(digest) - 1]}-{digest}"


def text(value: Any, limit: int = MAX_TAG) -> str:
    """One value as text of at most `limit` characters."""
    found = redacted(value if isinstance(value, str) else str(value))
    return found if len(found) <= limit else found[: limit - 1] + "…"


def plottable(value: float) -> float:
    """MLflow stores ±inf as ±1.8e308, which ruins every chart; it is shown as not a number."""
    return value if math.isfinite(value) else math.nan


def chunks(items: Iterable[T], size: int) -> Iterator[Sequence[T]]:
    """Runs of at most `size` items."""
    waiting: list[T] = []
    for item in items:
        waiting.append(item)
        if len(waiting) == size:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _finite(value: Any) -> bool:
    return isinstance(value, bool | int | float) and math.isfinite(value)
