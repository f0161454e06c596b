"""Columns that somebody names by hand, held against what there is."""

from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path

from rlhf.errors import PreflowError
from tasks.config import ConfigError
from tasks.config.collect import OURS
from tasks.shapes.columns import no_such

SAMPLE = 50
"""Rows that a file is looked at by, before it is read in earnest."""


def refuse_unknown(columns: Mapping[str, str]) -> None:
    """Raises ConfigError where a name on our side is none of our fields."""
    for ours, theirs in columns.items():
        if ours not in OURS:
            near = get_close_matches(ours, OURS, n=1, cutoff=0.5)
            known = f"did you mean `{near[0]}`?" if near else f"they are: {', '.join(OURS)}"
            raise ConfigError(f"--columns {ours}={theirs}: `{ours}` is none of our fields; {known}")


def refuse_absent(file: Path, columns: Mapping[str, str], present: Collection[str]) -> None:
    """Raises PreflowError where a file has a column neither under their name nor under ours."""
    missing = {f"--columns {ours}": theirs for ours, theirs in columns.items() if not {ours, theirs} & {*present}}
    if missing and present:
        raise PreflowError(f"{file}: {no_such(missing, present)}")
