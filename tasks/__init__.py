"""The stages, one a file, and the adapters between them and DVC, MLflow and Great Expectations."""

import gc
import sys
from importlib.util import find_spec

# Imports make a million objects that stay, and Python would go through them again for every 700 more.
gc.set_threshold(10_000)

# `dvc repro` runs whatever `python` is first in PATH: say so in one line instead of an ImportError deep inside a stage.
_needed = ("torch", "transformers", "pydantic", "psutil", "ruamel.yaml")
_missing = [name for name in _needed if find_spec(name.split(".")[0]) is None]
if _missing:
    sys.exit(
        f"preflow: {sys.executable} has no {', '.join(_missing)}: run `make repro`, or put .venv/bin first in PATH."
    )

# What started a stage may be killed while the stage imports torch and transformers, which takes seconds.
from tasks import orphans  # noqa: E402  after the check, which gives the better message

if orphans.is_started_for_us():
    orphans.end_with_starter()

# Here, because it must come before the libraries that read these variables, however a stage was started.
from tasks.variables import set_defaults  # noqa: E402

set_defaults()
