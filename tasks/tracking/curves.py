"""Curves of one run shown with another: thousands of points, which a database of ours copies by itself."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress

from tasks.tracking.store import Store
from tasks.tracking.values import chunks

_POINTS = """insert or ignore into metrics (run_uuid, key, value, timestamp, step, is_nan)
    select ?, key, value, timestamp, step, is_nan from metrics where run_uuid = ? and key = ?"""
_NEWEST = """insert or replace into latest_metrics (run_uuid, key, value, timestamp, step, is_nan)
    select ?, key, value, timestamp, step, is_nan from latest_metrics where run_uuid = ? and key = ?"""


def copy_curves(store: Store, origin: str, child: str, names: Sequence[str]) -> None:
    """Give `child` the curves of these names that `origin` has; twice is once."""
    if not _within_the_file(store, origin, child, names):
        points = (point for name in names for point in store.client.get_metric_history(origin, name))
        for some in chunks(points, 1000):
            store.client.log_batch(child, metrics=some)


def _within_the_file(store: Store, origin: str, child: str, names: Sequence[str]) -> bool:
    """False, and nothing done, where the store is no SQLite file, or one of another MLflow than ours."""
    if store.database is None:
        return False
    with suppress(sqlite3.Error), closing(sqlite3.connect(store.database, timeout=20.0)) as there:
        with there:  # all of it or nothing
            for statement in (_POINTS, _NEWEST):
                there.executemany(statement, [(child, origin, name) for name in names])
        return True
    return False
