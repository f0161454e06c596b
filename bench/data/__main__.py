"""CPU seconds and memory that a file of preferences takes on its way through prepare and the data gate.

    python -m bench.data                   # print the table
    python -m bench.data --write           # and put it into bench/data/README.md
    python -m bench.data --rows 20000

The rows are made up: a question of 20 words that nobody asked before, two answers of 40, now and then an earlier turn;
one line in a hundred is cut short. Each stage is a process of its own, whose peak is what the system says it was.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = Path(__file__).with_name("README.md")
ROWS = (50_000, 100_000, 200_000)
STAGES = ("prepare", "validate")
BEGIN, END = "<!-- written by `python -m bench.data --write` -->\n\n", "\n<!-- / -->"
SYLLABLES = [first + second for first in "bdfgklmnprstvz" for second in ("a", "e", "i", "o", "u", "an", "er", "is")]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.data", description=main.__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--write", action="store_true", help="put the table into bench/data/README.md")
    parser.add_argument("--stage", nargs=2, metavar=("STAGE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        print(json.dumps(_stage(arguments.stage[0], Path(arguments.stage[1]))))
        return
    table = "\n".join([*_head(), *(_line(count) for count in arguments.rows)]) + "\n"
    print(table)
    if arguments.write:
        text = README.read_text(encoding="utf-8")
        before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
        README.write_text(before + table + after, encoding="utf-8")


def _head() -> list[str]:
    names = ["rows", "MB", *(f"{stage}: {what}" for stage in STAGES for what in ("s", "rows/s", "peak MB"))]
    return [f"| {' | '.join(names)} |", f"|{'---:|' * len(names)}"]


def _line(count: int) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = write_raw(folder, count)
        cells = [f"{count:,}", f"{size / 1e6:.0f}"]
        for stage in STAGES:
            command = [sys.executable, "-m", "bench.data", "--stage", stage, str(folder)]
            kept = os.environ | {"PREFLOW_REPORTS": str(folder / "reports")}
            done = subprocess.run(command, cwd=ROOT, env=kept, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            cells += [
                f"{found['seconds']:.0f}",
                f"{count / found['seconds']:,.0f}",
                f"{found['peak']:.0f} ({found['start']:.0f} before the first row)",
            ]
    return f"| {' | '.join(cells)} |"


def write_raw(folder: Path, count: int) -> int:
    from rlhf.records import write_json
    from tasks.shapes import KINDS

    for kind in KINDS:
        (folder / "raw" / kind).mkdir(parents=True)
        write_json(folder / "raw" / kind / "origin.json", {})
    write_json(folder / "raw/preferences/origin.json", {"rows.jsonl": {"name": "generated"}})
    path = folder / "raw/preferences/rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(_lines(count))
    return path.stat().st_size


def _lines(count: int) -> Iterator[str]:
    rng = random.Random(0)
    words = ["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(20_000)]

    def said(length: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(length // 2, length * 3 // 2)))

    for number in range(count):
        turns = [{"role": "user", "content": said(20) + "?"}]
        if number % 5 == 0:
            turns += [{"role": "assistant", "content": said(40)}, {"role": "user", "content": said(20)}]
        row = {"messages": turns, "chosen": said(40), "rejected": said(40), "annotator": f"a{number % 7}"}
        line = json.dumps(row)
        yield (line[:-20] if number % 100 == 99 else line) + "\n"


def _stage(name: str, folder: Path) -> dict[str, float]:
    """Run one stage here; `start` and `peak` are megabytes of the whole process, libraries and all."""
    from tasks.config.prepare import Prepare
    from tasks.config.validate import Validate
    from tasks.journal import Log
    from tasks.prepare import prepare

    if name == "validate":
        import great_expectations  # noqa: F401  takes most of a second, and most of the memory

        from tasks.validate import validate
    start, begin = _peak(), time.process_time()
    if name == "prepare":
        prepare(Prepare(), raw=folder / "raw", out=folder / "prepared", log=Log.null())
    else:
        config = Validate(required=("preferences", "prompts", "eval"))
        suites = ROOT / "data/expectations"
        validate(config, prepared=folder / "prepared", expectations=suites, out=folder / "validated", log=Log.null())
    return {"seconds": time.process_time() - begin, "start": start, "peak": _peak()}


def _peak() -> float:
    """Largest resident size so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    main()
