"""`preflow data show` and `preflow data check`: files, looked at before anything is trained on them."""

import re
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True, help="Look at data: a row as the model sees it, or what the gate says of a file."
)

Columns = Annotated[
    list[str] | None,
    typer.Option("--columns", metavar="OURS=THEIRS[,…]", help="what columns are called in the file; repeatable"),
]

SHOW_HELP = """Print a row as the model sees it: token by token, control tokens and the loss mask marked.

[bold]Examples[/bold]

  preflow data show preferences --row 3

  preflow data show mine.csv --model ../my-model

  preflow data show demonstrations --id 8a1c --json
"""


@app.command(help=SHOW_HELP)
def show(
    what: Annotated[str, typer.Argument(metavar="FILE|KIND", help="a file, or a kind of the data of this project")],
    row: Annotated[int, typer.Option(min=1, help="which row, counted from 1")] = 1,
    row_id: Annotated[str, typer.Option("--id", metavar="ID", show_default=False, help="which row, by its id")] = "",
    kind: Annotated[
        str, typer.Option(metavar="KIND", show_default=False, help="how to read it; default: by keys")
    ] = "",
    columns: Columns = None,
    model: Annotated[
        str, typer.Option(metavar="FOLDER", show_default=False, help="whose tokens; default: the project's base")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="one JSON object on stdout")] = False,
) -> None:
    from flows.data.show import show as show_row

    show_row(what, number=row, row_id=row_id, kind=kind, columns=_columns(columns), model=model, as_json=as_json)


CHECK_HELP = """Run the data gate alone on any file, before anything is trained on it.

Counts, lengths, duplicates, leakage between splits, bias, contradictions, examples by rule: on the terminal, and on \
one page that works offline. Files of one kind are checked together. Ends with 3 where a run would refuse them.

[bold]Examples[/bold]

  preflow data check mine.csv --columns chosen=better --columns rejected=worse

  preflow data check train.jsonl prompts.jsonl --model ../my-model --html report.html
"""


@app.command(help=CHECK_HELP)
def check(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="JSONL, JSON, CSV, TSV or parquet, or gzipped")],
    kind: Annotated[
        str, typer.Option(metavar="KIND", show_default=False, help="how to read them; default: by keys")
    ] = "",
    columns: Columns = None,
    model: Annotated[
        str, typer.Option(metavar="FOLDER", show_default=False, help="whose tokens to count; default: none")
    ] = "",
    html: Annotated[
        str, typer.Option(metavar="PATH", show_default=False, help="where the page goes; default: data-check.html")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="one JSON object on stdout")] = False,
) -> None:
    from flows.data.check import check as check_files

    columns_of = _columns(columns)
    raise typer.Exit(check_files(files, kind=kind, columns=columns_of, model=model, html=html, as_json=as_json))


def _columns(given: list[str] | None) -> dict[str, str]:
    from tasks.config import ConfigError

    words = [word for text in given or () for word in re.split(r",(?=\w+=)", text)]  # theirs may have a comma in it
    pairs = [word.partition("=") for word in words]
    if wrong := next((ours for ours, sign, theirs in pairs if not (ours and sign and theirs)), None):
        raise ConfigError(f"--columns {wrong}: expected OURS=THEIRS, for example --columns chosen=better")
    columns = {ours: theirs for ours, _, theirs in pairs}
    if columns:
        from flows.data.columns import refuse_unknown

        refuse_unknown(columns)
    return columns
