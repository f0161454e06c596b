"""The tests of the stages on this machine's device: where there is a GPU, every model that a stage loads is on it."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from bench.gpu.setting import Setting
from bench.speed.store import ROOT

WITHOUT = "not (slow or browser or postgres or ssh)"
TOLD = 20
"""Failing tests that are named."""


def measured(setting: Setting, scratch: Path) -> dict[str, Any]:
    """How many passed, failed and were skipped. Raises RuntimeError where pytest itself did not get so far."""
    report = scratch / "tests.xml"
    many = setting.device == "cuda" and importlib.util.find_spec("xdist") is not None
    at_once = ["-n", "4", "--dist", "loadfile"] if many else []
    command = [sys.executable, "-m", "pytest", "-q", "-m", WITHOUT, f"--junitxml={report}", *at_once, *setting.tests]
    done = subprocess.run(command, cwd=ROOT)
    if done.returncode not in (0, 1) or not report.is_file():
        raise RuntimeError(f"pytest ended with {done.returncode}; what it said is above")
    return counted(report)


def counted(report: Path) -> dict[str, Any]:
    """From the report that pytest writes."""
    found: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, "failing": []}
    for case in ElementTree.parse(report).iter("testcase"):
        outcome = "passed"
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "failed"
            found["failing"].append(f"{case.get('classname')}::{case.get('name')}")
        elif case.find("skipped") is not None:
            outcome = "skipped"
        found[outcome] += 1
    return found | {"failing": found["failing"][:TOLD]}
