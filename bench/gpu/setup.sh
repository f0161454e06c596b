#!/usr/bin/env bash
# Where there is an NVIDIA card: a torch with CUDA in .venv, and TRL's environments with one too. Does nothing without.
# Knob: TORCH_INDEX, PyTorch's index of the CUDA that the driver knows.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

INDEX=${TORCH_INDEX:-https://download.pytorch.org/whl/cu130}

with_cuda() {  # with_cuda FOLDER
  local wanted
  ! "$1/bin/python" -c 'import torch; raise SystemExit(torch.version.cuda is None)' || return 0
  wanted="$(grep '^torch==' constraints.txt)+${INDEX##*/}"
  echo "preflow: $1 has a torch without CUDA; installing $wanted (3 GB) ..." >&2
  if uv --version >/dev/null 2>&1; then
    uv pip install -q --python "$1/bin/python" --index-url "$INDEX" "$wanted"
  else
    "$1/bin/python" -m pip install -q --disable-pip-version-check --index-url "$INDEX" "$wanted"
  fi
}

nvidia-smi >/dev/null 2>&1 || exit 0
with_cuda .venv
bench/speed/setup.sh
with_cuda .venv-trl
