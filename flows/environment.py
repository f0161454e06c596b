"""Environment variables of everything that a flow starts: no telemetry, no surprises on a slow machine."""

import os

from tasks import variables

OFFLINE = "PREFLOW_HUB_OFFLINE"
"""What HF_HUB_OFFLINE was before everything was told to stay offline: whether the user wants it so (flows/hub.py)."""

VARIABLES = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # A fresh database takes 10 s on an idle machine and 25 s on a busy one; Prefect itself waits for 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}


def set_defaults() -> None:
    """Set what the user has not set. Call before Prefect, MLflow or transformers is imported."""
    os.environ.setdefault(OFFLINE, os.environ.get("HF_HUB_OFFLINE", "0"))
    variables.set_defaults(variables.VARIABLES | VARIABLES)
