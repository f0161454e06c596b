"""Python imports this at its start where a test has put this folder on PYTHONPATH."""

import importlib.util
import os
import sys
from pathlib import Path

spec = importlib.util.spec_from_file_location("preflow_fault_points", Path(__file__).parents[1] / "points.py")
assert spec and spec.loader
points = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(points)
points.arm(os.environ.get(points.VARIABLE, ""))
