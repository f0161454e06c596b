"""Environment variables of every process of ours: libraries that do not call home."""

import os
from collections.abc import Mapping

# MLflow reads DO_NOT_TRACK only as the word "true".
VARIABLES = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",  # no stage opens a connection; who fetches a source by name lifts this in that process alone
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "TOKENIZERS_PARALLELISM": "false",
}

# What a process of a stage must have from its start: large tensors are made and freed in every step, and glibc would
# give their memory back each time and fetch it again page by page. Kept instead, in huge pages where the system has
# them, a model of 58 million weights trains a tenth faster. No byte of what stages write depends on it.
ALLOCATOR = {
    "GLIBC_TUNABLES": ":".join(
        f"glibc.malloc.{name}={value}"
        for name, value in (("hugetlb", 1), ("mmap_threshold", 2**30), ("trim_threshold", 2**30))
    )
}


def set_defaults(variables: Mapping[str, str] = VARIABLES) -> None:
    """Set each variable that the user has not set. Call before the libraries that read them are imported."""
    for name, value in variables.items():
        os.environ.setdefault(name, value)
