"""What gives first when everything is large: DVC by files, git by refs, MLflow by runs, Prefect by queue, rows.

    python -m bench.limits                  # measure what is missing, the tables of docs/limits.md: half an hour
    python -m bench.limits --only mlflow    # one of dvc, git, mlflow, prefect, rows
    python -m bench.limits --show           # the tables of what is kept

MLflow and Prefect run on a Postgres of their own, by the commands of deploy/compose.yaml: install Postgres, and the
extras `postgres` and `auth`. Results are kept size by size in bench/limits/results; delete a file to measure it again.
"""

import argparse
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from bench.limits import files, plan, queue, record, refs, rows, tracking
from bench.limits.table import part_lines
from bench.page import write_between
from bench.speed.store import ROOT

PAGE, SHORT = ROOT / "docs/limits.md", ROOT / "docs/scale.md"


@dataclass(frozen=True)
class Part:
    """One table."""

    by: str
    sizes: tuple[int, ...]
    measure: Callable[[Collection[int]], Iterator[tuple[int, record.Point]]]
    programs: Callable[[], dict[str, str]]


PARTS = {
    "rows": {"rows": Part("pairs", (1_000, 10_000, 100_000), rows.held, rows.installed)},
    "dvc": {"dvc": Part("files", (1_000, 10_000, 100_000), files.files, files.installed)},
    "git": {
        "git": Part("refs", (1_000, 10_000, 100_000), refs.refs, refs.installed),
        "git-read": Part("refs", (10, 100, 1_000), refs.read, refs.installed),
    },
    "mlflow": {
        "mlflow": Part("runs", (100, 1_000, 10_000), tracking.runs, tracking.installed),
        "registry": Part("versions", (1_000, 10_000, 100_000), tracking.registry, tracking.installed),
    },
    "prefect": {"prefect": Part("flow runs", (10, 100, 1_000), queue.queued, queue.installed)},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.limits", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=PARTS, help="one part; may be given again")
    parser.add_argument("--show", action="store_true", help="nothing is measured")
    arguments = parser.parse_args()
    wanted = {name: part for group in arguments.only or PARTS for name, part in PARTS[group].items()}
    if not arguments.show:
        for name, part in wanted.items():
            missing = [size for size in part.sizes if str(size) not in record.load(name)["sizes"]]
            for size, point in part.measure(missing) if missing else ():
                record.keep(name, size, point, part.programs())
    for name, part in wanted.items():
        lines = part_lines(part.by, record.load(name))
        if not arguments.show:
            write_between(PAGE, name, lines)
        print("\n".join([f"{name}:", *lines, ""]))
    if not arguments.show:
        write_between(SHORT, "limits", plan.lines())


if __name__ == "__main__":
    main()
