#!/usr/bin/env bash
# Makes .venv and installs a hashed requirements file and the project into it.
# Usage: tools/setup.sh REQUIREMENTS MARKER
set -euo pipefail
requirements=$1
marker=$2
venv=.venv

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

find_python() {
  for candidate in "${PYTHON:-}" python3.13 python3.12 python3.11 python3; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  fail 'Python 3.11 or newer is needed and was not found. Install it, or name it: make PYTHON=/path/to/python3.12'
}

if [ ! -x "$venv/bin/python" ]; then
  python=$(find_python)
  "$python" -c 'import venv, ensurepip' 2>/dev/null \
    || fail "the venv module of $python is missing. On Debian and Ubuntu: apt-get install python3-venv"
  printf 'setup: making %s with %s\n' "$venv" "$("$python" --version)"
  "$python" -m venv "$venv"
fi

if [ ! -x "$venv/bin/uv" ]; then
  # uv alone first, with its hashes: it installs the rest several times faster than pip.
  only_uv=$(mktemp)
  trap 'rm -f "$only_uv"' EXIT
  awk '/^uv==/ {keep=1} keep {print} keep && !/\\$/ {exit}' "$requirements" > "$only_uv"
  "$venv/bin/python" -m pip install --quiet --require-hashes -r "$only_uv"
fi

printf 'setup: installing %s\n' "$requirements"
if ! "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --require-hashes -r "$requirements"; then
  # pip reads the user's own pip configuration (a mirror, say), which uv does not.
  printf 'setup: uv could not install it; trying pip\n'
  "$venv/bin/python" -m pip install --quiet --require-hashes -r "$requirements"
fi
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps --no-build-isolation -e .
touch "$marker"
