"""Telemetry is off in every process, unless the user says otherwise."""

import os
import subprocess
import sys

import pytest

from flows.environment import VARIABLES as FLOW_VARIABLES
from tasks import variables


def test_defaults_never_overrule_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFLOW_TEST_GIVEN", "mine")
    monkeypatch.delenv("PREFLOW_TEST_UNSET", raising=False)
    variables.set_defaults({"PREFLOW_TEST_GIVEN": "default", "PREFLOW_TEST_UNSET": "default"})
    assert (os.environ["PREFLOW_TEST_GIVEN"], os.environ.pop("PREFLOW_TEST_UNSET")) == ("mine", "default")


def test_a_stage_started_by_hand_is_quiet() -> None:
    """Importing any module of tasks is enough, and it comes before the libraries that read the variables."""
    program = f"import tasks.graph, os; print(*(os.environ[name] for name in {list(variables.VARIABLES)}))"
    inherited = {key: value for key, value in os.environ.items() if key not in variables.VARIABLES | FLOW_VARIABLES}
    result = subprocess.run([sys.executable, "-c", program], env=inherited, capture_output=True, text=True, check=True)
    assert result.stdout.split() == list(variables.VARIABLES.values())
