"""Parquet files, a batch of rows at a time. A row is named by its number, counted from 1.

A row must be one that JSON can hold. What pandas writes for a missing number, NaN, is a missing value; dates, times and
decimals become text.
"""

import json
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from tasks.readers.found import Raw, Rejected, too_long, unfinished

BATCH = 256
"""Rows that are decoded together."""


def rows(path: Path, max_bytes: int) -> Iterator[Raw | Rejected]:
    """Rows of a parquet file, in order. Raises OSError when it cannot be opened."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    number = 0
    with path.open("rb") as opened:
        try:
            file = parquet.ParquetFile(opened, buffer_size=1 << 20)
            names = file.schema_arrow.names
            if twice := next((name for name in names if names.count(name) > 1), ""):
                yield unfinished(1, f"the column {twice!r} is given twice")
                return
            for batch in file.iter_batches(batch_size=BATCH):
                for value in _values(batch):
                    number += 1
                    yield _row(number, value, max_bytes)
        except (arrow.ArrowException, OSError, ValueError) as error:  # ValueError: of a column's name that is not UTF-8
            reason = (str(error).splitlines() or ["no reason given"])[0]
            yield unfinished(number + 1, f"the file is broken: {reason}")


def _values(batch: Any) -> Iterator[dict[str, Any] | str]:
    """Rows of a batch. One that holds what parquet does not look at, as a text that is not UTF-8 or a date no calendar
    has, is the reason why it is none."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield "a text is not UTF-8"
            except (ValueError, OverflowError) as error:
                yield f"a value that cannot be read: {error}"


def _row(number: int, value: dict[str, Any] | str, max_bytes: int) -> Raw | Rejected:
    if isinstance(value, str):
        return Rejected(number, value, "")
    try:
        plain = {name: _plain(item) for name, item in value.items()}
        size = len(json.dumps(plain, ensure_ascii=False, allow_nan=False).encode("utf-8"))
    except (TypeError, ValueError, RecursionError) as error:
        return Rejected(number, f"a value that JSON cannot hold: {error}", "")
    return too_long(number, size, max_bytes) if size > max_bytes else Raw(number, plain)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value != value:
        return None
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return str(value) if isinstance(value, date | datetime | time | timedelta | Decimal) else value
