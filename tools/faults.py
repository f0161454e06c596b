"""The fault matrix: run every case and write what happened into docs/faults.md.

    python -m tools.faults                # all cases: an hour and more
    python -m tools.faults -k tracking    # more arguments go to pytest; rows of tests not run stay

A test stands for a case by its marker, `@pytest.mark.faults(7, injected="...", happens="...")`; one test may stand for
several, and several for one. A row of the table is written only by tests that passed.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from bench.page import table, write_between

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/faults.md"
RESULTS = ROOT / "docs/faults.json"
CASES = {
    1: "killed in an optimiser step",
    2: "killed while a checkpoint is written",
    3: "killed between manifest and rename",
    4: "killed after the last step, before the end is noted",
    5: "each stage of a pipeline killed once",
    6: "random killer",
    7: "only the orchestrator killed",
    8: "SIGTERM (preemption)",
    9: "SIGTERM or Ctrl-C twice",
    10: "disk full at a checkpoint",
    11: "disk full at dvc add, in MLflow's store",
    12: "output folder read-only",
    13: "weights cut short",
    14: "one bit of the weights flipped",
    15: "optimiser, schedule or generators' state gone",
    16: "manifest or state empty or cut short",
    17: "checkpoint of another configuration",
    18: "killed while old checkpoints are removed",
    19: "times of files scrambled",
    20: "NaN once",
    21: "NaN for good, infinite gradients",
    22: "KL runs away",
    23: "sampler and trainer disagree",
    24: "every reward the same",
    25: "a reward function that lies",
    26: "reward up, quality down",
    27: "reward server down, slow, broken",
    28: "MLflow down at the start, midway, at the end",
    29: "MLflow answers in ten seconds",
    30: "MLflow run left RUNNING",
    31: "Prefect's server down midway",
    32: "worker and its child killed",
    33: "concurrency slot leaked",
    34: "two runs in one workspace",
    35: "two machines, one run",
    36: "DVC's lock file cut short",
    37: "object of DVC's cache damaged",
    38: "remote half pushed",
    39: "broken lines of JSON",
    40: "broken conversations",
    41: "huge rows",
    42: "control tokens in a user's text",
    43: "hostile Unicode",
    44: "duplicates and leaks between splits",
    45: "swapped, equal and contradictory pairs",
    46: "poisoned preferences",
    47: "data changed after validation",
    48: "secrets in data, settings, environment",
    49: "hostile pickles",
    50: "code with a model, hostile templates, paths out of the folder",
    51: "a rank killed",
    52: "a rank hangs",
    53: "resumed on another number of ranks",
    54: "other clock, zone, locale, folder",
    55: "killed for memory",
    56: "a dependency drifts",
}


@dataclass(frozen=True)
class Claim:
    """What a test says of a case."""

    case: int
    injected: str
    happens: str
    test: str
    lost: str = "nothing"


def claims(item: pytest.Item) -> list[Claim]:
    """Of a collected test. Raises ValueError where its marker lacks something."""
    test = item.nodeid.partition("[")[0]
    found = []
    for marker in item.iter_markers("faults"):
        try:
            found.append(Claim(*marker.args, test=test, **marker.kwargs))
        except TypeError as error:
            raise ValueError(f"{test}: @pytest.mark.faults(NUMBER, injected=..., happens=...): {error}") from error
    return found


class Recorder:
    """A pytest plugin: the claims of all tests that ran, and of those that did not pass."""

    def __init__(self) -> None:
        self.claims: dict[str, list[Claim]] = {}
        self.held: dict[str, bool] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.claims = {item.nodeid: claims(item) for item in items}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        passed = report.passed if report.when == "call" else not (report.failed or report.skipped)
        self.held[report.nodeid] = self.held.get(report.nodeid, True) and passed

    def rows(self) -> tuple[list[Claim], set[str]]:
        """Claims that held in every case of their test, and the tests that ran at all."""
        ran = {nodeid.partition("[")[0] for nodeid in self.held}
        broken = {nodeid.partition("[")[0] for nodeid, held in self.held.items() if not held}
        return list({claim for found in self.claims.values() for claim in found if claim.test in ran - broken}), ran


def main(arguments: Sequence[str]) -> int:
    recorder = Recorder()
    code = int(pytest.main(["-m", "faults", "-q", *arguments], plugins=[recorder]))
    rows, ran = recorder.rows()
    rows += [claim for claim in kept() if claim.test not in ran and _is_there(claim.test)]
    rows.sort(key=lambda claim: (claim.case, claim.test, claim.injected))
    RESULTS.write_text(json.dumps([asdict(claim) for claim in rows], indent=1) + "\n", encoding="utf-8")
    write_between(PAGE, "matrix", lines(rows))
    return code


def kept() -> list[Claim]:
    """What the last runs wrote."""
    return [Claim(**entry) for entry in json.loads(RESULTS.read_text("utf-8"))] if RESULTS.exists() else []


def lines(rows: Sequence[Claim]) -> list[str]:
    """The table, a row for each claim, and what has none."""
    cells = [
        [str(row.case), CASES[row.case], row.injected, row.happens, row.lost, f"[{_name(row.test)}]({_link(row.test)})"]
        for row in rows
    ]
    shown = {row.case for row in rows}
    without = [number for number in CASES if number not in shown]
    head = f"{len(shown)} of {len(CASES)} cases, {len({row.test for row in rows})} tests that passed."
    return [
        head,
        *([f"Not shown yet: {', '.join(map(str, without))}."] if without else []),
        "",
        *table(["", "case", "injected how", "what happened", "lost", "test"], cells, texts=6),
    ]


def _is_there(test: str) -> bool:
    path, _, name = test.partition("::")
    return (ROOT / path).is_file() and f"def {name}(" in (ROOT / path).read_text("utf-8")


def _name(test: str) -> str:
    return Path(test.partition("::")[0]).stem.removeprefix("test_")


def _link(test: str) -> str:
    return f"../{test.partition('::')[0]}"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
