"""dvc.lock by its entries: thousands of lines, of which a stage that ends changes its own."""

import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tasks.config import read_yaml

Lock = Mapping[str, Mapping[str, Any]]
"""What is locked, by stages. An entry is read once for all files that have it, so nobody may change it."""

ENTRY = re.compile(r"^  (\S+):\n(?: {3,}.*\n|\n)*", re.MULTILINE)
"""Of a stage, as DVC writes it."""
HEAD = "schema: '2.0'\nstages:\n"


def read_lock(path: Path) -> Lock:
    """The file dvc.lock.

    Raises:
        ConfigError: it is no YAML mapping; the message has the line.
    """
    with suppress(OSError, ValueError, YAMLError, AttributeError):
        return locked(path.read_text(encoding="utf-8"))
    return read_yaml(path).get("stages") or {}


def locked(text: str) -> Lock:
    """What a dvc.lock of this text says.

    Raises:
        YAMLError: it is no YAML.
        AttributeError: it is no mapping.
    """
    if ENTRY.sub("", text) == HEAD:
        with suppress(YAMLError):
            entries = [_read(match[0]) for match in ENTRY.finditer(text)]
            found = {name: entry for one in entries if isinstance(one, Mapping) for name, entry in one.items()}
            if len(found) == len(entries):
                return found
    # Not as DVC writes it: mended by hand, say, or with an entry twice, which is an error.
    return (YAML(typ="safe").load(text) or {}).get("stages") or {}


@lru_cache(maxsize=256)
def _read(entry: str) -> Any:
    return YAML(typ="safe").load(entry)
