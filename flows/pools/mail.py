"""What a stage on a worker says, as numbered parcels in the exchange: the worker posts, the run takes and removes.

A parcel is what has changed since the one before: journals and logs from where they stood, other files whole, and in
the last one the answer. Its first 32 bytes are the SHA-256 of the rest, so that half of one is not taken for one.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from flows.pools.exchange import Exchange
from rlhf.errors import PreflowError
from tasks.inside import leads_out

GROWING = (".jsonl", ".log")
"""Files that are only ever appended to."""
_ANSWER = "answer.json"
_OFFSET = "preflow.offset"


class Outbox:
    """The worker's side."""

    def __init__(self, exchange: Exchange, folder: str, sources: Mapping[str, Path]) -> None:
        """`sources`: folders whose files are sent, by the name that they have in the parcels."""
        self._exchange, self._folder, self._sources = exchange, folder, sources
        self._seen: dict[str, tuple[int, int]] = {}
        self._number = 0

    def post(self, answer: Mapping[str, Any] | None = None) -> None:
        """Send what is new, and the answer; nothing where nothing is.

        Raises:
            DependencyDown: the exchange did not take it; the next post has it.
        """
        seen, buffer, count = dict(self._seen), io.BytesIO(), 0
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for name, path in self._files():
                status = path.stat()
                now, before = (status.st_size, status.st_mtime_ns), self._seen.get(name, (0, 0))
                if now == before:
                    continue
                start = before[0] if path.suffix in GROWING and now[0] >= before[0] else 0
                with path.open("rb") as file:
                    file.seek(start)
                    data = file.read(now[0] - start)
                _add(tar, name, data, start)
                seen[name], count = now, count + 1
            if answer is not None:
                _add(tar, _ANSWER, json.dumps(answer).encode(), 0)
        if count or answer is not None:
            data = buffer.getvalue()
            self._exchange.put(f"{self._folder}/{self._number:06d}", hashlib.sha256(data).digest() + data)
            self._seen, self._number = seen, self._number + 1

    def _files(self) -> Iterator[tuple[str, Path]]:
        for top, folder in self._sources.items():
            for path in sorted(folder.rglob("*")):
                if path.is_file() and not path.is_symlink():
                    yield f"{top}/{path.relative_to(folder).as_posix()}", path


class Inbox:
    """The run's side."""

    def __init__(self, exchange: Exchange, folder: str, place: Callable[[PurePosixPath], "Spot | None"]) -> None:
        """`place`: where a file of a parcel belongs, None for nowhere."""
        self._exchange, self._folder, self._place = exchange, folder, place
        self._number = 0

    def take(self) -> dict[str, Any] | None:
        """Put what has come where it belongs; the answer, where that has come too.

        Raises:
            DependencyDown: the exchange did not answer.
            PreflowError: a parcel names a path that no worker of ours would.
        """
        while (data := self._exchange.get(f"{self._folder}/{self._number:06d}")) is not None:
            if hashlib.sha256(data[32:]).digest() != data[:32]:
                return None  # still being written
            self._number += 1
            if (answer := self._unpack(data[32:])) is not None:
                return answer
        return None

    def _unpack(self, data: bytes) -> dict[str, Any] | None:
        answer = None
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isfile() else None
                if content is None or leads_out(member.name):
                    raise PreflowError(f"a worker sent {member.name!r}, which is no file of a stage; nothing was taken")
                if member.name == _ANSWER:
                    answer = json.loads(content.read())
                elif spot := self._place(PurePosixPath(member.name)):
                    _write(spot, int(member.pax_headers.get(_OFFSET, 0)), content.read())
        return answer


@dataclass(frozen=True)
class Spot:
    """Where bytes of a parcel go."""

    path: Path
    base: int = 0
    """Bytes that the file has from others before."""


class Attempts:
    """Where the files of one attempt belong: its journals get the next numbers here, as other attempts have theirs."""

    def __init__(self, journals: Path, reports: Path, stage: str) -> None:
        self._journals, self._reports, self._stage = journals, reports, stage
        self._own: dict[str, Path] = {}
        log = journals / f"{stage}.log"
        self.log = Spot(log, log.stat().st_size if log.exists() else 0)
        """What the stage prints, behind what earlier attempts have printed."""

    def place(self, name: PurePosixPath) -> Spot | None:
        """For `Inbox`."""
        top, *rest = name.parts
        if top == "reports" and rest:
            return Spot(self._reports.joinpath(*rest))
        if top != "journal" or not rest:
            return None
        if rest == [self.log.path.name]:
            return self.log
        if re.fullmatch(rf"{re.escape(self._stage)}-[1-9]\d*", rest[0]) and len(rest) > 1:
            return Spot(self._folder(rest[0]).joinpath(*rest[1:]))
        return None

    def _folder(self, theirs: str) -> Path:
        if theirs not in self._own:
            number = 1
            while (folder := self._journals / f"{self._stage}-{number}").exists():
                number += 1
            folder.mkdir(parents=True)
            self._own[theirs] = folder
        return self._own[theirs]


def _add(tar: tarfile.TarFile, name: str, data: bytes, offset: int) -> None:
    about = tarfile.TarInfo(name)
    about.size, about.pax_headers = len(data), {_OFFSET: str(offset)} if offset else {}
    tar.addfile(about, io.BytesIO(data))


def _write(spot: Spot, offset: int, data: bytes) -> None:
    start = spot.base + offset
    spot.path.parent.mkdir(parents=True, exist_ok=True)
    with spot.path.open("r+b" if start and spot.path.exists() else "wb") as file:
        file.seek(start)
        file.write(data)
