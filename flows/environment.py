"""Environment variables of everything that a flow starts: no telemetry, no surprises on a slow machine."""

from tasks import variables

VARIABLES = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # A fresh database takes 10 s on an idle machine and 25 s on a busy one; Prefect itself waits for 20 s.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}


def set_defaults() -> None:
    """Set what the user has not set. Call before Prefect, MLflow or transformers is imported."""
    variables.set_defaults(variables.VARIABLES | VARIABLES)
