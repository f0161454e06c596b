"""One part, in a process of its own: `python -m bench.gpu.part NAME RESULT [--rehearse]`; the result is JSON."""

import importlib
import json
import sys
from pathlib import Path

from bench.gpu.beside import Skipped
from bench.gpu.parts import LEFT_OUT, PARTS
from bench.gpu.setting import GPU, REHEARSAL


def main() -> None:
    name, result, *how = sys.argv[1:]
    part = next(part for part in PARTS if part.name == name)
    scratch = Path(result).with_suffix("")
    scratch.mkdir(parents=True, exist_ok=True)
    measured = importlib.import_module(f"bench.gpu.{part.module}").measured
    try:
        found = measured(REHEARSAL if "--rehearse" in how else GPU, scratch, *part.arguments)
    except Skipped as skipped:
        found = {LEFT_OUT: str(skipped)}
    Path(result).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
