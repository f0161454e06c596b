"""The data gate: data/02_prepared/ in; clean rows by split, quarantine, verdict and page in data/03_validated/ out.

Rules are in data/expectations/. Where one says stop, nothing after this stage runs; the report is then in reports/.
Alone: python -m tasks.validate --params validate --prepared data/02_prepared --expectations data/expectations
       --out data/03_validated
"""

import json
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

from rlhf.errors import DataRefused
from rlhf.records import read_rows, write_json
from tasks.config.validate import Validate
from tasks.journal import Log
from tasks.shapes import KINDS
from tasks.stage import main
from tasks.validation import Context, Stored, Verdict, check, refuse_if_stopped, write_report
from tasks.validation.profile import read_profiles
from tasks.validation.verdict import splits_of


def validate(config: Validate, *, prepared: Path, expectations: Path, out: Path, log: Log) -> None:
    """Judge every kind of data, write what is clean and what is not. Raises DataRefused where a rule says stop."""
    _refuse_few(config, prepared)
    verdicts = judge(config, prepared, expectations)
    kept = write_report(verdicts, out / "report", "validate")
    log.file(kept / "report.html", "validation")
    log.file(kept / "verdict.json", "validation")
    log.file(kept / "quarantine.jsonl", "validation")
    log({f"validate/{name}_{kind}": value for kind in KINDS for name, value in _counts(verdicts[kind]).items()}, 0)
    refuse_if_stopped(verdicts.values(), kept)
    for kind, verdict in verdicts.items():
        _write_clean(Stored(prepared / kind), verdict, out / kind)
    write_json(out / "metrics.json", {"passed": True} | {kind: _counts(verdicts[kind]) for kind in KINDS})


def _refuse_few(config: Validate, prepared: Path) -> None:
    """A handful of rows leaves splits empty, and every rule about shares and quantiles says something by chance."""
    for kind in ("demonstrations", "preferences", "prompts"):
        if kind not in config.required or config.min_rows < 2:
            continue
        refused = [row["rule"] for row in read_rows(prepared / "quarantine") if row["kind"] == kind]
        rows = sum(1 for _ in Stored(prepared / kind).lines()) + len(refused)
        if rows < config.min_rows and "unfinished" not in refused:  # of such a file there is more to say
            raise DataRefused(
                f"{kind}: {rows} row{'s' * (rows != 1)}, at least {config.min_rows} are needed (validate.min_rows): a "
                "run trains on most, chooses by some and measures on others; add some hundred"
            )


def judge(config: Validate, prepared: Path, expectations: Path) -> dict[str, Verdict]:
    """What the gate says of every kind of prepared data; nothing is written. Where `expectations` holds a profile.json
    of an earlier run, drift is measured from it. Raises PreflowError where that is no profile."""
    reference = read_profiles(expectations / "profile.json")
    rows = {kind: Stored(prepared / kind) for kind in KINDS}
    context = Context.of(chain.from_iterable(rows[kind] for kind in KINDS if kind != "corpus"))
    verdicts: dict[str, Verdict] = {}
    for kind in KINDS:
        rejects = [row for row in read_rows(prepared / "quarantine") if row["kind"] == kind]
        verdicts[kind] = check(
            kind,
            rows[kind],
            config,
            context,
            expectations=expectations,
            rejects=rejects,
            reference=reference.get(kind),
        )
    return verdicts


def _write_clean(rows: Stored, verdict: Verdict, folder: Path) -> None:
    """The clean rows as they are written already, each to the file of its split."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        files = {
            split: stack.enter_context((folder / f"{split}.jsonl").open("w", encoding="utf-8", newline="\n"))
            for split in splits_of(verdict.kind)
        }
        for line, clean in zip(rows.lines(), verdict.kept):
            if clean and (split := json.loads(line)["split"]) in files:
                files[split].write(line)


def _counts(verdict: Verdict) -> dict[str, int]:
    return {"rows": verdict.total, "clean": verdict.clean, "set_aside": verdict.set_aside}


if __name__ == "__main__":
    main(validate)
