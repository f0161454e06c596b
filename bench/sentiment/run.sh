#!/usr/bin/env bash
# Happy continuations by preflow and by the newest TRL: same model, openings, reward and budget, one thread, in turns, three seeds.
# The budget is twice the same: as many completions, and (14 openings an update rather than 8) no more seconds than TRL.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

bench/parity/setup.sh
folder=build/sentiment
rm -rf "$folder"
mkdir -p "$folder/base"
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1

.venv/bin/python -m bench.sentiment.ours base "$folder/base"
for seed in 0 1 2; do
  echo "sentiment: seed $seed ..." >&2
  .venv/bin/python -m bench.sentiment.ours train "$folder/base/policy" "$folder/ours-$seed" "$seed" >"$folder/ours-$seed.log" 2>&1
  .venv/bin/python -m bench.sentiment.ours train "$folder/base/policy" "$folder/wide-$seed" "$seed" 14 >"$folder/wide-$seed.log" 2>&1
  .venv-trl/bin/python -m bench.sentiment.theirs "$folder/trl-$seed" "$seed" >"$folder/trl-$seed.log" 2>&1
done
.venv/bin/python -m bench.sentiment.compare "$folder/base/policy" "$folder" --write docs/verifiers.md
