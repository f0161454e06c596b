"""Stages on other machines: sent to a Prefect work pool, done by a worker, and kept as if they had run here.

A worker needs git, the DVC remote and Prefect. The run fixes what the stage starts from as a commit, with code,
parameters and dvc.lock in one (`sending`). A worker restores the inputs that dvc.lock names, runs the same `dvc repro`
of that stage as anybody and sends the outputs to the DVC remote (`stage_work`); what the stage says, and in the end the
entry of DVC's run cache, goes through the exchange, a folder beside that remote (`mail`). With that entry the run's own
DVC restores the stage and writes dvc.lock: the run stays its only writer, and the only one that talks to MLflow.
Checkpoints go to the exchange too, by the stage's key (`mirror`): whoever does the stage next goes on from them.
"""
