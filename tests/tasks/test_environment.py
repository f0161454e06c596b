"""environment.json follows constraints.txt, and a stage refuses other versions."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest

from tasks import environment

ROOT = Path(__file__).parents[2]


def test_shipped_file_equals_constraints() -> None:
    assert (ROOT / "environment.json").read_text(encoding="utf-8") == environment.render(ROOT), (
        "run `python -m tasks.environment --write`"
    )


def test_installed_versions_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text(json.dumps({"torch": version("torch").split("+")[0]}))
    environment.check(tmp_path)


@pytest.mark.faults(
    56, injected="another version than results are promised for", happens="every stage refuses, naming it and the cure"
)
def test_other_versions_are_refused_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text('{"numpy": "0.1", "not-a-package": "1"}')
    message = rf"numpy {version('numpy')} instead of 0\.1, not-a-package none instead of 1; .*rm -rf .venv && make "
    with pytest.raises(environment.EnvironmentMismatch, match=message):
        environment.check(tmp_path)


def test_missing_file_says_how_to_write_it(tmp_path: Path) -> None:
    with pytest.raises(environment.EnvironmentMismatch, match="--write"):
        environment.check(tmp_path)


def test_constraints_without_a_needed_pin(tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("# torch==1.0\nnumpy==2.4.6\n")
    with pytest.raises(environment.EnvironmentMismatch, match="bitsandbytes==VERSION"):
        environment.render(tmp_path)


def test_constraints_are_exact_portable_and_sorted() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == sorted(lines)
    assert all(line.count("==") == 1 and not {"+", "@", "/", ";", " "} & set(line) for line in lines)
