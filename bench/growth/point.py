"""One point, in a process of its own: a stage on the smallest size, which is start-up, and then on the size asked for.

    python -m bench.growth.point FOLDER STAGE ROWS RESULT

What is loaded on first use and what the smallest size takes is there before the measured run; the peak after it less
the peak before is what the further rows took.
"""

import json
import sys
import time
from pathlib import Path

from bench.growth.stages import BASE, run
from bench.speed.clock import peak


def main() -> None:
    folder, stage, rows, result = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    run(stage, folder, folder / stage / str(BASE[stage]))
    before, began, processor = peak(), time.perf_counter(), time.process_time()
    run(stage, folder, folder / stage / str(rows))
    found = {
        "rows": rows, "seconds": time.perf_counter() - began, "processor_seconds": time.process_time() - processor,
        "before": before, "peak": peak(),
    }  # fmt: skip
    result.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
