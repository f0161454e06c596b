"""Prefect: what runs when. Flows call tasks, tasks call rlhf, never back; importing a flow imports no torch."""
