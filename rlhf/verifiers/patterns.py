"""Regular expressions from data or settings, searched for in a process of its own: some take longer than anybody lives.

`re` lets no other thread of its process run meanwhile, and no signal be heard.
"""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence

from rlhf.errors import PreflowError
from rlhf.verifiers.specs import shown

_PATIENCE = 20.0
"""Seconds by the clock for one text, of which `pattern_child` takes one of processor time at most."""


def refuse_unreadable(patterns: Sequence[str], where: str) -> None:
    """Raises PreflowError, which begins with `where`, for the first that is no regular expression."""
    for pattern in patterns:
        try:
            re.compile(pattern, re.DOTALL)
        except (re.error, ValueError, OverflowError, RecursionError) as error:
            raise PreflowError(f"{where} {shown(pattern)} is no regular expression: {error}") from None


def found(patterns: Sequence[str], texts: Sequence[str], *, whole: bool = False) -> list[bool | None]:
    """Whether one of the patterns is found in each text, or fits the `whole` of it; the dot takes line breaks too.

    None where that cannot be told within a second of processor time and a gibibyte.
    """
    verdicts: list[bool | None] = []
    while len(verdicts) < len(texts):
        marks, status = _search(patterns, texts[len(verdicts) :], whole)
        verdicts += [{"1": True, "0": False}.get(mark) for mark in marks]
        if status > 0:
            raise PreflowError(f"searching a text for {shown(patterns)} ended with status {status}")
        if status and len(verdicts) < len(texts):
            verdicts.append(None)  # this one took too long: go on behind it
    return verdicts


def _search(patterns: Sequence[str], texts: Sequence[str], whole: bool) -> tuple[str, int]:
    """A mark for each text that it got through with, and how it ended."""
    from rlhf.verifiers import pattern_child  # where it is; nothing of it is run here

    order = {"patterns": list(patterns), "texts": list(texts), "whole": whole}
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", pattern_child.__file__],
            input=json.dumps(order).encode(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={}, check=False,
            timeout=_PATIENCE * len(texts),
            start_new_session=True,  # who asks this process to stop asks its group, and the step that it is in is saved
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        return (late.stdout or b"").decode("ascii"), -signal.SIGKILL
    return done.stdout.decode("ascii"), done.returncode
