"""The page of a run: `reports/<run>/report.html`, and its short form for MLflow and Prefect."""
