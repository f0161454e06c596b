"""Mutation check: would the tests notice? `make mutations` breaks the library in one place at a time and looks.

Each mutation (tools/mutations.yaml) is a text of a file, what to put in its place, and the tests that must fail then.
They run in a copy of the tree, one mutation at a time; before, all of them must pass in the copy as it is. Exit status
1 where a mutant survives.

    python -m tools.mutations            all of them, about two minutes
    python -m tools.mutations clip gae   those with one of these words in their names
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
COPIED = ("rlhf", "tasks", "flows", "tests", "tools", "pyproject.toml", "params.yaml", "environment.json")


@dataclass(frozen=True)
class Mutation:
    """One way to get it wrong."""

    name: str
    file: str
    old: str
    """Occurs exactly once in the file."""
    new: str
    tests: tuple[str, ...]
    """file::function; all of them must fail, each with at least one of its sets of parameters."""


def mutations() -> list[Mutation]:
    """Those of tools/mutations.yaml."""
    rows = YAML(typ="safe").load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return [Mutation(**row | {"tests": tuple(row["tests"])}) for row in rows]


def main(words: Sequence[str]) -> int:
    """Run the mutations whose names hold one of `words`, all without any; the exit status."""
    chosen = [one for one in mutations() if not words or any(word in one.name for word in words)]
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutations-") as folder:
        tree = _copy(Path(folder))
        _import_what_is_slow()
        tests = sorted({test for one in chosen for test in one.tests})
        broken = set(tests) - {test for test, outcome in _outcomes(tree, tests).items() if outcome == "passed"}
        if broken:
            print("these tests do not pass before anything is broken:", *sorted(broken), sep="\n  ")
            return 1
        survivors = [one.name for one in chosen if not _killed(tree, one)]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants killed in {time.monotonic() - started:.0f} s")
    if survivors:
        print("survived:", *survivors, sep="\n  ")
    return 1 if survivors else 0


def mutated(mutation: Mutation, text: str) -> str:
    """The file's text with the mutation. Raises ValueError unless `old` occurs exactly once."""
    found = text.count(mutation.old)
    if found != 1:
        raise ValueError(
            f"mutation `{mutation.name}`: its text occurs {found} times in {mutation.file}, expected once: "
            "bring tools/mutations.yaml up to date"
        )
    return text.replace(mutation.old, mutation.new)


def _copy(folder: Path) -> Path:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def _killed(tree: Path, mutation: Mutation) -> bool:
    file = tree / mutation.file
    whole = file.read_text(encoding="utf-8")
    file.write_text(mutated(mutation, whole), encoding="utf-8")
    try:
        outcomes = _outcomes(tree, mutation.tests)
    finally:
        file.write_text(whole, encoding="utf-8")
    for test in mutation.tests:
        verdict = "killed by " if outcomes[test] == "failed" else f"SURVIVES ({outcomes[test]}) "
        print(f"{mutation.name:<62} {verdict}{test.removeprefix('tests/')}", flush=True)
    return all(outcome == "failed" for outcome in outcomes.values())


def _outcomes(tree: Path, tests: Sequence[str]) -> dict[str, str]:
    """passed, failed or, where it was not even run to its end, missing; of each test in the copy."""
    reading, writing = os.pipe()
    child = os.fork()  # all that is slow to import is there already, and nothing of the library
    if child == 0:
        os.close(reading)
        status = 1
        try:
            with os.fdopen(writing, "w") as pipe:
                _run(tree, tests, pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        lines = [line.rstrip("\n").split(" ", 1) for line in pipe]
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"the process that ran {list(tests)} broke off: status {status}")
    failed, passed = ({test for outcome, test in lines if outcome == which} for which in ("failed", "passed"))
    return {test: "failed" if test in failed else "passed" if test in passed else "missing" for test in tests}


def _run(tree: Path, tests: Sequence[str], pipe: object) -> None:
    import pytest

    class Recorder:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            if report.when == "call" and report.outcome in ("passed", "failed"):
                print(report.outcome, report.nodeid.split("[")[0], file=pipe)  # type: ignore[call-overload]

    os.chdir(tree)
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path[:] = [str(tree), *(path for path in sys.path if Path(path or ".").resolve() != ROOT)]
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    sys.dont_write_bytecode = True  # an edit within one second would be taken for what was compiled before it
    options = ["-q", "-p", "no:cacheprovider", f"--rootdir={tree}", *["-x"] * (len(tests) == 1)]
    pytest.main([*options, *tests], plugins=[Recorder()])
    stray = [
        name for name, module in sys.modules.items() if str(getattr(module, "__file__", "")).startswith(f"{ROOT}/rlhf")
    ]
    if stray:
        raise RuntimeError(f"{stray} come from {ROOT}, not from the copy")


def _import_what_is_slow() -> None:
    import hypothesis  # noqa: F401
    import pydantic  # noqa: F401
    import pytest  # noqa: F401
    import torch
    from transformers import DynamicCache, GPT2LMHeadModel, LlamaForCausalLM  # noqa: F401

    torch.set_num_threads(1)
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]).step()  # the first one imports more than all of the above


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
