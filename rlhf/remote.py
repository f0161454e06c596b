"""A server that is asked over HTTP: a bounded number of times, and no secret of it in what an error repeats."""

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rlhf.errors import DependencyDown, PreflowError

_SHOWN = 200
"""Characters of what a server says that an error repeats."""
_AGAIN = {408, 409, 429, 500, 502, 503, 504}
_READ = 4096  # bytes of an error
_PIECE = 2**16  # bytes
MOST = 2**28
"""Bytes of one answer; whoever says more says no answer."""
_LONGEST_PAUSE = 8.0  # seconds


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *args: Any) -> None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """Where a server is, and how long to wait for it."""

    name: str
    """What errors call it, after "the": judge, …"""
    url: str
    """What the paths of requests are put after."""
    see: str
    """The settings to look at where it refuses."""
    key_variable: str | None = None
    """Environment variable that holds the API key; None sends none."""
    timeout_seconds: float = 60.0
    """For one attempt, to the last byte of its answer."""
    attempts: int = 4
    """Requests until the server counts as away."""
    pause_seconds: float = 0.5
    """Before the second attempt; it doubles with each."""
    redact: Callable[[str], str] = str
    """Takes secrets out of what the server says before an error repeats it."""

    def __post_init__(self) -> None:
        """Raises PreflowError for an address that is none of a web server."""
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise PreflowError(f"the {self.name}'s url is {self.redact(self.url)!r}, expected http://host:port/…")

    def ask(self, path: str, body: Mapping[str, Any] | None = None) -> bytes:
        """What it answers to a POST of `body` as JSON, or to a GET where there is none.

        Raises DependencyDown where no attempt was answered, PreflowError where the answer was no.
        """
        seen = ""
        for attempt in range(self.attempts):
            self.pause(attempt)
            until = time.monotonic() + self.timeout_seconds
            try:
                return self._request(path, body, until)
            except urllib.error.HTTPError as error:
                seen = f"HTTP {error.code}{self._said(error, until)}"
                if error.code not in _AGAIN:
                    raise PreflowError(
                        f"the {self.name} at {self.url} refused with {seen}; see its {self.see}"
                    ) from None
            except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
                seen = str(getattr(error, "reason", error)) or type(error).__name__
        raise DependencyDown(
            f"the {self.name} at {self.url} did not answer in {self.attempts} attempts of {self.timeout_seconds:g} s "
            f"each ({seen}): start it, or mend the {self.name}'s url"
        )

    def pause(self, attempt: int) -> None:
        """Wait before an attempt, which are counted from 0; not before the first."""
        if attempt:
            time.sleep(min(_LONGEST_PAUSE, self.pause_seconds * 2 ** (attempt - 1)))

    def shown(self, body: bytes) -> str:
        """The beginning of what was said, on one line, without the key, which some servers repeat."""
        text = " ".join(body.decode("utf-8", errors="replace").split())
        key = os.environ.get(self.key_variable, "").strip() if self.key_variable is not None else ""
        text = self.redact(text.replace(key, "[key]") if key else text)
        return f": {text[:_SHOWN]}" if text else ""

    def _request(self, path: str, body: Mapping[str, Any] | None, until: float) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self.key_variable is not None:
            key = os.environ.get(self.key_variable, "").strip()  # files of secrets end in a newline
            if not key or not key.isascii() or not key.isprintable():
                what = "holds what no header can have" if key else "is empty"
                raise PreflowError(
                    f"environment variable {self.key_variable} {what}: set it to the {self.name}'s API key"
                )
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(
            f"{self.url.rstrip('/')}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers=headers,
            method="GET" if body is None else "POST",
        )
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=self.timeout_seconds) as reply:
            found = _read(reply, MOST + 1, until)
            left = reply.length
        if len(found) > MOST:
            raise PreflowError(f"the {self.name} at {self.url} said more than {MOST} bytes; see its {self.see}")
        if left:  # a read of so many bytes does not mind that a connection was cut
            raise http.client.IncompleteRead(found, left)
        return found

    def _said(self, error: urllib.error.HTTPError, until: float) -> str:
        try:
            return self.shown(_read(error, _READ, until))
        except (OSError, http.client.HTTPException):
            return ""


def _read(reply: Any, most: int, until: float) -> bytes:
    """So many bytes, or all where there are fewer. A time-out of sockets is for each piece: a server that drips never
    runs into it."""
    found = bytearray()
    while len(found) < most:
        if time.monotonic() > until:
            raise TimeoutError(f"its answer had not ended, {len(found)} bytes of it have come")
        piece = reply.read1(min(_PIECE, most - len(found)))
        if not piece:
            break
        found += piece
    return bytes(found)
