#!/usr/bin/env bash
# Runs a command in this worker's clone of PREFLOW_REPOSITORY, whose DVC remote is the shared one: worker.sh preflow run
set -euo pipefail
# In a container of a Docker pool: credentials are in this file, and so neither at Prefect nor in `docker inspect`.
if [ -n "${PREFLOW_SECRETS:-}" ]; then
  set -a
  . "$PREFLOW_SECRETS"
  set +a
fi
: "${PREFLOW_REPOSITORY:?set it in deploy/.env: what git can clone, for instance https://git.example.org/team/preflow.git}"
clone=${PREFLOW_CLONE:-/srv/preflow}

[ -d "$clone/.git" ] || git clone --quiet "$PREFLOW_REPOSITORY" "$clone"
cd "$clone"
dvc remote add --quiet --local --force --default shared "${PREFLOW_REMOTE:-/remote}"
# The code of the clone, not that which the image was built from.
export PYTHONPATH=$clone
exec "$@"
