"""Steps that were not finite: passed over, kept as a file to look at, and too many of them in a row end the training.

A loss or gradient of NaN or infinity says nothing of where to go, and one update by it spoils every weight.
"""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from rlhf.errors import NumericsError

WINDOW, LIMIT = 20, 3
"""Training stops where this many of the last so many steps had a loss or gradient that was not finite."""
FOLDER = "incidents"
"""Of these files, beside the checkpoints."""


def incident(
    name: str,
    skipped: Sequence[int],
    loss: float,
    norms: Mapping[str, float],
    micro_batches: Sequence[Any],
    folder: Path | None,
) -> None:
    """Keep the batch of the last of the `skipped` steps, and say so.

    Raises:
        NumericsError: it is one too many; the last checkpoint is intact.
    """
    step = skipped[-1]
    kept = "nowhere: this run keeps no checkpoints"
    if folder is not None:
        try:
            kept = str(_write(folder / FOLDER, name, step, micro_batches))
        except OSError as error:  # a full disk: it must not be what ends the training
            kept = f"nowhere: {error}"
    seen = f"loss {loss}, gradient norms {dict(norms)}"
    recent = [earlier for earlier in skipped if earlier > step - WINDOW]
    if len(recent) < LIMIT:
        print(
            f"{name}: step {step} was not finite ({seen}): the update is skipped, its batch kept in {kept}",
            file=sys.stderr,
            flush=True,
        )
        return
    intact = f"checkpoints up to step {step} are kept in {folder}; " if folder else ""
    raise NumericsError(
        f"numerics: {len(recent)} of the last {WINDOW} steps were not finite (steps {recent}; now {seen}; "
        f"limit {LIMIT - 1}): {intact}lower `lr`, or look at this step's batch in {kept}"
    )


def _write(folder: Path, name: str, step: int, micro_batches: Sequence[Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace('/', '-')}-step-{step:06d}.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number, micro_batch in enumerate(micro_batches):
            for row in _rows(dict(_flat("", micro_batch))):
                file.write(json.dumps({"step": step, "micro_batch": number} | row, allow_nan=False) + "\n")
    for old in sorted(folder.glob(f"{path.name.rpartition('-')[0]}-*.jsonl"))[:-LIMIT]:
        old.unlink()
    return path


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The tensors and numbers of a micro-batch, whatever it is made of, by dotted names; torch is not imported here."""
    inner: Mapping[str, Any] = {}
    if is_dataclass(value):
        inner = {field.name: getattr(value, field.name) for field in fields(value)}
    elif isinstance(value, Mapping):
        inner = {str(key): one for key, one in value.items()}
    elif isinstance(value, list | tuple):
        inner = {str(key): one for key, one in enumerate(value)}
    elif value is not None:
        yield name or "value", value
    for key, one in inner.items():
        yield from _flat(f"{name}.{key}".lstrip("."), one)


def _rows(named: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row of every tensor that has one for each sequence; what is of all of them, in each."""
    sizes = [shape[0] for shape in map(_shape, named.values()) if shape]
    for row in range(sizes[0] if sizes else 1):
        yield {
            name: _plain(value[row] if _shape(value)[:1] == tuple(sizes[:1]) != () else value)
            for name, value in named.items()
        }


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(getattr(value, "shape", ()))


def _plain(value: Any) -> Any:
    """For JSON, which has no NaN and no infinity: these as words."""
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, bool | int | float | str) else str(value)
