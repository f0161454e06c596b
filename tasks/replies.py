"""What a judge has said, kept in the scratch folder of a stage until that is done.

A judge that goes away ends its stage, and so does a kill. Typed again, the stage asks for nothing that it was told
already: replies cost money and minutes, and a server need not say the same twice, also at temperature 0.
"""

import hashlib
import json
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rlhf.chat import Message
from rlhf.judge import Ask


class Replies:
    """A judge (`rlhf.judge.Ask`) with a memory on disk; from any number of threads.

    Of a reply its last line is kept, which holds the verdict.
    """

    def __init__(self, ask: Ask, path: Path) -> None:
        self._ask, self._path, self._lock = ask, path, threading.Lock()
        self._known = _read(path)

    def __call__(self, messages: Sequence[Message]) -> str:
        """As the judge: raises what it raises, and then nothing is kept."""
        question = hashlib.sha256(json.dumps(list(messages), sort_keys=True).encode()).hexdigest()[:32]
        if question not in self._known:
            said = self._ask(messages).rstrip().rpartition("\n")[2]
            with self._lock, self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([question, said]) + "\n")
            self._known[question] = said
        return self._known[question]


def _read(path: Path) -> dict[str, str]:
    """What is there; a line that a kill has torn is cut off."""
    known: dict[str, str] = {}
    if not path.exists():
        return known
    text = path.read_bytes()
    whole = text.rfind(b"\n") + 1
    os.truncate(path, whole)
    for line in text[:whole].splitlines():
        with suppress(ValueError):  # a full disk leaves half a line in the middle of a file
            question, said = json.loads(line)
            known[question] = said
    return known
