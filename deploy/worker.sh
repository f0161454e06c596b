#!/usr/bin/env bash
# Runs a command in this worker's clone of PREFLOW_REPOSITORY, whose DVC remote is the shared one: worker.sh preflow run
set -euo pipefail
# In a container of a Docker pool: credentials are in this file, and so neither at Prefect nor in `docker inspect`.
# Values are taken as they stand: spaces, quotes and `$` are the password's own, and no piece of it may get into a log.
if [ -n "${PREFLOW_SECRETS:-}" ]; then
  number=0
  while IFS= read -r line || [ -n "$line" ]; do
    number=$((number + 1))
    [[ $line =~ ^[[:space:]]*(#|$) ]] && continue
    if ! [[ $line =~ ^([A-Za-z_][A-Za-z0-9_]*)=(.*)$ ]]; then
      echo "line $number of the file with secrets: expected VARIABLE=value" >&2
      exit 2
    fi
    export "${BASH_REMATCH[1]}=${BASH_REMATCH[2]}"
  done <"$PREFLOW_SECRETS"
fi
: "${PREFLOW_REPOSITORY:?set it in deploy/.env: what git can clone, for instance https://git.example.org/team/preflow.git}"
clone=${PREFLOW_CLONE:-/srv/preflow}

[ -d "$clone/.git" ] || git clone --quiet "$PREFLOW_REPOSITORY" "$clone"
cd "$clone"
dvc remote add --quiet --local --force --default shared "${PREFLOW_REMOTE:-/remote}"
# The code of the clone, not that which the image was built from.
export PYTHONPATH=$clone
exec "$@"
