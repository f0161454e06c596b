"""The table of docs/speed.md from what is kept."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from bench import page
from bench.speed.cell import Cell
from bench.speed.store import Record

HEADER = [
    "stage", "setting", "ours, tokens/s", "TRL, tokens/s", "ours ÷ TRL, median (least–most)", "ours ÷ TRL as it comes",
    "at the whole matmul rate", "peak memory: ours ÷ TRL", "share of matmul rate: ours", "share of matmul rate: TRL",
]  # fmt: skip
BUSY = 0.2
"""Cores busy with something else, on average over a side's run, above which a cell is marked."""


def rate(side: Mapping[str, Any]) -> float:
    """Tokens a second by the clock."""
    return float(side["tokens"] / side["seconds"])


def ratios(record: Record, beside: str = "theirs") -> list[float]:
    """Ours over TRL's tokens a second, of each round by itself: what slows the machine down slows both."""
    return [rate(pair["ours"]) / rate(pair[beside]) for pair in record["pairs"]]


def of(record: Record, side: str, name: str) -> float:
    """The median over pairs of what a side measured."""
    return float(median(pair[side][name] for pair in record["pairs"]))


def shares(record: Record, side: str) -> float:
    """Of the matmul rate measured in the same pair."""
    return median(
        record["flops"] / pair[side]["seconds"] / pair["ours"]["machine"]["matmul"] for pair in record["pairs"]
    )


def loaded(record: Record) -> bool:
    """Whether something else ran beside the measurement."""
    others = [side["others"] for pair in record["pairs"] for side in (pair["ours"], pair["theirs"])]
    known = [value for value in others if value is not None]
    return bool(known) and median(known) > BUSY


def line(cell: Cell, record: Record | None, fresh: bool = True) -> list[str]:
    """A cell's line; marked where it is of other code than there is now, or was measured beside other load."""
    if record is None:
        return [cell.stage, cell.setting, *["–"] * (len(HEADER) - 2)]
    if record["not_same"]:
        return [
            cell.stage,
            cell.setting,
            f"not the same work: {'; '.join(record['not_same'])}",
            *[""] * (len(HEADER) - 3),
        ]
    if not record["pairs"]:
        return line(cell, None)
    found = ratios(record)
    marks = ("" if fresh else " ‡") + (" †" if loaded(record) else "")
    return [
        cell.stage,
        cell.setting + marks,
        *(f"{median(rate(pair[side]) for pair in record['pairs']):,.0f}" for side in ("ours", "theirs")),
        f"**{median(found):.2f}** ({min(found):.2f}–{max(found):.2f})",
        f"{median(ratios(record, beside='as_it_comes')):.2f}",
        f"{1 / shares(record, 'theirs'):.2f}",
        f"{of(record, 'ours', 'peak_net') / of(record, 'theirs', 'peak_net'):.2f}",
        *(f"{100 * shares(record, side):.0f}%" for side in ("ours", "theirs")),
    ]


def table(lines: Sequence[Sequence[str]]) -> list[str]:
    """Markdown, with what the marks mean where there are any."""
    rows = page.table(HEADER, lines, texts=2)
    text = "\n".join(rows)
    marks = {"†": f"measured beside other load (more than {BUSY:g} of a core)", "‡": "measured on earlier code"}
    notes = [f"{mark} {meaning}." for mark, meaning in marks.items() if mark in text]
    return [*rows, *([""] if notes else []), *notes]


def by_machine(kept: Sequence[tuple[Cell, Record]]) -> dict[str, list[tuple[Cell, Record]]]:
    """Cells by what they were measured on, in words: figures of two machines are no table."""
    found: dict[str, list[tuple[Cell, Record]]] = {}
    for cell, record in kept:
        found.setdefault(_machine(record) if record["pairs"] else "", []).append((cell, record))
    return found


def _machine(record: Record) -> str:
    machine, versions = record["pairs"][0]["ours"]["machine"], record["pairs"][0]["theirs"]["versions"]
    packages = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers"))
    where = ", ".join([record["machine"], *filter(None, [machine.get("accelerator")])])
    return f"{where}, {machine['threads']} thread a process; {packages}"


def rates(records: Sequence[Record]) -> str:
    """What the machine did meanwhile, and who was measured, in a sentence or two."""
    pairs = [pair["ours"]["machine"] for record in records for pair in record["pairs"]]
    matmul, bandwidth = ([pair[name] / 1e9 for pair in pairs] for name in ("matmul", "bandwidth"))
    trl = sorted({pair["theirs"]["versions"]["trl"] for record in records for pair in record["pairs"]})
    commits = sorted({record["commit"] for record in records})
    counts = sorted({len(record["pairs"]) for record in records})
    return (
        f"Matmul {min(matmul):.0f}–{max(matmul):.0f} GFLOP/s by the sizes of the shape, memory "
        f"{min(bandwidth):.1f}–{max(bandwidth):.1f} GB/s. TRL {' and '.join(trl)}. Pairs a cell: "
        f"{', '.join(map(str, counts))}. Commits {', '.join(commits)}."
    )


def profiles(measured: Sequence[tuple[Cell, Record]]) -> list[str]:
    """Where the time of our side goes, and the ratio to TRL if only matrix products and attention took any."""
    found = [(cell, record) for cell, record in measured if "profile" in record]
    if not found:
        return []
    first = ("matrix products", "attention")
    kinds = [*first, *sorted(set(found[0][1]["profile"]) - set(first))]
    rows = []
    for cell, record in found:
        shares = record["profile"]
        least = sum(shares[kind] for kind in first)
        rows.append([cell.stage, cell.setting, *(f"{shares[kind]:.0%}" for kind in kinds)])
        rows[-1].append(f"{median(ratios(record)) / least:.1f}")
    header = ["stage", "setting", *kinds, "ours ÷ TRL, were there but the first two"]
    return ["", "Where the time of our side goes:", "", *page.table(header, rows, texts=2)]
