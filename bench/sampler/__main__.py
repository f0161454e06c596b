"""Our sampler beside transformers' `generate`, in this project's own environment: tokens a second on equal lengths.

    python -m bench.sampler                        # five pairs of all four cells, and the table of docs/speed.md
    python -m bench.sampler --only stories3M       # cells of a model or of a mode (sampled, greedy)
    python -m bench.sampler --show                 # the table of what is kept

Each side is a process of its own with one thread, in turns. Pairs are kept in bench/sampler/results and are measured
again when code that runs in them has changed; it can be stopped at any time and goes on where it was.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from bench.page import table, write_between
from bench.speed.sides import python
from bench.speed.store import ROOT, commit, machine
from tasks.closure import closure

RESULTS = Path(__file__).parent / "results"
BUILD = ROOT / "build/sampler"
PAGE = ROOT / "docs/speed.md"
CELLS = [(model, mode) for model in ("tiny", "stories3M") for mode in ("sampled", "greedy")]
BATCHES = {"sampled": (64, 512), "greedy": (64,)}
"""Rows at a time that transformers tries in the first pair; it keeps the faster."""
PAIRS = 5
HEADER = [
    "model", "decoding", "completions", "tokens", "ours, tokens/s", "generate, tokens/s",
    "ours ÷ generate, median (least–most)", "by the clock", "tokens that differ", "log-probabilities: largest gap",
    "gaps > 1e-5", "trainer from float64: largest gap", "pairs",
]  # fmt: skip
Record = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sampler", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", action="append", default=[], help="cells of a model or a mode")
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"of each cell ({PAIRS})")
    parser.add_argument("--show", action="store_true", help="the table of what is kept, nothing measured")
    arguments = parser.parse_args()
    chosen = [cell for cell in CELLS if set(arguments.only) <= set(cell)]
    if not chosen:
        sys.exit(f"no cell is meant by {arguments.only}")
    if not arguments.show:
        for model, mode in chosen:
            _measure(model, mode, arguments.pairs)
        write_between(PAGE, "sampler", page_lines())
    print("\n".join(page_lines()))


def _measure(model: str, mode: str, pairs: int) -> None:
    record = _begun(model, mode)
    while len(record["pairs"]) < pairs:
        record["pairs"].append(_pair(model, mode, record["pairs"]))
        RESULTS.mkdir(exist_ok=True)
        _path(model, mode).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        print(f"{model} {mode}: {ratios(record)[-1]:.2f} times generate", file=sys.stderr, flush=True)


def _pair(model: str, mode: str, before: list[Record]) -> Record:
    """Both sides in turns, and each first in turn. Raises SystemExit where they did not do the same work."""
    BUILD.mkdir(parents=True, exist_ok=True)
    mine, other = (BUILD / f"{model}-{mode}-{side}.json" for side in ("ours", "theirs"))
    batches = [before[0]["theirs"]["batch"]] if before else BATCHES[mode]

    def theirs() -> Record:
        return _run(other, ["theirs", model, mode, str(other), str(mine), *map(str, batches)])

    ours = ["ours", model, mode, str(mine)]
    if len(before) % 2:
        found = {"theirs": theirs(), "ours": _run(mine, ours)}
    else:
        found = {"ours": _run(mine, ours), "theirs": theirs()}
    ids = {side: found[side].pop("ids") for side in ("ours", "theirs")}
    sizes = [len(one) for one in ids["ours"]]
    if mode == "sampled" and sizes != [len(one) for one in ids["theirs"]]:
        raise SystemExit(f"{model}: completions of ours and of generate are not of the same lengths")
    differ = _differing(ids["ours"], ids["theirs"]) if mode == "greedy" else None
    return found | {"completions": len(sizes), "tokens": sum(sizes), "differ": differ, "spread": _spread(sizes)}


def _run(result: Path, arguments: list[str]) -> Record:
    python(".venv", ["bench.sampler.side", *arguments], result.with_suffix(".log"))
    found: Record = json.loads(result.read_text("utf-8"))
    return found


def _differing(ours: list[list[int]], theirs: list[list[int]]) -> int:
    """Tokens that are not the same on both sides, those that one side alone has counted too."""
    pairs = list(zip(ours, theirs, strict=True))
    return sum(a != b for left, right in pairs for a, b in zip(left, right, strict=False)) + sum(
        abs(len(left) - len(right)) for left, right in pairs
    )


def _spread(sizes: list[int]) -> list[int]:
    """Least, quartiles and most."""
    ordered = sorted(sizes)
    return [ordered[round(share * (len(ordered) - 1))] for share in (0, 0.25, 0.5, 0.75, 1)]


def ratios(record: Record, by: str = "processor_seconds") -> list[float]:
    """generate's seconds over ours, of each pair: the tokens are as many."""
    return [pair["theirs"][by] / pair["ours"][by] for pair in record["pairs"]]


def page_lines() -> list[str]:
    """The table, and what it was measured on."""
    found = [record for cell in CELLS if (record := _load(*cell)) is not None and record["pairs"]]
    if not found:
        return ["Nothing has been measured yet."]
    stale = [record for record in found if record["digest"] != digest()]
    versions = found[0]["pairs"][0]["ours"]["versions"]
    about = ", ".join(f"{name} {number}" for name, number in versions.items())
    commits = ", ".join(sorted({record["commit"] for record in found}))
    spreads = "; ".join(f"{one['model']} {one['mode']} {_joined(one['pairs'][0]['spread'])}" for one in found)
    notes = [
        f"Measured on: {found[0]['machine']}, one thread; {about}. Commits {commits}. Rates and ratios are of "
        f"processor time. Lengths of completions, least, quartiles and most: {spreads}.",
        *(["", "‡ measured on earlier code."] if stale else []),
    ]
    return [*table(HEADER, [_line(one, one in stale) for one in found], texts=2), "", *notes]


def _joined(values: list[int]) -> str:
    return ", ".join(map(str, values))


def _line(record: Record, stale: bool) -> list[str]:
    pairs, found = record["pairs"], ratios(record)
    rates = [median(one["tokens"] / one[side]["processor_seconds"] for one in pairs) for side in ("ours", "theirs")]
    last = pairs[-1]
    return [
        record["model"],
        record["mode"] + (" ‡" if stale else ""),
        str(last["completions"]),
        f"{last['tokens']:,}",
        *(f"{rate:,.0f}" for rate in rates),
        f"**{median(found):.2f}** ({min(found):.2f}–{max(found):.2f})",
        f"{median(ratios(record, 'seconds')):.2f}",
        "–" if last["differ"] is None else str(last["differ"]),
        f"{last['ours']['gap']:.1e}",
        f"{100 * last['ours']['beyond']:.2f}%",
        f"{last['ours']['rounding']:.1e}",
        str(len(pairs)),
    ]


def digest() -> str:
    """Of all code that the sides run, and of what pins transformers."""
    own = [f"bench/sampler/{name}.py" for name in ("side", "task")]
    names = {*own, "constraints.txt", *closure("rlhf.sampler", ROOT), *closure("rlhf.models", ROOT)}
    total = hashlib.sha256()
    for name in sorted(names):
        total.update(f"\n{name}\n".encode() + (ROOT / name).read_bytes())
    return total.hexdigest()[:16]


def _path(model: str, mode: str) -> Path:
    return RESULTS / f"{model}-{mode}.json"


def _load(model: str, mode: str) -> Record | None:
    path = _path(model, mode)
    record: Record | None = json.loads(path.read_text("utf-8")) if path.exists() else None
    return record


def _begun(model: str, mode: str) -> Record:
    record, now, here = _load(model, mode), digest(), machine()
    if record is not None and (record["digest"], record["machine"]) == (now, here):
        return record
    return {"model": model, "mode": mode, "digest": now, "machine": here, "commit": commit(), "pairs": []}


if __name__ == "__main__":
    main()
