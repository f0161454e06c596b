"""What a program of ours prints, kept in a log without secrets.

The program writes to a file without a name, which is gone when nobody has it open: not to a pipe, as it must be able to
say that it saves when we are dead.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from tasks.redact import logged


class Output:
    """Of one program. `pass_on` takes what it has printed since the last call."""

    def __init__(self, raw: IO[bytes], path: Path, on_line: Callable[[str], None]) -> None:
        self.raw = raw
        """What the program is given to write to."""
        self.plain = ""
        """All that was passed on, as it was printed: to look for words in and not to show."""
        self._path, self._on_line, self._seen = path, on_line, 0

    @property
    def text(self) -> str:
        """All that was passed on, without secrets."""
        return logged(self.plain)

    def pass_on(self, ended: bool = False) -> None:
        """To the log and, line by line, to who listens; half a line waits for the rest until the program has ended."""
        new = os.pread(self.raw.fileno(), os.fstat(self.raw.fileno()).st_size - self._seen, self._seen)
        whole = new if ended else new[: new.rfind(b"\n") + 1]
        if not whole:
            return
        self._seen += len(whole)
        printed = whole.decode("utf-8", "replace")
        text = logged(printed)
        self.plain += printed
        with suppress(OSError), self._path.open("a", encoding="utf-8") as log:  # a full disk: the stage's end says so
            log.write(text)
        for line in text.splitlines():
            if line.strip():
                self._on_line(line)


@contextmanager
def kept(path: Path, on_line: Callable[[str], None] = lambda _: None) -> Iterator[Output]:
    """The output of a program that is started inside; it goes behind what `path` has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=path.parent) as raw:
        yield Output(raw, path, on_line)
