#!/usr/bin/env bash
# Makes .venv with exactly the versions of constraints.txt; does nothing, in a few milliseconds, when it is there.
# Knobs: PYTHON=/path/to/python3.12   INSTALLER=pip|uv   PIP_FIND_LINKS, PIP_INDEX_URL (honoured by both installers)
#        PIP_EXTRA_INDEX_URL (by pip, which is then taken)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "preflow: $*" >&2; exit 1; }

# What the environment was made for. The folder belongs to it: a copied or moved checkout has scripts that point elsewhere.
key() {
  { pwd -P; cat pyproject.toml constraints.txt; } | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c1-16
}

# The first Python that runs and is new enough; the plain `python3` first, as it is the one its owner has set up.
find_python() {
  local candidate seen=""
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    # Run it: version managers put `python3.12` on the PATH although no such version is chosen.
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    case $version in
      3.11 | 3.12 | 3.13) command -v "$candidate"; return ;;
      *) seen="${seen:+$seen, }$version" ;;
    esac
  done
  fail "needs Python 3.11, 3.12 or 3.13 and found ${seen:-none}${PYTHON:+ (PYTHON=$PYTHON)}; install one, or name it: make run PYTHON=/path/to/python3.12"
}

check_machine() {
  command -v git >/dev/null || fail "needs git, and there is none on the PATH; install it with your system's package manager"
  git rev-parse --git-dir >/dev/null 2>&1 || fail "$PWD is no git checkout that this user may read, and the versions of data and runs are kept with git; use \`git clone\`, or \`git init\` and a first commit here"
  local free_kb needed=5
  free_kb=$(df -Pk . | awk 'NR == 2 { print $4 }')
  ! usable || needed=1  # most packages are there
  [ "$free_kb" -ge $((needed * 1024 * 1024)) ] || fail "needs $needed GB of free disk for the packages and a first run, and $PWD has $((free_kb / 1024)) MB; make room or clone to another disk"
}

# A plain `torch` on Linux brings 3 GB of CUDA. Without a GPU, and with no package source of the user's own, take PyTorch's CPU build.
wants_cpu_torch() {
  [ "$(uname -s)" = Linux ] || return 1
  nvidia-smi >/dev/null 2>&1 && return 1
  [ -z "$(pip_setting find-links)$(pip_setting index-url)$(pip_setting extra-index-url)" ] || return 1
  [ -z "${UV_FIND_LINKS:-}${UV_INDEX:-}${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]
}

# A setting of pip, from its environment variable or its configuration files; uv reads neither.
pip_setting() {
  local variable
  variable=PIP_$(tr 'a-z-' 'A-Z_' <<<"$1")
  echo "${!variable:-$("$python" -m pip config list 2>/dev/null | sed -n "s/^[a-z]*\.$1='\(.*\)'$/\1/p" | tail -1)}"
}

install_with() {
  local install=("$@") torch
  torch=$(grep '^torch==' constraints.txt)
  if wants_cpu_torch; then
    "${install[@]}" --no-deps "$torch" --index-url https://download.pytorch.org/whl/cpu || return 1
  fi
  "${install[@]}" -e '.[dev]' -c constraints.txt
}

# An environment that runs and was made in this folder is brought up to date in place; others are made anew.
usable() {
  .venv/bin/python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null &&
    grep -qF "$(pwd -P)/.venv" .venv/bin/activate
}

with_uv() {
  local links index
  export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-1}"  # as pip does: some companies have a root certificate of their own
  links=$(pip_setting find-links | tr ' ' ',')  # pip writes spaces, uv commas
  index=$(pip_setting index-url)
  [ -z "$links" ] || export UV_FIND_LINKS="${UV_FIND_LINKS:-$links}"
  [ -z "$index" ] || export UV_INDEX_URL="${UV_INDEX_URL:-$index}"
  { usable || uv venv --clear --python "$python" .venv; } && install_with uv pip install --python .venv/bin/python
}

with_pip() {
  { usable && .venv/bin/python -m pip --version || "$python" -m venv --clear .venv; } && install_with .venv/bin/python -m pip install --disable-pip-version-check
}

attempt() {  # attempt INSTALLER "how long it takes"
  echo "preflow: setting up .venv with $1 and Python $("$python" -V 2>&1 | cut -d' ' -f2), about 2 GB; this takes $2 ..." >&2
  "with_$1" >>"$log" 2>&1
}

explain() {
  if grep -q -i -E 'name resolution|resolve host|unreachable|connection (refused|reset)|dns error|error sending request|failed to connect|NewConnectionError|timed out|ConnectTimeout' "$log"; then
    fail "cannot reach a package index, and the set-up needs one once; connect this machine, or set PIP_INDEX_URL or PIP_FIND_LINKS to a copy of the packages (full output: $log)"
  fi
  fail "the set-up failed: $(grep -i -E 'error|no space|ensurepip' "$log" | tail -1 | cut -c1-200) (full output: $log)"
}

stamp=.venv/.preflow-$(key)
[ ! -e "$stamp" ] || exit 0

python=$(find_python)
check_machine
mkdir -p .preflow
log=.preflow/setup.log
: >"$log"
started=$SECONDS
# uv takes a package from the first index that has its name, which a further index has of many in old versions alone: pip then.
installer=${INSTALLER:-$([ -z "$(pip_setting extra-index-url)" ] && uv --version >/dev/null 2>&1 && echo uv || echo pip)}
if [ "$installer" = uv ] && ! attempt uv "15 seconds to 2 minutes"; then
  [ -z "${INSTALLER:-}" ] || explain
  echo "preflow: uv could not do it; trying pip, which knows other settings ..." >&2
  installer=pip  # for instance an index that is named in pip's own configuration only
  attempt pip "2 to 5 minutes" || explain
elif [ "$installer" = pip ]; then
  attempt pip "2 to 5 minutes" || explain
fi
.venv/bin/python -m flows.first >>"$log" 2>&1 || true  # the first run makes it, then
rm -f .venv/.preflow-*
touch "$stamp"
echo "preflow: .venv is ready after $((SECONDS - started)) s" >&2
