"""How time and memory of the stages grow with their rows, and what doubling the groups or prompts of RL costs.

    python -m bench.growth                     # measure what is missing, the table and plot of docs/speed.md
    python -m bench.growth --only sft          # one of prepare, validate, sft, "reward model", sampling, rl
    python -m bench.growth --show              # the table of what is kept

Every point is a process of its own with one thread, and is kept in bench/growth/results; --again measures anew.
"""

import argparse
import json
import math
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.growth.stages import BASE, TIMES
from bench.page import table, write_between
from bench.speed.cell import Cell
from bench.speed.cells import TINY
from bench.speed.sides import prepare, python, run
from bench.speed.store import ROOT, commit, machine

RESULTS = Path(__file__).parent / "results"
BUILD = ROOT / "build/growth"
PAGE, PLOT = ROOT / "docs/speed.md", ROOT / "docs/img/growth.svg"
RL = Cell("grpo", TINY, "short", 8, 2, warmup=1, group=8, new_tokens=48)
DOUBLED = {"once": RL, "groups twice as large": replace(RL, group=16), "twice the prompts": replace(RL, rows=16)}
ROUNDS = 5
"""Of RL, whose points are a second each."""
Record = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", action="append", default=[], help="stages, or rl")
    parser.add_argument("--again", action="store_true", help="measure what is kept, too")
    parser.add_argument("--show", action="store_true", help="nothing is measured")
    arguments = parser.parse_args()
    if unknown := set(arguments.only) - {*BASE, "rl"}:
        sys.exit(f"no stage is called {', '.join(sorted(unknown))}: expected {', '.join([*BASE, 'rl'])}")
    if not arguments.show:
        for stage in arguments.only or [*BASE, "rl"]:
            _measure(stage, arguments.again)
        write_between(PAGE, "growth", page_lines())
        _plot()
    print("\n".join(page_lines()))


def _measure(stage: str, again: bool) -> None:
    record = {} if again else _load(stage)
    record |= {"machine": machine(), "commit": record.get("commit", commit())}
    points: Record = record.setdefault("points", {})
    for name in DOUBLED if stage == "rl" else map(str, TIMES):
        if name not in points:
            points |= _doubled() if stage == "rl" else {name: _point(stage, int(name))}
            RESULTS.mkdir(exist_ok=True)
            _path(stage).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
            print(f"{stage}, {name}: {points[name]['processor_seconds']:.2f} s", file=sys.stderr, flush=True)


def _point(stage: str, times: int) -> Record:
    if not (BUILD / "policy_rm").exists():
        _python("bench.growth.inputs", str(BUILD))
    result = BUILD / f"{stage}.json"
    _python("bench.growth.point", str(BUILD), stage, str(BASE[stage] * times), str(result))
    found: Record = json.loads(result.read_text("utf-8"))
    return found


def _doubled() -> Record:
    """Two updates of GRPO after one of warm-up, as `make bench` measures them; all in turns, the median of each."""
    runs: dict[str, list[Record]] = {name: [] for name in DOUBLED}
    for _ in range(ROUNDS):
        for name, cell in DOUBLED.items():
            runs[name].append(run(cell, "ours", prepare(cell, BUILD / name.replace(" ", "-"))))
    kept = ("seconds", "processor_seconds", "tokens", "peak_gross")
    return {name: {one: statistics.median(run[one] for run in found) for one in kept} for name, found in runs.items()}


def _python(module: str, *arguments: str) -> None:
    BUILD.mkdir(parents=True, exist_ok=True)
    python(".venv", [module, *arguments], BUILD / f"{module}.log", PREFLOW_REPORTS=str(BUILD / "reports"))


def slope(points: list[tuple[float, float]]) -> float:
    """Of the straight line through the logarithms, by least squares: 1 where twice the rows take twice the time."""
    xs, ys = ([math.log(point[axis]) for point in points] for axis in (0, 1))
    middle_x, middle_y = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True))
    return above / sum((x - middle_x) ** 2 for x in xs)


def page_lines() -> list[str]:
    """Both tables and the plot."""
    header = [
        "stage",
        "rows",
        *(f"{times}×, CPU s" for times in TIMES),
        "start-up, s",
        "slope",
        "peak at 1×, MB",
        "at 30×, MB",
        "growth",
    ]
    kept = {stage: _load(stage) for stage in [*BASE, "rl"]}
    whole = [stage for stage in BASE if len(kept[stage].get("points", {})) == len(TIMES)]
    lines = table(header, [_line(stage, kept[stage]["points"]) for stage in whole])
    if len(points := kept["rl"].get("points", {})) == len(DOUBLED):
        once = points["once"]
        rows = [
            [
                name, f"{one['processor_seconds']:.2f}", f"{one['processor_seconds'] / once['processor_seconds']:.2f}",
                f"{one['tokens']:,}", f"{one['peak_gross']:,.0f}",
            ]
            for name, one in points.items()
        ]  # fmt: skip
        lines += ["", *table(["RL (GRPO, 8 prompts, groups of 8)", "CPU s", "× once", "tokens", "peak, MB"], rows)]
    lines += ["", "![time and memory of five stages against their rows](img/growth.svg)"] if whole else []
    told = {name: sorted({record[name] for record in kept.values() if record}) for name in ("machine", "commit")}
    machines, commits = (", ".join(values) for values in told.values())
    return [*lines, "", f"Measured on: {machines}, one thread. Commits {commits}."]


def _line(stage: str, points: Record) -> list[str]:
    sizes = [points[str(times)] for times in TIMES]
    first, last = sizes[0], sizes[-1]
    return [
        stage,
        f"{first['rows']:,}–{last['rows']:,}",
        *(f"{one['processor_seconds']:.2f}" for one in sizes),
        f"{statistics.median(one['start_up'] for one in sizes):.2f}",
        _slope(sizes, _net(points)),
        f"{first['peak']:,.0f}",
        f"{last['peak']:,.0f}",
        f"{100 * (last['peak'] / first['peak'] - 1):.1f}%",
    ]


def _slope(sizes: list[Record], net: list[float]) -> str:
    """Of the net times, where there is any: a busy machine may take longer to start than for the smallest size."""
    points = [(one["rows"], seconds) for one, seconds in zip(sizes, net, strict=True)]
    return f"**{slope(points):.2f}**" if min(net) > 0 else "–"


def _net(points: Record) -> list[float]:
    """Seconds of processor of each size that its rows took; start-up is what all its points found it to be."""
    start_up = statistics.median(one["start_up"] for one in points.values())
    return [points[str(times)]["processor_seconds"] - start_up for times in TIMES]


def _plot() -> None:
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "growth"
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    time, memory = figure.subplots(1, 2)
    for stage in BASE:
        points = _load(stage).get("points", {})
        if len(points) != len(TIMES):
            continue
        net = _net(points)
        time.loglog(TIMES, [seconds / net[0] for seconds in net], "o-", ms=4, label=stage)
        memory.semilogx(TIMES, [points[str(n)]["peak"] / points["1"]["peak"] for n in TIMES], "o-", ms=4)
    time.loglog(TIMES, TIMES, ":", color="#8a8a8a", label="in proportion")
    memory.axhline(1.1, color="#8a8a8a", linestyle=":")
    memory.set_ylim(bottom=0.95)
    for axes, title in ((time, "processor time net of start-up, × smallest"), (memory, "peak memory, × smallest")):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("rows, × smallest size", fontsize=9)
        axes.set_xticks(TIMES, [str(n) for n in TIMES])
        axes.minorticks_off()
    figure.legend(loc="outside right center", fontsize=9)
    figure.savefig(PLOT, metadata={"Date": None})


def _path(stage: str) -> Path:
    return RESULTS / f"{stage.replace(' ', '-')}.json"


def _load(stage: str) -> Record:
    found: Record = json.loads(_path(stage).read_text("utf-8")) if _path(stage).exists() else {}
    return found


if __name__ == "__main__":
    main()
