"""One point, in a process of its own: a stage on next to no rows, twice, and then on the size asked for.

    python -m bench.growth.point FOLDER STAGE ROWS RESULT

The first run loads what is loaded on first use, the second is what every run begins with: a model, the gate's rules.
"""

import json
import sys
import time
from pathlib import Path

from bench.growth.stages import START_UP, run
from bench.speed.clock import peak


def _timed(stage: str, folder: Path, rows: int) -> float:
    """Seconds of processor."""
    began = time.process_time()
    run(stage, folder, folder / stage / str(rows))
    return time.process_time() - began


def main() -> None:
    folder, stage, rows, result = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    few = START_UP[stage]
    _timed(stage, folder, few)
    start_up = _timed(stage, folder, few)
    found = {"rows": rows, "start_up": start_up, "processor_seconds": _timed(stage, folder, rows), "peak": peak()}
    result.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
