#!/usr/bin/env bash
# The environments of bench/parity, with peft in the newer one for the cells with adapters.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

bench/parity/setup.sh
[ ! -e .venv-trl/.peft ] || exit 0
if uv --version >/dev/null 2>&1; then
  export UV_FIND_LINKS="${UV_FIND_LINKS:-$(tr ' ' ',' <<<"${PIP_FIND_LINKS:-}")}"
  uv pip install -q --python .venv-trl/bin/python peft -c constraints.txt
else
  .venv-trl/bin/python -m pip install -q --disable-pip-version-check peft -c constraints.txt
fi
touch .venv-trl/.peft
