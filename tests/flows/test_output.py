"""What a program prints, as it is kept and as it is read."""

import subprocess
from pathlib import Path

import pytest

from flows.output import kept
from tasks import redact


def test_words_are_found_in_what_was_printed_also_where_they_are_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CI job may be called as a stage is: whether that stage ran must not hang on it."""
    monkeypatch.setattr(redact, "_hidden", redact._hidden.__wrapped__)  # not as the environment was
    monkeypatch.setenv("JOB", "evaluate")
    with kept(tmp_path / "a.log") as output:
        subprocess.run(["echo", "Running stage 'evaluate':"], stdout=output.raw, check=True)
        output.pass_on(ended=True)
    assert "Running stage 'evaluate'" in output.plain
    assert "evaluate" not in output.text + (tmp_path / "a.log").read_text()
