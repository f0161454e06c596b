"""Rows in the order in which the stages take them, so that TRL, which is told to keep the order, gets the same batches.

Should a stage change its order, the losses of the first step are no longer the same, and the table says so.
"""

import json
from pathlib import Path

from bench.speed.cell import Cell
from bench.speed.needs import Lengths
from rlhf.epochs import epoch_batches, full_batch, rows_at

Tokens = dict[str, list[int]]
"""`prompt`, `chosen`, `rejected`."""
SEED = 0
"""Of the stages."""


def steps_of(cell: Cell, inputs: Path) -> list[list[Tokens]]:
    """The rows of each step, warm-up included."""
    rows: list[Tokens] = json.loads((inputs / "tokens.json").read_text("utf-8"))
    steps = range(cell.warmup + cell.steps)
    if cell.stage == "sft":
        order = epoch_batches([len(row["prompt"]) + len(row["chosen"]) for row in rows], cell.rows, SEED, 0)
    elif cell.samples:
        order = [full_batch(step, len(rows), cell.rows, SEED) for step in steps]
    else:
        order = [rows_at(step, len(rows), cell.rows, SEED) for step in steps]
    return [[rows[row] for row in order[step]] for step in steps]


def tokens_of_steps(cell: Cell, inputs: Path) -> list[int]:
    """Real tokens of each step's rows, prompts included, of both sides of a pair."""
    return [sum(map(sum, lengths)) for lengths in lengths_of_steps(cell, inputs)]


def lengths_of_steps(cell: Cell, inputs: Path) -> list[list[Lengths]]:
    """(prompt, completion) of every sequence of each step; of stages that sample, of every prompt."""
    return [[length for row in rows for length in _lengths(cell, row)] for rows in steps_of(cell, inputs)]


def _lengths(cell: Cell, row: Tokens) -> list[Lengths]:
    prompt = len(row["prompt"])
    if cell.samples:
        return [(prompt, cell.new_tokens)]
    sides = ("chosen",) if cell.stage == "sft" else ("chosen", "rejected")
    return [(prompt, len(row[side])) for side in sides]
