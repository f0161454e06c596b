"""Talk to policies in the terminal: one, or two side by side.
On a pipe every line is a question, and every answer one line, empty where the question was refused.

Lines that begin with a slash are commands (`COMMANDS`); two slashes begin a question that begins with one.
"""

import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch is loaded when somebody talks
    from rlhf.talk import Talk

COMMANDS = {
    "/reset": "forget what was said",
    "/system TEXT": "instructions that stand before the conversation; without TEXT: none",
    "/help": "these lines",
    "/quit": "leave, as Ctrl-D does",
}


@dataclass(frozen=True)
class Side:
    """One policy that is talked to."""

    name: str
    talk: "Talk"


def chat(
    names: Sequence[str],
    temperature: float,
    max_new_tokens: int,
    seed: int,
    system: str,
    as_json: bool,
    say: Callable[[str], None],
) -> None:
    """Load the policies and talk until the input ends.

    Raises:
        PreflowError: no such policy, or one that cannot be read.
    """
    from flows import policies

    with ExitStack() as stack:
        found = [stack.enter_context(policies.opened(name, say)) for name in names]
        from rlhf.talk import Talk

        sides = [Side(one.name, Talk(policies.loaded(one), temperature, max_new_tokens, seed, system)) for one in found]
        # Bytes that are no UTF-8 become surrogates, which no chat encodes: the question is refused, the next one read.
        sys.stdin.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
        if not sys.stdin.isatty():
            converse(sides, (line.rstrip("\r\n") for line in sys.stdin), answer_json if as_json else answer, say)
            return
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C ends an answer; between two, the conversation
        say(f"{' and '.join(side.name for side in sides)}; /help says what else there is, Ctrl-D leaves")
        piped = answer_json if as_json else answer
        converse(sides, _typed(), _answer_in_terminal if sys.stdout.isatty() and not as_json else piped, say)


def converse(
    sides: Sequence[Side],
    lines: Iterator[str],
    show: Callable[[Sequence[Side], str], None],
    say: Callable[[str], None],
) -> None:
    """Do what each line asks; a question that cannot be put is said so, and the next one is read."""
    for line in lines:
        word, _, rest = line.strip().partition(" ")
        if not word:
            continue
        if word.startswith("/") and not word.startswith("//"):
            if word == "/quit":
                return
            _command(sides, word, rest.strip(), say)
            continue
        try:
            show(sides, line.lstrip()[1:] if word.startswith("//") else line)
        except ValueError as error:
            say(plain(f"not asked: {error}"))
        except KeyboardInterrupt:
            say(" (stopped)")
        for side in sides:
            if side.talk.forgotten:
                say(f"({side.name} no longer sees the first {side.talk.forgotten} messages: its room is full)")
            if side.talk.cut:
                say(f"({side.name} was cut at its token limit)")
            side.talk.cut = False


def answer(sides: Sequence[Side], question: str) -> None:
    """A line a policy, in pieces as they come: an empty one where it refuses, a name before each where there are two.

    Raises ValueError, when all have had their turn, where any of them refused.
    """
    refused = []
    for side in sides:
        try:
            _one(side, question, f"{side.name}: " if len(sides) > 1 else "", one_line=True)
        except ValueError as error:
            refused.append(str(error))
            print(f"{side.name}: " if len(sides) > 1 else "", flush=True)
    if refused:
        raise ValueError(refused[0])


def answer_json(sides: Sequence[Side], question: str) -> None:
    """A JSON object a policy and line: the answer as it is, or null and why the question was refused."""
    for side in sides:
        one: dict[str, Any] = {"model": side.name, "question": question, "answer": None}
        try:
            one |= {"answer": "".join(side.talk.ask(question)), "cut": side.talk.cut, "forgotten": side.talk.forgotten}
        except ValueError as error:
            one["refused"] = str(error)
        print(json.dumps(one), flush=True)


def plain(text: str, *, one_line: bool = False) -> str:
    """Text that cannot steer a terminal: what does not show is written as Python writes it, as \\x1b.

    Line breaks and tabs stay, unless it is to be `one_line`: then they are \\n and \\t.
    """
    kept = "" if one_line else "\n\t"
    return "".join(
        one if one.isprintable() or one in kept else one.encode("unicode-escape", "surrogatepass").decode()
        for one in text
    )


def _answer_in_terminal(sides: Sequence[Side], question: str) -> None:
    from rich.console import Console

    if len(sides) > 1:
        _side_by_side(sides, question, Console())
    else:
        _one(sides[0], question, f"{sides[0].name}> ")


def _one(side: Side, question: str, before: str, *, one_line: bool = False) -> None:
    pieces = (plain(piece, one_line=one_line) for piece in side.talk.ask(question))
    first = next(pieces, "")  # before anything is printed: the question may be refused
    print(before, first, sep="", end="", flush=True)
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    finally:
        print(flush=True)


def _side_by_side(sides: Sequence[Side], question: str, console: Any) -> None:
    """A column a policy; they speak in turns, a token each."""
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    said = [Text() for _ in sides]

    def columns() -> Table:
        table = Table(box=None, expand=True, padding=(0, 2, 0, 0))
        for side in sides:
            table.add_column(side.name, ratio=1, overflow="fold")
        table.add_row(*said)
        return table

    answers = [side.talk.ask(question) for side in sides]
    with Live(columns(), console=console, transient=True, auto_refresh=False) as live:
        try:
            for pieces in zip_longest(*answers, fillvalue=""):
                for text, piece in zip(said, pieces, strict=True):
                    text.append(plain(piece))
                live.update(columns(), refresh=True)
        finally:
            for one in answers:
                one.close()  # type: ignore[attr-defined]
    console.print(columns())  # whole: a live view ends at the edge of the screen


def _command(sides: Sequence[Side], word: str, rest: str, say: Callable[[str], None]) -> None:
    if word == "/reset":
        for side in sides:
            side.talk.reset()
        say("forgotten")
    elif word == "/system":
        for side in sides:
            if rest and "system" not in side.talk.policy.chat.roles:
                say(f"{side.name} knows no system messages: its template has no place for them")
            else:
                side.talk.system = rest
    elif word == "/help":
        for name, meaning in COMMANDS.items():
            say(f"{name:14} {meaning}")
    else:
        say(f"{word}: no such command; there are {', '.join(name.split()[0] for name in COMMANDS)}")


def _typed() -> Iterator[str]:
    """Lines as a person types them, with the editing of readline; ends at Ctrl-D, and at Ctrl-C."""
    import readline  # noqa: F401  (it changes what `input` does)

    while True:
        try:
            yield input("you> ")
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return
