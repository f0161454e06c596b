"""The two sides beside each other, as the table of docs/parity.md.

    python -m bench.parity.compare OURS THEIRS... [--write docs/parity.md]

Fails where two sides differ without a stated reason, where a stated reason explains nothing any more, and where no case
with that choice taken out agrees.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from bench import page
from bench.parity.cases import CASES, Case

TOLERANCE = 1e-5
HEADER = ("method", "TRL", "compared", "Δ loss", "Δ gradient", "in float64", "verdict")


@dataclass(frozen=True)
class Found:
    """How far apart the two sides are in one case."""

    case: Case
    version: str
    loss: float
    """|Δ loss| / max(1, |TRL's|)."""
    gradient: float
    """Largest |Δ| of any gradient entry, in units of the largest entry of TRL's."""
    exact: float
    """The larger of both with float32 inside made float64; what is no rounding."""

    @property
    def agrees(self) -> bool:
        return self.gradient <= TOLERANCE and (self.case.gradient_only or self.loss <= TOLERANCE)


def distance(ours: Path, theirs: Path) -> tuple[float, float]:
    """(loss, gradient) between two result files; every parameter of TRL's must have a gradient on our side."""
    left, right = load_file(ours), load_file(theirs)
    names = [name for name in right if name != "loss"]
    if missing := [name for name in names if name not in left]:
        raise SystemExit(f"{ours.name}: no gradient on our side for {missing}")
    largest = max(right[name].abs().max().item() for name in names)
    gap = max((left[name] - right[name]).abs().max().item() for name in names)
    loss, other = left["loss"].item(), right["loss"].item()
    return abs(loss - other) / max(1.0, abs(other)), gap / largest


def measure(ours: Path, theirs: Sequence[Path]) -> list[Found]:
    """All cases, in order. Raises SystemExit where a side has no result."""
    found = []
    for case in CASES:
        folder = next((folder for folder in theirs if (folder / f"{case.name}.safetensors").exists()), None)
        if folder is None or not (ours / f"{case.name}.safetensors").exists():
            raise SystemExit(f"no result of {case.name} in {[str(path) for path in (ours, *theirs)]}")
        version = json.loads((folder / "versions.json").read_text("utf-8"))["trl"]
        plain, exact = (
            distance(*(side / f"{case.name}{suffix}.safetensors" for side in (ours, folder)))
            for suffix in ("", ".float64")
        )
        found.append(Found(case, version, *plain, max(exact[case.gradient_only :])))
    return found


def complaints(found: Sequence[Found]) -> list[str]:
    """What keeps the table from being an explanation."""
    result = []
    for one in found:
        if not one.agrees and not one.case.differs:
            result.append(f"{one.case.name}: differs, and no reason is stated")
        if one.agrees and one.case.differs:
            result.append(f"{one.case.name}: agrees, though a reason for a difference is stated")
    for method in {one.case.method for one in found if one.case.differs}:
        if not any(one.agrees and one.case.changed for one in found if one.case.method == method):
            result.append(f"{method}: differs, and no case with the reason taken out agrees")
    return result


def table(found: Sequence[Found]) -> list[str]:
    """Markdown. Rounding shows as its bound, so that another processor writes the same page."""
    rows = []
    for one in found:
        compared = f"with {one.case.changed}" if one.case.changed else "as shipped"
        verdict = "agrees" if one.agrees else f"differs: {one.case.differs or 'UNEXPLAINED'}"
        loss = "other value" if one.case.gradient_only else bound(one.loss)
        figures = [loss, bound(one.gradient), bound(one.exact)]
        rows.append([one.case.method, one.version, compared, *figures, verdict])
    return page.table(HEADER, rows, texts=len(HEADER))


def bound(value: float) -> str:
    """The next of a few powers of ten above what is rounding, else the number."""
    return next((f"≤ {limit:.0e}" for limit in (1e-12, 1e-6, TOLERANCE) if value <= limit), f"{value:.2g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ours", type=Path)
    parser.add_argument("theirs", type=Path, nargs="+")
    parser.add_argument("--write", type=Path, help="page whose table is replaced")
    arguments = parser.parse_args()
    found = measure(arguments.ours, arguments.theirs)
    lines = table(found)
    print("\n".join(lines))
    if problems := complaints(found):
        sys.exit("\n".join(problems))
    if arguments.write:
        page.write_between(arguments.write, "parity", lines)


if __name__ == "__main__":
    main()
