"""Whose data and weights a policy was made from, and under which licence: for model cards, here and with an export."""

from collections.abc import Iterator, Mapping
from typing import Any

from tasks.shapes import KINDS

UNKNOWN = "**not stated**: ask before you pass it on"
Origins = Mapping[str, Mapping[str, Mapping[str, str]]]


def licences(params: Mapping[str, Any], origins: Origins) -> Iterator[tuple[str, str, str, str]]:
    """What, its origin, its revision, its licence: of the base model and the data that params.yaml names, then of files
    that were given otherwise.

    Args:
        params: the resolved params.yaml; empty where it is not known.
        origins: what `collect` wrote into `origin.json`, by kind of data.
    """
    named = params.get("sources") or []
    base = params.get("base") or {}
    if base.get("source") == "scratch":
        yield "base model", "a small model trained from nothing on the corpus", "", "of the corpus"
    elif not any(one["target"].split("/")[0] == "checkpoint" for one in named):
        yield "base model", "data/inbox/checkpoint, put there by hand" if params else "not known", "", UNKNOWN
    for one in named:
        what = "base model" if one["target"].split("/")[0] == "checkpoint" else "data"
        yield what, one["origin"], one["revision"], one["licence"] or UNKNOWN
    known = {one["name"] for one in named}
    for kind in KINDS:
        for file, origin in origins.get(kind, {}).items():
            if origin["name"] == "world":
                yield kind, "the embedded world of preflow", origin["revision"], "Apache-2.0, as preflow"
            elif origin["name"] not in known:
                yield kind, f"{file} ({origin['origin']})", origin.get("revision", ""), origin.get("licence") or UNKNOWN
