"""Options that several commands have, and how given ones are read."""

from typing import Annotated

import typer

PROFILE = typer.Option(metavar="NAME", help="overlay on params.yaml; `ls profiles` lists the names")
AsJson = Annotated[bool, typer.Option("--json", metavar="", help="one JSON object on stdout, all else on stderr")]


def words(texts: list[str]) -> tuple[str, ...]:
    """`a,b` and `c` as a, b, c; an empty word stays one, so that it can be refused."""
    return tuple(word.strip() for text in texts for word in text.split(","))


def once(option: str, given: list[str] | None, default: str = "") -> str:
    """The one value of an option, where the last of several would win unsaid."""
    from tasks.config import ConfigError

    if given and len(given) > 1:
        raise ConfigError(f"{option}: given {len(given)} times ({', '.join(given)}); give it once")
    return given[0] if given else default
