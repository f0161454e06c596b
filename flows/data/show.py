"""`preflow data show`: one row as the model sees it, token by token, from any file or from the project's own data."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flows.data.columns import SAMPLE, refuse_absent, told_unused, unused
from flows.summary import say
from rlhf.errors import PreflowError
from rlhf.records import content_id, read_rows
from tasks.config import read_yaml
from tasks.readers import SUFFIXES, Raw, Rejected, read
from tasks.shapes import KINDS, Malformed, canonical_rows
from tasks.shapes.columns import cells, renamed

if TYPE_CHECKING:
    from rlhf.chat import Chat
    from rlhf.seen import Seen, Token

VALIDATED = "data/03_validated"
MODEL = "data/04_base/policy"
MAX_ROW_BYTES = 100_000_000
_FILES = 8  # of a folder, in a message
STYLES = {"control": "bold magenta", "context": "", "loss": "bold green"}


@dataclass(frozen=True)
class Row:
    """One canonical row, and where it was found."""

    kind: str
    file: str
    line: int
    content: Mapping[str, Any]

    @property
    def id(self) -> str:
        """The name that it has, or will have, in all stages."""
        return str(self.content.get("id") or content_id(self.content))


def show(
    what: str, *, number: int, row_id: str, kind: str, columns: Mapping[str, str], model: str, as_json: bool
) -> None:
    """Print one row of a file, or of a kind of this project's data: the one of this id, else the `number`-th.

    `columns` names their columns by our fields, as `collect.columns` does.

    Raises:
        PreflowError: no such file, row or model, or a row that cannot be read; one sentence each.
    """
    root = _project()
    of_file = what not in KINDS or Path(what).exists()
    rows = _rows_of_file(Path(what), kind, columns) if of_file else _rows_of_kind(root, what)
    row = _chosen(rows, what, number, row_id)
    chat, name = _chat(root, model)
    from rlhf.seen import seen

    try:
        sequences = seen(row.kind, row.content, chat, _loss_on(root))
    except ValueError as error:
        raise PreflowError(f"{row.file}:{row.line}: {name} cannot take this row: {error}") from None
    if as_json:
        print(json.dumps(_told(row, name, sequences), ensure_ascii=False))
    else:
        _print(row, name, sequences)
        if of_file and (names := unused(Path(what), row.kind, columns)):
            say(visible(told_unused(names, row.kind)))


def _rows_of_kind(root: Path | None, kind: str) -> Iterator[Row]:
    if root is None or not (root / VALIDATED / kind).is_dir():
        raise PreflowError(f"{kind}: there is no {VALIDATED}/{kind} here; run the pipeline first, or name a file")
    for split in ("train", "val", "eval", "rows"):
        file = root / VALIDATED / kind / f"{split}.jsonl"
        for line, content in enumerate(read_rows(file) if file.exists() else [], start=1):
            yield Row(kind, file.relative_to(root).as_posix(), line, content)


def refuse_folder(path: Path) -> None:
    """Raises PreflowError, with files that could be meant, where a folder stands for a file."""
    if path.is_dir():
        files = sorted(str(one) for one in path.iterdir() if one.name.endswith(SUFFIXES))
        more = f" and {len(files) - _FILES} more" if len(files) > _FILES else ""
        what = f"name its files: {', '.join(files[:_FILES])}{more}" if files else "no file in it can be read"
        raise PreflowError(f"{path} is a folder; {what}")


def _rows_of_file(file: Path, kind: str, columns: Mapping[str, str]) -> Iterator[Row]:
    refuse_folder(file)
    if not file.is_file():
        raise PreflowError(f"{file}: no such file; name one, or a kind of this project's data ({', '.join(KINDS)})")
    if kind and kind not in KINDS:
        raise PreflowError(f"--kind {kind}: no such kind; there are {', '.join(KINDS)}")
    try:
        for found in _with_columns(file, columns):
            if isinstance(found, Rejected):
                raise PreflowError(f"{file}:{found.line}: cannot be read: {found.reason}")
            value = renamed(found.value, columns)
            known = kind or kind_of(value)
            for content in canonical_rows(known, cells(value) if found.is_text else value):
                if isinstance(content, Malformed):
                    raise PreflowError(f"{file}:{found.line}: no row of kind {known}: {content}; see --kind, --columns")
                yield Row(known, str(file), found.line, content)
    except ValueError as error:
        raise PreflowError(str(error)) from None


def _with_columns(file: Path, columns: Mapping[str, str]) -> Iterator[Raw | Rejected]:
    """The rows of a file that has these columns."""
    rows = read(file, MAX_ROW_BYTES)
    if not columns:
        return rows
    first = list(islice(rows, SAMPLE))
    refuse_absent(file, columns, {name for row in first if isinstance(row, Raw) for name in row.value})
    return chain(first, rows)


def kind_of(value: Mapping[str, Any]) -> str:
    """The kind that a row looks like, by its keys."""
    if {"chosen", "rejected"} <= set(value) or "completions" in value:
        return "preferences"
    if "label" in value and "completion" in value:
        return "ratings"
    if set(value) <= {"text", "source", "id", "meta"}:
        return "corpus"
    messages = value.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else {}
    answered = isinstance(last, Mapping) and last.get("role") == "assistant"
    return "demonstrations" if answered or {"completion", "output"} & set(value) else "prompts"


def _chosen(rows: Iterator[Row], what: str, number: int, row_id: str) -> Row:
    if row_id:
        found = next((row for row in rows if row.id.startswith(row_id)), None)
        if found is None:
            raise PreflowError(f"{what} has no row of id {row_id}")
        return found
    seen = 0
    for seen, row in enumerate(islice(rows, number), start=1):
        if seen == number:
            return row
    raise PreflowError(f"{what} has {seen} rows, there is no row {number}")


def _chat(root: Path | None, model: str) -> tuple["Chat", str]:
    from rlhf.chat import Chat, adapt_chat

    folder = Path(model) if model else (root or Path()) / MODEL
    if not (folder / "tokenizer.json").is_file():
        where = f"--model {model}: no tokenizer.json there" if model else f"there is no {MODEL} here yet"
        raise PreflowError(f"{where}; name a folder with a model (config.json, tokenizer.json) by --model")
    try:
        return Chat.load(folder) if (folder / "chat.json").is_file() else adapt_chat(folder), model or MODEL
    except ValueError as error:
        raise PreflowError(f"{model or MODEL}: {error}") from None


def _loss_on(root: Path | None) -> Literal["final", "all"]:
    sft = read_yaml(root / "params.yaml").get("sft") or {} if root else {}
    return "all" if sft.get("loss_on") == "all" else "final"


def _project() -> Path | None:
    """The checkout that we are in, if it is one: any file can be shown without."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / "params.yaml").exists()), None)


def _told(row: Row, model: str, sequences: Sequence["Seen"]) -> dict[str, Any]:
    return {
        "file": row.file,
        "line": row.line,
        "id": row.id,
        "kind": row.kind,
        "model": model,
        "sequences": [
            {
                "name": one.name,
                "ids": [token.id for token in one.tokens],
                "tokens": [token.text for token in one.tokens],
                "control": [token.control for token in one.tokens],
                "loss": [token.trained for token in one.tokens],
            }
            for one in sequences
        ],
    }


def _print(row: Row, model: str, sequences: Sequence["Seen"]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, no_color=True, width=120)
    console.print(Text(f"{row.file}:{row.line}  {row.kind}  id {row.id}  as {model} sees it"), soft_wrap=True)
    for one in sequences:
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for column in ("place", "part", "text"):
            table.add_column(overflow="fold", no_wrap=column != "text")
        for start, part, tokens in one.runs():
            end = start + len(tokens) - 1
            place = f"{start}" if start == end else f"{start}-{end}"
            table.add_row(place, Text(part, style=STYLES[part]), _written(tokens, STYLES[part]))
        trained = sum(token.trained for token in one.tokens)
        control = sum(token.control for token in one.tokens)
        console.print()
        console.print(Text(f"{one.name}: {len(one.tokens)} tokens, {trained} under the loss, {control} control"))
        console.print(table)


def visible(text: str) -> str:
    """A text with what would not show, or would steer the terminal, written out."""
    return "".join(one if one.isprintable() else one.encode("unicode-escape", "surrogatepass").decode() for one in text)


def _written(tokens: Sequence["Token"], style: str) -> Any:
    """Tokens with a bar between two; control tokens stand out among trained ones.

    What would not show, or would steer the terminal, is written out: line ends, tabs, escapes, marks of direction.
    """
    from rich.text import Text

    text = Text()
    for number, token in enumerate(tokens):
        if number:
            text.append("|", style="dim")
        plain = token.text.replace("\n", "⏎").replace("\t", "⇥") or "∅"
        text.append(
            visible(plain), style=STYLES["control"] + " underline" if token.control and token.trained else style
        )
    return text
