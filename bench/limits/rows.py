"""Rows of preferences: bytes of one in the embedded data, how fast it is hashed, and what training holds of one."""

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

import psutil

from bench.limits.clock import Clock
from bench.limits.record import Point, programs
from bench.speed.store import ROOT

WORDS = 2000
HASHED = 2**28


def installed() -> dict[str, str]:
    return programs("torch")


def held(sizes: Collection[int]) -> Iterator[tuple[int, Point]]:
    """By pairs that a reward model is to be trained on; each size in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        about = _embedded(folder)
        for size in sorted(sizes):
            command = [sys.executable, "-m", "bench.limits.rows", str(folder / f"{size}.jsonl"), str(size)]
            done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
            yield size, json.loads(done.stdout) | about


def _embedded(folder: Path) -> Point:
    """What the embedded default's pairs are after `prepare`, and MD5 on one core."""
    from tasks.collect import collect
    from tasks.config.collect import Collect
    from tasks.config.prepare import Prepare
    from tasks.journal import Log
    from tasks.prepare import prepare

    (folder / "inbox").mkdir()
    collect(Collect(), inbox=folder / "inbox", out=folder / "raw", log=Log.null())
    prepare(Prepare(), raw=folder / "raw", out=folder / "prepared", log=Log.null())
    file = folder / "prepared/preferences/rows.jsonl"
    clock, block = Clock(), os.urandom(HASHED)
    took = clock.once(lambda: hashlib.md5(block).hexdigest())
    rows = file.read_bytes().count(b"\n")
    return {"a prepared pair, bytes": [file.stat().st_size / rows], "MD5 a second, bytes": [HASHED / took]}


def main(path: Path, size: int) -> None:
    """Prints what the rows of the file and their comparisons take in memory, as `tasks.reward_model` has both."""
    from rlhf.chat import Chat
    from rlhf.comparisons import by_prompt
    from rlhf.records import read_rows, write_rows

    chat = Chat.from_words([f"w{number}" for number in range(WORDS)])
    write_rows(path, map(_pair, range(size)))
    before = _resident()
    rows = list(read_rows(path))
    kept = by_prompt(chat, rows)
    took = _resident() - before
    if len(kept) != len(rows):
        raise SystemExit(f"{len(rows)} pairs, of {len(kept)} prompts: expected as many")
    print(json.dumps({"pairs and their tokens in memory, bytes": [took], "their file, bytes": [path.stat().st_size]}))


def _pair(number: int) -> dict[str, object]:
    draw = random.Random(number)

    def said(least: int, most: int) -> str:
        return " ".join(f"w{draw.randrange(WORDS)}" for _ in range(draw.randint(least, most)))

    return {
        "id": f"{number:016x}", "group": f"{number:016x}", "source": "made up", "file": "rows.jsonl", "line": number,
        "split": "train", "half": "policy", "messages": [{"role": "user", "content": said(8, 20)}],
        "chosen": said(24, 64), "rejected": said(24, 64),
    }  # fmt: skip


def _resident() -> int:
    """Not the peak, which is that of the imports."""
    return psutil.Process().memory_info().rss


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
