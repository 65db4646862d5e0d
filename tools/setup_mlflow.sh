#!/usr/bin/env bash
# Makes .venv/mlflow, the environment of the real MLflow that the tests run as a process.
# Usage: tools/setup_mlflow.sh MARKER
# Without it the tests that need it are skipped, and say so; with CI=true a failure is one.
set -euo pipefail
marker=$1
requirements=requirements-mlflow.txt
venv=.venv/mlflow
python=$venv/bin/python

install() {
  [ -x "$python" ] || .venv/bin/python -m venv --without-pip "$venv" || return 1
  .venv/bin/uv pip install --quiet --python "$python" --require-hashes -r "$requirements" && return
  # pip reads the user's own pip configuration (a mirror, say), which uv does not.
  printf 'setup: uv could not install it; trying pip\n'
  .venv/bin/python -m pip --python "$python" install --quiet --require-hashes -r "$requirements"
}

printf 'setup: installing MLflow for the tests (%s, about 1 GB)\n' "$requirements"
if install; then
  touch "$marker"
elif [ "${CI:-}" = true ]; then
  exit 1
else
  printf 'setup: MLflow could not be installed; the tests that need it will be skipped\n' >&2
fi
