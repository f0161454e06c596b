"""The data gate: data/02_prepared/ in; clean rows by split, quarantine, verdict and page in data/03_validated/ out.

Rules are in data/expectations/. Where one says stop, nothing after this stage runs; the report is then in reports/.
Alone: python -m tasks.validate --params validate --prepared data/02_prepared --expectations data/expectations
       --out data/03_validated
"""

from itertools import chain
from pathlib import Path

from rlhf.records import read_rows, write_json, write_rows
from tasks.config.validate import Validate
from tasks.journal import Log
from tasks.shapes import KINDS
from tasks.stage import main
from tasks.validation import Context, Verdict, check, refuse_if_stopped, write_report
from tasks.validation.verdict import splits_of


def validate(config: Validate, *, prepared: Path, expectations: Path, out: Path, log: Log) -> None:
    """Judge every kind of data, write what is clean and what is not. Raises DataRefused where a rule says stop."""
    rows = {kind: list(read_rows(prepared / kind)) for kind in KINDS}
    refused = list(read_rows(prepared / "quarantine"))
    context = Context.of(chain.from_iterable(rows[kind] for kind in KINDS if kind != "corpus"))
    verdicts: dict[str, Verdict] = {}
    for kind in KINDS:
        rejects = [row for row in refused if row["kind"] == kind]
        verdicts[kind] = check(kind, rows[kind], config, context, expectations=expectations, rejects=rejects)
    kept = write_report(verdicts, out / "report", "validate")
    log.file(kept / "report.html", "validation")
    log.file(kept / "verdict.json", "validation")
    log.file(kept / "quarantine.jsonl", "validation")
    log({f"validate/{name}_{kind}": value for kind in KINDS for name, value in _counts(verdicts[kind]).items()}, 0)
    refuse_if_stopped(verdicts.values(), kept)
    for kind, verdict in verdicts.items():
        for split in splits_of(kind):
            chosen = [row for row in verdict.clean if row["split"] == split]
            write_rows(out / kind / f"{split}.jsonl", chosen)
    write_json(out / "metrics.json", {"passed": True} | {kind: _counts(verdicts[kind]) for kind in KINDS})


def _counts(verdict: Verdict) -> dict[str, int]:
    return {"rows": verdict.total, "clean": len(verdict.clean), "set_aside": verdict.set_aside}


if __name__ == "__main__":
    main(validate)
