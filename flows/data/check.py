"""`preflow data check`: what a careful person would want to know of a file before anything is trained on it.

The files go through the same readers, splits and rules as in a run, in a folder that is thrown away; nothing of a
project is read but its rules and limits, and nothing is written but one HTML page.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count as numbers
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from rlhf.errors import DataRefused, PreflowError

if TYPE_CHECKING:
    from tasks.validation import Finding, Verdict

PAGE = "data-check.html"
"""Where the page goes when nobody says."""

_ORIGIN = "origin.json"  # lies beside rows in `data/01_raw`, and tells `prepare` where they are from
_HOME = Path(__file__).resolve().parents[2]
_LINES = 8  # of one rule, on the terminal
_SPREAD = 20  # rows from which on 95% of them are another number than all or half of them
_NOUNS = {"corpus": "documents", "eval": "evaluation prompts"}


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found in some files: verdicts of the kinds they are of."""

    kinds: dict[str, list[str]]  # kind → files
    verdicts: "dict[str, Verdict]"
    unused: dict[str, list[str]]  # file → columns of it that nothing reads

    @property
    def passed(self) -> bool:
        """Whether a run would go on with these files."""
        return not any(verdict.stopped for verdict in self.verdicts.values())


def check(
    files: Sequence[str], *, kind: str = "", columns: Mapping[str, str] | None = None, model: str = "",
    html: str = "", as_json: bool = False,
) -> int:  # fmt: skip
    """Print what the gate says of these files and write it as a page; returns the exit code, 0 or 3 (refused).

    Args:
        kind: how to read them; "" for what each looks like.
        columns: their names of our fields, as `collect.columns`.
        model: a folder with a tokenizer, to count tokens by.
        html: path of the page; "" for data-check.html in the current folder.

    Raises:
        PreflowError: no such file, kind or tokenizer; a column that is not there; a page that cannot be written. One
            sentence each.
    """
    found = checked(files, kind=kind, columns=columns or {}, model=model)
    path = Path(html or PAGE)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_page(found), encoding="utf-8", newline="\n")
    except OSError as error:
        raise PreflowError(f"--html {path}: the page cannot be written there ({error.strerror})") from error
    if as_json:
        print(json.dumps(_told(found) | {"page": str(path.resolve())}, ensure_ascii=False))
    else:
        from flows.data.show import visible

        print("\n".join(map(visible, [*_lines(found), f"page: {path.resolve()}"])))
    return 0 if found.passed else DataRefused.exit_code


def checked(files: Sequence[str], *, kind: str = "", columns: Mapping[str, str], model: str = "") -> Checked:
    """Read, prepare and judge files, away from any project. Raises as `check` does."""
    from flows.data.columns import unused
    from flows.data.tokens import count, tokenizer_of
    from flows.profiles import PRETRAINED, resolve
    from tasks.config.prepare import Prepare
    from tasks.config.validate import Validate
    from tasks.journal import Log
    from tasks.prepare import prepare
    from tasks.shapes import KINDS
    from tasks.validate import judge

    paths = [_existing(file) for file in files]
    if kind and kind not in KINDS:
        raise PreflowError(f"--kind {kind}: no such kind of data; there are {', '.join(KINDS)}")
    tokenizer = tokenizer_of(model) if model else None
    root = _project()
    params = resolve(root, PRETRAINED).values  # limits of people's texts, not of the embedded world's
    kinds: dict[str, list[str]] = {}
    left: dict[str, list[str]] = {}
    with TemporaryDirectory(prefix="preflow-check-") as folder:
        raw, out = Path(folder) / "raw", Path(folder) / "prepared"
        origins: dict[str, dict[str, Any]] = {one: {} for one in KINDS}
        for path in paths:
            known = kind or _kind_of(path, columns)
            kinds.setdefault(known, []).append(str(path))
            if names := unused(path, known, columns):
                left[str(path)] = names
            _lay(path, raw / known, origins[known], columns)
        for one in KINDS:
            (raw / one).mkdir(parents=True, exist_ok=True)
            (raw / one / _ORIGIN).write_text(json.dumps(origins[one]), encoding="utf-8")
        prepare(Prepare.parse(params.get("prepare") or {}, "prepare"), raw=raw, out=out, log=Log.null())
        config = Validate.parse((params.get("validate") or {}) | {"required": list(kinds)}, "validate")
        verdicts = judge(config, out, root / "data" / "expectations")
        for known in kinds:
            verdicts[known].stopped.extend(_few(verdicts[known], config.min_rows))
        if tokenizer is not None:
            for known in kinds:
                verdicts[known].figures["tokens"] = count(known, out / known, *tokenizer)
    return Checked(kinds, {known: verdicts[known] for known in kinds}, left)


def _few(verdict: "Verdict", least: int) -> "list[Finding]":
    """What a run would refuse a handful of rows for."""
    from tasks.validation import Finding

    if verdict.kind not in ("demonstrations", "preferences", "prompts") or verdict.total >= least:
        return []
    reason = f"{_counted(verdict.total, 'rows')}, at least {least} are needed (validate.min_rows)"
    return [Finding(verdict.kind, "few_rows", "stop", reason, f"{verdict.kind}/")]


def _existing(file: str) -> Path:
    from flows.data.show import refuse_folder
    from tasks.readers import SUFFIXES

    path = Path(file)
    refuse_folder(path)
    if not path.is_file():
        raise PreflowError(f"{file}: no such file")
    if not path.name.endswith(SUFFIXES):
        raise PreflowError(f"{file}: cannot be read; expected a name ending in {', '.join(SUFFIXES)}")
    return path


def _project() -> Path:
    """The project around the current folder, whose rules hold; else the one that this program is part of."""
    here = Path.cwd()
    wanted = ("params.yaml", "dvc.yaml", "data/expectations")
    return next((one for one in (here, *here.parents) if all((one / name).exists() for name in wanted)), _HOME)


def _kind_of(path: Path, columns: Mapping[str, str]) -> str:
    """What most of the first rows look like."""
    from flows.data.columns import SAMPLE, refuse_absent
    from flows.data.show import kind_of
    from tasks.readers import Raw, read
    from tasks.shapes.columns import renamed

    seen: Counter[str] = Counter()
    names: set[str] = set()
    broken = ""
    for found in islice(read(path, 1_000_000), SAMPLE):
        if not isinstance(found, Raw):
            broken = broken or found.reason
            continue
        value = renamed(found.value, columns)
        names.update(found.value)
        known = kind_of(value)
        if known == "prompts":  # data sets that are known by fields of their own may hold more
            known = next((one for one in ("preferences", "demonstrations") if _gives(one, value, found.is_text)), known)
        seen[known] += 1
    if not seen:
        if not broken:
            raise PreflowError(f"{path}: there is no row in it")
        raise PreflowError(
            f"{path}: no row of it can be read, so its kind is not known; mend it, or name its kind by --kind to see "
            f"all that is wrong. The first: {broken}"
        )
    refuse_absent(path, columns, names)
    return max(seen, key=lambda known: (seen[known], known))


def _gives(kind: str, value: Mapping[str, Any], is_text: bool) -> bool:
    """Whether a line gives rows of a kind, with an answer in each."""
    from tasks.shapes import Malformed, canonical_rows
    from tasks.shapes.columns import cells

    try:
        rows = canonical_rows(kind, cells(value) if is_text else value)
    except Malformed:
        return False
    found = (row for row in rows if not isinstance(row, Malformed))
    return any(kind == "preferences" or row["messages"][-1]["role"] == "assistant" for row in found)


def _lay(path: Path, folder: Path, origins: dict[str, Any], columns: Mapping[str, str]) -> None:
    numbered = (path.name if number == 1 else f"{number}-{path.name}" for number in numbers(1))
    name = next(one for one in numbered if one not in origins and one != _ORIGIN)  # that is a file of ours
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).symlink_to(path.resolve())
    about = {"name": path.name.split(".")[0], "origin": str(path), "revision": "", "columns": dict(columns)}
    origins[name] = about


def _page(found: Checked) -> str:
    from tasks.validation.page import page

    files = "; ".join(f"{', '.join(files)} as {kind}" for kind, files in found.kinds.items())
    lead = f"What the gate says of {files}. Rows are named by kind, file and line."
    return page(found.verdicts, " ".join([lead, *(f"{line}." for line in _unused(found))]))


def _told(found: Checked) -> dict[str, Any]:
    from tasks.validation.verdict import summary

    profiles = {kind: verdict.profile for kind, verdict in found.verdicts.items()}
    return summary(found.verdicts) | {"files": found.kinds, "profile": profiles, "unused": found.unused}


def _lines(found: Checked) -> list[str]:
    """For the terminal: counts, what is set aside, what is worth a look, whether a run would go on."""
    lines = []
    for kind, verdict in found.verdicts.items():
        lines += _about(kind, ", ".join(found.kinds[kind]), verdict)
    lines += _unused(found)
    stopped = [finding for verdict in found.verdicts.values() for finding in verdict.stopped]
    lines += [f"stop: {one.place}: {one.rule}: {one.reason}" for one in stopped[:_LINES]]
    rows = sum(verdict.clean for verdict in found.verdicts.values())
    return [
        *lines,
        f"refused: {len(stopped)} to mend" if stopped else f"passed: {_counted(rows, 'rows')} would be trained on",
    ]


def _unused(found: Checked) -> list[str]:
    from flows.data.columns import told_unused

    kinds = {file: kind for kind, files in found.kinds.items() for file in files}
    return [f"{file}: {told_unused(names, kinds[file])}" for file, names in found.unused.items()]


def _about(kind: str, files: str, verdict: "Verdict") -> list[str]:
    counted = _counted(verdict.total, _NOUNS.get(kind, kind))
    lines = [f"{files}: {counted}, {verdict.clean:,} clean, {verdict.set_aside:,} set aside"]
    many = verdict.total >= _SPREAD
    for name, lengths in verdict.profile.get("lengths", {}).items():
        low, _, _, median, _, high, longest = lengths["quantiles"]
        label = name.replace("_chars", "").replace("chars", "document")
        upto = f", 95% up to {high:,}" if many else ""
        lines.append(f"  {label}: {_counted(median, 'characters')} (median), {low:,} to {longest:,}{upto}")
    means = verdict.profile.get("means", {})
    if "length_bias" in means:
        lines.append(f"  the longer answer is chosen in {0.5 + means['length_bias']:.1%} of the pairs")
    if leakage := verdict.figures.get("split_leakage"):
        lines.append(
            f"  leakage: {leakage['by_group']:.1%} of held-out rows ask what training rows ask "
            f"({leakage['by_row']:.1%} if split row by row)"
        )
    if tokens := verdict.figures.get("tokens"):
        counted = ", ".join(
            f"{name} {values[1]:,}" + (f" (95% up to {values[2]:,})" if many else "")
            for name, values in tokens["quantiles"].items()
        )
        long = f"; {_counted(tokens['too_long'], 'rows')} longer than {tokens['room']:,} positions"
        lines.append(f"  tokens (median): {counted}{long * bool(tokens['room'])}")
    for rule in (rule for rule in verdict.rules if not rule.passed):
        says = "" if any(rule.says in one.reason for one in rule.examples) else f" · {rule.says}"
        lines.append(f"  {rule.severity}: {rule.rule}: {rule.broken:,}{says}")
        lines += [f"      {one.place}: {one.reason}" for one in rule.examples]
    return lines


def _counted(number: int, things: str) -> str:
    return f"{number:,} {things.removesuffix('s') if number == 1 else things}"
