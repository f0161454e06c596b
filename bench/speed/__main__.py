"""Ours beside TRL: tokens a second, memory, and how near both come to what the machine can do.

    make bench [ARGS="--quick"] [ARGS="--only sft"] [ARGS="--only grpo-m60"] [ARGS="--show"]

Every cell is measured in rounds: our process, TRL's with its fast settings, and TRL's as it comes, in turns. It can be
stopped at any time and goes on where it was; a cell is measured again when code that it runs has changed.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from bench.page import write_between
from bench.speed import needs, store
from bench.speed.cell import Cell
from bench.speed.cells import CPU, CUDA, chosen
from bench.speed.rows import lengths_of_steps
from bench.speed.same import differences
from bench.speed.sides import SIDES, prepare, profiled, run
from bench.speed.table import by_machine, line, profiles, rates, ratios, table

BUILD = store.ROOT / "build/speed"
PAGE = store.ROOT / "docs/speed.md"
PAIRS, QUICK_PAIRS = 5, 3
QUICK_SECONDS = 560.0
"""After so long `--quick` begins no further pair."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few cells, three pairs each: ends within ten minutes")
    parser.add_argument("--only", action="append", default=[], help="cells of a stage, shape, or both (dpo-stories3M)")
    parser.add_argument("--show", action="store_true", help="the table of what is kept, nothing measured")
    parser.add_argument("--profile", action="store_true", help="where our side's time goes in cells that are kept")
    parser.add_argument("--pairs", type=int, help=f"of each cell; {PAIRS}, or {QUICK_PAIRS} where quick")
    arguments = parser.parse_args()
    if arguments.show:
        show(CPU + CUDA)
        return
    cells = chosen(device(), arguments.quick, arguments.only)
    if not cells:
        sys.exit(f"no cell is meant by {arguments.only}: name a stage, a shape, or both (dpo-stories3M)")
    pairs = arguments.pairs or (QUICK_PAIRS if arguments.quick else PAIRS)
    until = time.monotonic() + QUICK_SECONDS if arguments.quick else float("inf")
    try:
        for cell in cells:
            if arguments.profile:
                profile(cell)
            else:
                measure(cell, pairs, until)
    finally:
        show(CPU + CUDA)
        write_between(PAGE, "speed", page_lines(CPU + CUDA))


def measure(cell: Cell, pairs: int, until: float, kept: Path = store.RESULTS, build: Path = BUILD) -> store.Record:
    """Add to the cell's record what is missing, keeping it after each pair; the record."""
    record = store.begun(cell, store.digest(cell), kept)
    if not store.missing(record, pairs):
        print(f"{cell.name}: kept", file=sys.stderr)
        return record
    if time.monotonic() > until:
        print(f"{cell.name}: no time left; the same command goes on here", file=sys.stderr)
        return record
    folder = prepare(cell, build)
    timed = [length for step in lengths_of_steps(cell, folder)[cell.warmup :] for length in step]
    record |= {"flops": needs.flops(cell, timed), "bytes": needs.bytes_moved(cell)}
    while store.missing(record, pairs) and time.monotonic() < until:
        # In turns, and each first in turn: what the one leaves behind in caches is met by the next.
        first = len(record["pairs"]) % len(SIDES)
        pair = {side: run(cell, side, folder) for side in (*SIDES[first:], *SIDES[:first])}
        record["not_same"] = differences(cell, pair["ours"], pair["theirs"])
        if not record["not_same"]:
            record["pairs"].append(pair)
        store.keep(cell, record, kept)
        told = "; ".join(record["not_same"]) or f"{ratios(record)[-1]:.2f} times TRL"
        print(f"{cell.name}: pair {len(record['pairs'])} of {pairs}: {told}", file=sys.stderr, flush=True)
    return record


def profile(cell: Cell) -> None:
    """Add to the cell's record where its time goes; one that was not measured has nothing to compare it with."""
    record = store.load(cell)
    if record is None or not record["pairs"]:
        print(f"{cell.name}: not measured yet", file=sys.stderr)
        return
    store.keep(cell, record | {"profile": profiled(prepare(cell, BUILD))})
    print(f"{cell.name}: profiled", file=sys.stderr)


def page_lines(cells: list[Cell]) -> list[str]:
    """A table a machine, and what it was measured on; then where the time goes."""
    kept = [(cell, record) for cell in cells if (record := store.load(cell)) is not None]
    lines: list[str] = []
    for machine, some in by_machine(kept).items():
        lines += [*table([line(cell, record, record["digest"] == store.digest(cell)) for cell, record in some]), ""]
        if machine:
            lines += [f"Measured on: {machine}. {rates([record for _, record in some])}", ""]
    return [*lines[:-1], *profiles(kept)]


def show(cells: list[Cell]) -> None:
    print("\n".join(page_lines(cells)))


def device() -> str:
    """`cuda` where our environment sees one; asked in a process of its own, so that none is held here."""
    program = "import torch; print('cuda' if torch.cuda.is_available() else 'cpu')"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
