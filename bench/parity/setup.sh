#!/usr/bin/env bash
# Makes .venv-trl (newest TRL) and .venv-trl-ppo (the last TRL with PPO) beside .venv; does nothing when they are there.
# Everything that runs the model has the versions of constraints.txt, so both sides run the same model code.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

NEWEST=1.16.0
WITH_PPO=1.12.0

make_one() {  # make_one FOLDER VERSION
  local stamp="$1/.trl-$2"
  [ ! -e "$stamp" ] || return 0
  echo "parity: setting up $1 with trl $2 (about 1 GB) ..." >&2
  if uv --version >/dev/null 2>&1; then
    export UV_FIND_LINKS="${UV_FIND_LINKS:-$(tr ' ' ',' <<<"${PIP_FIND_LINKS:-}")}"  # uv does not read pip's variable
    uv venv -q --clear --python .venv/bin/python "$1"
    uv pip install -q --python "$1/bin/python" "trl==$2" pandas rich -c constraints.txt
  else
    .venv/bin/python -m venv --clear "$1"
    "$1/bin/python" -m pip install -q --disable-pip-version-check "trl==$2" pandas rich -c constraints.txt
  fi
  touch "$stamp"
}

make_one .venv-trl "$NEWEST"
make_one .venv-trl-ppo "$WITH_PPO"
