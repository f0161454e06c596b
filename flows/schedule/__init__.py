"""`preflow schedule`: retrains that fire by the clock, as deployments on the Prefect server."""
