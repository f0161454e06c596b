"""Files that nobody would write, through every reader and every shape: all of it ends in rows or in named refusals.

    python -m tools.fuzz --minutes 10
    python -m tools.fuzz --seed 12345    # one file again

Each file is a good one of some kind with a few mutations drawn from its seed: bytes flipped, pieces cut out, doubled,
swapped for hostile ones or for pieces of another file, the file cut short, gzip around it broken. Memory is limited and
so is time, so that a file that is merely slow or large counts as a crash. Crashes are kept in build/fuzz, by seed.
"""

import argparse
import csv
import gzip
import io
import json
import random
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf.errors import PreflowError
from tasks.readers import SUFFIXES, Rejected, read
from tasks.redact import masked_value, secret_in, texts_in
from tasks.shapes import KINDS, Malformed, canonical_rows
from tasks.shapes.columns import cells
from tasks.shapes.fields import name_of_group
from tasks.validation.facts import facts_of

BUILD = Path(__file__).parents[1] / "build/fuzz"
MAX_ROW = 1 << 16
"""Bytes of a row that are read."""
SECONDS = 20
"""That one file may take."""
MEMORY = 2 << 30
"""Bytes that the process may take beyond what it had."""
TALK = [{"role": "user", "content": "Why, \u00e9 \U0001f3f4?"}, {"role": "assistant", "content": "So."}]
ROWS: list[dict[str, Any]] = [
    {"text": "A document.", "run_on": True},
    {"messages": TALK},
    {"prompt": "Why?", "completion": "So."},
    {"instruction": "Add.", "input": "1 2", "output": "3"},
    {"prompt": TALK[:1], "chosen": TALK, "rejected": TALK[1:], "score_chosen": 2, "score_rejected": 1.5},
    {"prompt": "Why?", "completions": ["a", "b", "c"], "ranks": [2, 1, 3], "annotator": "ann"},
    {"chosen": "\n\nHuman: Why?\n\nAssistant: So.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."},
    {"messages": TALK[:1], "completion": "So.", "label": True},
    {"question": "1 + 1", "answer": "#### 2"},
    {"Body": "Two apples", "Question": "and one?", "Answer": 3.0, "Equation": "( 2.0 + 1.0 )", "Type": "Addition"},
    {"prompt": {"role": "prompter", "text": "Why?", "lang": "en", "replies": [
        {"role": "assistant", "text": "So.", "rank": 0, "lang": "en", "replies": []}]},
        "message_tree_id": "m", "tree_state": "ready_for_export"},
]  # fmt: skip
HOSTILE = [
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\r", b"\n", b'"', b'""', b"\\", b"\\u", rb"\ud800",
    b"\xed\xa0\x80", b"{", b"}", b"[", b"]", b",", b":", b"NaN", b"-Infinity", b"1e999", b"9" * 400,
    b"null", b"true", b"[" * 5000,
    b"\xcc\x81" * 3000, b"\xe2\x80\xae", b"\xe2\x80\x8b", b"<|im_end|>", b"{{ bos_token }}", b"x" * (MAX_ROW + 10),
    b'"role"', b'"content"', b'"chosen"', b'"messages"', b"\n\nHuman: ", b"\x1f\x8b", b"PAR1", b"\t", b";",
]  # fmt: skip


def good(suffix: str, draw: random.Random) -> bytes:
    """A file that every reader of its kind takes."""
    rows = [draw.choice(ROWS) for _ in range(draw.randint(1, 6))]
    if suffix == ".parquet":
        return _parquet(rows, draw)
    plain = suffix.removesuffix(".gz")
    if plain in (".csv", ".tsv"):
        text = io.StringIO(newline="")
        names = list(rows[0])
        writer = csv.writer(text, delimiter="\t" if plain == ".tsv" else draw.choice(",;"))
        writer.writerows([names, *([str(row.get(name, "")) for name in names] for row in rows)])
        return text.getvalue().encode()
    if plain == ".json" and draw.random() < 0.7:
        return json.dumps(rows, indent=draw.choice([None, 1]), ensure_ascii=draw.random() < 0.5).encode()
    return "".join(json.dumps(row, ensure_ascii=draw.random() < 0.5) + "\n" for row in rows).encode()


def _parquet(rows: list[dict[str, Any]], draw: random.Random) -> bytes:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    names = list(rows[0])
    columns = {name: [json.dumps(row.get(name)) for row in rows] for name in names}
    file = io.BytesIO()
    parquet.write_table(
        arrow.table(columns),
        file,
        compression=draw.choice(["none", "snappy", "gzip"]),
        use_dictionary=draw.random() < 0.5,
    )
    return file.getvalue()


def mutated(data: bytes, other: bytes, draw: random.Random) -> bytes:
    """With up to six mutations."""
    for _ in range(draw.randint(0, 6)):
        at = draw.randint(0, len(data))
        end = min(len(data), at + draw.choice([1, 1, 2, 7, 40, 300]))
        match draw.randrange(6):
            case 0 if at < len(data):
                data = data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
            case 1:
                data = data[:at] + data[end:]
            case 2:
                data = data[:end] + data[at:end] * draw.choice([1, 1, 2, 50]) + data[end:]
            case 3:
                data = data[:at] + draw.choice(HOSTILE) + data[end if draw.random() < 0.5 else at :]
            case 4:
                from_there = draw.randint(0, len(other))
                data = data[:at] + other[from_there : from_there + end - at] + data[end:]
            case _ if draw.random() < 0.3:
                data = data[:at]
    return data


def made(seed: int) -> tuple[str, bytes]:
    """Name and content of the file of a seed."""
    draw = random.Random(seed)
    suffix = draw.choice(SUFFIXES)
    data = mutated(good(suffix, draw), good(draw.choice(SUFFIXES), draw), draw)
    if suffix.endswith(".gz"):
        data = gzip.compress(data, mtime=0)
        data = mutated(data, data, draw) if draw.random() < 0.5 else data
    return f"fuzzed{suffix}", data


def through(path: Path, kind: str) -> Counter[str]:
    """Read a file as rows of a kind, as `prepare` and `validate` do; how many rows, and refusals by rule."""
    found: Counter[str] = Counter()
    for one in read(path, MAX_ROW):
        if isinstance(one, Rejected):
            assert one.reason and one.line >= 1, "a refusal without a reason or a line"
            found[one.rule] += 1
            continue
        try:
            name_of_group(one.value)
            rows = list(canonical_rows(kind, cells(one.value) if one.is_text else one.value))
        except Malformed as error:
            rows = [error]
        for row in rows:
            if isinstance(row, Malformed):
                assert str(row), "a refusal without a reason"
                found[row.rule] += 1
                continue
            json.dumps(row, allow_nan=False, ensure_ascii=False).encode()  # what prepare writes
            if secret_in("\n".join(texts_in(row))):
                assert secret_in("\n".join(texts_in(masked_value(row)))) is None, "a secret that was not masked"
            facts_of(kind, row | {"group": "g"})
            found["rows"] += 1
    return found


@contextmanager
def limited() -> Iterator[None]:
    """Time for one file."""

    def late(*_: object) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def attempt(seed: int, folder: Path) -> tuple[Counter[str], str]:
    """What one seed gave, and the traceback where it crashed."""
    name, data = made(seed)
    path = folder / name
    path.write_bytes(data)
    try:
        with limited():
            return through(path, random.Random(~seed).choice(KINDS)), ""
    except PreflowError as error:
        return Counter({type(error).__name__: 1}), ""
    except Exception:
        (folder / f"crash-{seed}-{name}").write_bytes(data)
        return Counter(), traceback.format_exc()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, help="this file alone")
    parser.add_argument("--first", type=int, default=0, help="seed to begin with")
    given = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    until = time.monotonic() + 60 * given.minutes
    total: Counter[str] = Counter()
    seed, crashes, told = given.first if given.seed is None else given.seed, 0, time.monotonic()
    while True:
        counts, crash = attempt(seed, BUILD)
        total += counts
        seed += 1
        if crash:
            crashes += 1
            print(f"seed {seed - 1} crashed:\n{crash}", flush=True)
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"{seed - given.first} files, {total['rows']} rows, {crashes} crashes", file=sys.stderr, flush=True)
        if given.seed is not None or time.monotonic() > until:
            break
    refused = ", ".join(f"{rule} {count}" for rule, count in total.most_common() if rule != "rows")
    files = 1 if given.seed is not None else seed - given.first
    print(f"{files} files, {total['rows']} rows, refused by rule: {refused or 'nothing'}; {crashes} crashes")
    return 1 if crashes else 0


if __name__ == "__main__":
    raise SystemExit(main())
