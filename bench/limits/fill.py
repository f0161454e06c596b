"""Runs and registered versions as preflow leaves them in MLflow's database, put there by SQL: the server takes minutes
for what this takes seconds. A run in fourteen is a pipeline, the others are its stages."""

import hashlib

POINTS, KEYS, PARAMS, STAGES = 1000, 50, 38, 14
"""Of a run, as those of `make run` have on average; and the runs of a pipeline, its own included."""
_START = 1_700_000_000_000


def run_of(number: int) -> str:
    """Id of a run."""
    return hashlib.md5(f"run {number}".encode()).hexdigest()


def runs(experiment: str, first: int, last: int) -> list[str]:
    """Statements that add the runs `first` to `last`, with all that belongs to them."""
    series = f"generate_series({first}, {last}) as i"
    run, parent = "md5('run ' || i)", f"md5('run ' || i - i % {STAGES})"
    tags = {
        "preflow.run": f"'filled-' || i / {STAGES}",
        "preflow.kind": f"case when i % {STAGES} = 0 then 'pipeline' else 'stage' end",
        "preflow.state": "'ran'",
        "preflow.stage": f"'stage' || i % {STAGES}",
        "preflow.key": "md5('key ' || i)",
        "mlflow.runName": f"'stage' || i % {STAGES}",
        "dvc.out.data/10_rl/policy": "md5('policy ' || i) || '.dir'",
        "dvc.out.data/10_rl/metrics.json": "md5('metrics ' || i)",
        **{f"system.{number}": f"'a fact of the machine, {number}'" for number in range(8)},
    }
    steps = POINTS // KEYS
    return [
        f"""insert into runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time,
            end_time, deleted_time, source_version, lifecycle_stage, artifact_uri, experiment_id)
            select {run}, 'run ' || i, 'LOCAL', '', '', 'bench', 'FINISHED', {_START} + i * 1000,
            {_START} + i * 1000 + 999, null, '', 'active', 'mlflow-artifacts:/{experiment}/' || {run} || '/artifacts',
            {experiment} from {series}""",
        *(f"insert into tags (key, value, run_uuid) select '{key}', {value}, {run} from {series}"
          for key, value in tags.items()),
        f"""insert into tags (key, value, run_uuid) select 'mlflow.parentRunId', {parent}, {run} from {series}
            where i % {STAGES} <> 0""",
        f"""insert into params (key, value, run_uuid) select 'section.knob' || p, i % 7 || '', {run}
            from {series}, generate_series(1, {PARAMS}) as p""",
        f"""insert into metrics (key, value, timestamp, step, is_nan, run_uuid)
            select 'rl/measure' || k, random(), {_START} + i * 1000 + s, s, false, {run}
            from {series}, generate_series(1, {KEYS}) as k, generate_series(1, {steps}) as s""",
        f"""insert into latest_metrics (key, value, timestamp, step, is_nan, run_uuid)
            select 'rl/measure' || k, random(), {_START} + i * 1000 + {steps}, {steps}, false, {run}
            from {series}, generate_series(1, {KEYS}) as k""",
    ]  # fmt: skip


def versions(name: str, first: int, last: int) -> list[str]:
    """Statements that add the versions `first` to `last` of a registered model, and point `champion` at the first:
    the oldest is what a search in the order of time finds last."""
    series = f"generate_series({first}, {last}) as i"
    tags = {
        "candidate": "'rl'",
        "dvc.path": "'data/10_rl/policy'",
        "dvc.md5": "md5('version ' || i) || '.dir'",
        "dvc.lock.sha256": "md5('a ' || i) || md5('b ' || i)",
        "git.ref": "'refs/preflow/runs/filled-' || i",
        "git.commit": "md5('c ' || i)",
        "preflow.run": "'filled-' || i",
        "scores": "'{}'",
        "digests": """'{"data/10_rl/policy": "' || md5('version ' || i) || '.dir"}'""",
    }
    return [
        f"""insert into model_versions (workspace, name, version, creation_time, last_updated_time, description,
            current_stage, source, run_id, status)
            select 'default', '{name}', i, {_START} + i, {_START} + i, repeat('A line of a model card. ', 100), 'None',
            'models:/m-' || md5('m ' || i), {"md5('run ' || i)"}, 'READY' from {series}""",
        *(f"insert into model_version_tags (workspace, name, version, key, value) select 'default', '{name}', i, "
          f"'{key}', {value} from {series}" for key, value in tags.items()),
        f"""insert into registered_model_aliases (workspace, name, alias, version) values ('default', '{name}',
            'champion', 1) on conflict do nothing""",
    ]  # fmt: skip


def version_md5(number: int) -> str:
    """What the tag `dvc.md5` of a version says."""
    return hashlib.md5(f"version {number}".encode()).hexdigest() + ".dir"
