#!/usr/bin/env bash
# Both sides of the comparison, each in its own environment, then the table of docs/parity.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

bench/parity/setup.sh
folder=build/parity
rm -rf "$folder"
mkdir -p "$folder"
export OMP_NUM_THREADS=1

theirs() {  # theirs ENVIRONMENT RESULTS
  echo "parity: asking $1 ..." >&2
  "$1/bin/python" -m bench.parity.theirs "$folder/inputs" "$folder/$2" >"$folder/$2.log" 2>&1 || {
    tail -20 "$folder/$2.log" >&2
    exit 1
  }
}

.venv/bin/python -m bench.parity.inputs "$folder/inputs"
.venv/bin/python -m bench.parity.ours "$folder/inputs" "$folder/ours" >"$folder/ours.log"
theirs .venv-trl trl
theirs .venv-trl-ppo trl-ppo
.venv/bin/python -m bench.parity.compare "$folder/ours" "$folder/trl" "$folder/trl-ppo" --write docs/parity.md
