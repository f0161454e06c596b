"""What `preflow plan` says beside what a training takes: peak memory of five stages on six shapes, above the imports.

    python -m bench.plan                      # measure what is missing, and write the tables of docs/plan.md
    python -m bench.plan --only dpo           # cells whose name has this part
    python -m bench.plan --show               # the tables, nothing measured

Every cell is the stage's own function in a process of its own, three optimiser steps. The table of cards is made by the
planner alone.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bench.page import table, write_between
from bench.plan.cards import cards
from bench.plan.cells import STAGES, WAYS, cell
from bench.plan.said import said
from bench.speed.sides import prepare, run
from bench.speed.store import ROOT, commit, machine

RESULTS = Path(__file__).parent / "results.json"
BUILD = ROOT / "build/plan"
PAGE = ROOT / "docs/plan.md"
WITHIN = 0.15
Record = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.plan", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", action="append", default=[], help="part of a cell's name")
    parser.add_argument("--show", action="store_true", help="nothing is measured")
    arguments = parser.parse_args()
    if not arguments.show:
        measure(arguments.only)
        write_between(PAGE, "measured", measured_lines(kept()))
        write_between(PAGE, "cards", cards())
    print("\n".join([*measured_lines(kept()), "", *cards()]))


def kept() -> Record:
    return json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {"cells": {}}


def measure(only: list[str]) -> None:
    record = kept() | {"machine": machine(), "commit": commit()}
    for way in WAYS:
        for stage in STAGES:
            one = cell(way, stage)
            if one.name in record["cells"] or (only and not any(part in one.name for part in only)):
                continue
            folder = prepare(one, BUILD)
            took = run(one, "ours", folder)
            tokens = json.loads((folder / "tokens.json").read_text("utf-8"))
            lengths = [[len(row[name]) for name in ("prompt", "chosen", "rejected")] for row in tokens]
            record["cells"][one.name] = {"peak": took["peak_net"] * 2**20, "lengths": lengths}
            RESULTS.write_text(json.dumps(record) + "\n", encoding="utf-8")
            print(f"{one.name}: {took['peak_net']:,.0f} MB", file=sys.stderr, flush=True)


def measured_lines(record: Record) -> list[str]:
    """A row a cell: measured, said, their ratio, and the largest terms; then how many are within the bound."""
    rows, ratios = [], []
    for way in WAYS:
        for stage in STAGES:
            found = record["cells"].get(cell(way, stage).name)
            if found is None:
                continue
            need = said(way, stage, found["lengths"])
            ratios.append(need.peak / found["peak"])
            largest = sorted(need.terms.items(), key=lambda term: -term[1])[:3]
            rows.append(
                [
                    stage,
                    f"{way.shape.name.removeprefix('plan-')}: {way.what}",
                    f"{found['peak'] / 2**20:,.0f}",
                    f"{need.peak / 2**20:,.0f}",
                    f"{ratios[-1]:.2f}",
                    ", ".join(f"{name} {size / 2**20:,.0f}" for name, size in largest),
                ]
            )
    if not rows:
        return ["Nothing is measured yet."]
    good = sum(abs(ratio - 1) <= WITHIN for ratio in ratios)
    header = ["stage", "shape", "measured, MB", "said, MB", "said ÷ measured", "largest terms, MB"]
    summary = (
        f"{good} of {len(ratios)} within {WITHIN:.0%}; the furthest are {min(ratios):.2f} and {max(ratios):.2f}. "
        f"{record['machine']}, commit {record['commit']}."
    )
    return [*table(header, rows, texts=2), "", summary]


if __name__ == "__main__":
    main()
