"""Modules that take seconds to import, imported beside what their user waits for before it needs them."""

import importlib
import threading
from contextlib import suppress


def import_ahead(*modules: str) -> None:
    """Begin to import these, in their order, in a thread of its own; what goes wrong shows where they are used."""

    def begin() -> None:
        with suppress(Exception):
            for name in modules:
                importlib.import_module(name)

    threading.Thread(target=begin, daemon=True).start()
