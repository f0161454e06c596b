"""All that wants a GPU, in one command: rates, SFT, sampler, GRPO's time, the stages' tests, and TRL beside it.

    make bench-gpu                                  # everything; half an hour at most
    make bench-gpu ARGS="--only machine --only sft --only sampler --only split"   # three runs of ten minutes
    make bench-gpu ARGS="--only tests"
    make bench-gpu ARGS="--only trl"
    make bench-gpu ARGS="--show"                    # the verdicts of what is kept, into docs/speed.md too
    make bench-gpu ARGS="--rehearse"                # the same steps on the processor with a tiny model

Without make: `python -m bench.gpu` in any Python that has what the stages import. A part is a process of its own that
is ended at its limit on a GPU; what failed is told and the rest goes on. It can be stopped and goes on where it was: a
part that is kept is measured again when its code, a pinned version or the card has changed. Without CUDA it is a
rehearsal, whose figures mean nothing and are not kept as results. Exit code 1 where a part failed, whatever the
verdicts are.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gpu import records
from bench.gpu.parts import LEFT_OUT, PARTS, Part
from bench.gpu.process import Failed, run
from bench.gpu.setting import GPU, REHEARSAL, Setting
from bench.page import table, write_between
from bench.speed.store import ROOT, machine

PAGE = ROOT / "docs/speed.md"
HEADER = ["line", "wanted", "got", "holds"]
REHEARSING = "REHEARSAL ON A PROCESSOR with a tiny model: the figures mean nothing, and none is kept as a GPU's result."


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="make bench-gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", action="append", default=[], metavar="PART", help=f"of {', '.join(_names())}, or trl")
    parser.add_argument("--rehearse", action="store_true", help="on the processor, even where there is a GPU")
    parser.add_argument("--show", action="store_true", help="what is kept, nothing measured")
    arguments = parser.parse_args()
    only = {*arguments.only}
    chosen = [part for part in PARTS if not only or {part.name, part.name.partition("-")[0]} & only]
    if unknown := only - {*_names(), "trl"}:
        sys.exit(f"no part is called {', '.join(sorted(unknown))}: there are {', '.join(_names())}, and trl for three")
    if arguments.show:
        show(GPU, records.RESULTS)
        return
    here = device()
    rehearse = arguments.rehearse or here["card"] is None
    if rehearse:
        print(f"{REHEARSING}\n{_why(here)}\n")
    setting, kept = (REHEARSAL, records.REHEARSED) if rehearse else (GPU, records.RESULTS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the part that runs is ended, too
    failed = measure(chosen, setting, kept, f"{here['card'] or machine()}, torch {here['torch']}")
    show(setting, kept)
    if rehearse:
        print(f"\n{REHEARSING}")
    if failed:
        logs = records.BUILD.relative_to(ROOT)
        sys.exit(f"\n{len(failed)} of {len(chosen)} parts failed: {', '.join(failed)}; logs are in {logs}")


def _names() -> list[str]:
    return [part.name for part in PARTS]


def device() -> dict[str, Any]:
    """The card (None without CUDA) and torch's version; asked in a process of its own, so that none is held here."""
    program = (
        "import json, torch; there = torch.cuda.is_available();"
        "print(json.dumps({'card': torch.cuda.get_device_name() if there else None, 'torch': torch.__version__}))"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(said)
    return found


def _why(here: dict[str, Any]) -> str:
    if here["card"] is not None:
        return f"There is a GPU ({here['card']}), and --rehearse leaves it alone."
    advice = "where there is a card, `bench/gpu/setup.sh` installs a torch for it"
    return f"torch {here['torch']} sees no CUDA device; {advice}."


def measure(parts: Sequence[Part], setting: Setting, kept: Path, where: str) -> list[str]:
    """Measure what is not kept; the names of parts that failed."""
    waiting = [part for part in parts if not records.fresh(records.kept(part, kept), part, setting, where)]
    for part in parts:
        print(f"  {part.name:9} {_time(part, kept)}  {part.about}" + ("" if part in waiting else " (kept)"), flush=True)
    failed = []
    for part in waiting:
        began = time.perf_counter()
        limit = None if setting is REHEARSAL else part.limit  # a busy processor says nothing of the steps
        try:
            found = run(part.name, limit, setting is REHEARSAL, records.BUILD)
        except Failed as error:
            failed.append(part.name)
            print(f"{part.name}: FAILED: {error}", flush=True)
            continue
        took = time.perf_counter() - began
        if LEFT_OUT in found:
            print(f"{part.name}: SKIPPED: {found[LEFT_OUT]}", flush=True)
            continue
        records.keep(part, setting, where, found, took, kept)
        print(f"{part.name}: done in {took:.0f} s", flush=True)
    return failed


def _time(part: Part, kept: Path) -> str:
    """What it took the last time; before that, what it may take."""
    record = records.kept(part, kept)
    return f"at most {part.limit:3} s" if record is None else f"took {record['wall_seconds']:6.0f} s"


def show(setting: Setting, kept: Path) -> None:
    """Print the verdicts, and write those of a GPU into the page."""
    lines = page_lines(setting, kept)
    print("\n".join(["", *lines]))
    if setting is GPU:
        write_between(PAGE, "gpu", lines)


def page_lines(setting: Setting, kept: Path) -> list[str]:
    """One line a verdict, and what it was measured on."""
    rows, places, stale = [], set(), False
    for part in PARTS:
        record = records.kept(part, kept)
        if record is None:
            rows.append([part.about, "", "not measured", "–"])
            continue
        old = record["digest"] != part.digest(setting)
        stale |= old
        places.add(f"{_place(part, record)}, commit {record['commit']}")
        for one in part.verdicts(record["found"]):
            holds = "–" if one.holds is None or setting is not GPU else "yes" if one.holds else "no"
            rows.append([one.line + (" ‡" if old else ""), one.wanted, one.got, holds])
    notes = [*(["", "‡ measured on earlier code."] if stale else [])]
    if places:
        notes += ["", f"Measured on: {'; '.join(sorted(places))}."]
    return [*table(HEADER, rows, texts=4), *notes]


def _place(part: Part, record: records.Record) -> str:
    found = record["found"]
    if "driver" not in found:
        return str(record["machine"])
    return (
        f"{record['machine']} ({found['memory_gib']:.0f} GiB, driver {found['driver']}, CUDA {found['cuda']}, "
        f"transformers {found['transformers']}, Python {found['python']}, {found['host']})"
    )


if __name__ == "__main__":
    main()
