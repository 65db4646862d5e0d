#!/usr/bin/env bash
# Puts Debian's Prometheus and Alertmanager into .venv/prometheus, where the tests run them.
# Usage: tools/setup_prometheus.sh MARKER
# Nothing is installed: packages are fetched and unpacked, which needs no root. Programs that are
# on the PATH are used as they are. Without them the tests that need them are skipped, and say so;
# with CI=true a failure is one.
set -euo pipefail
marker=$1
target=.venv/prometheus
programs='prometheus promtool prometheus-alertmanager'

have_all() {
  for program in $programs; do
    [ -x "$target/bin/$program" ] || return 1
  done
}

link() {
  # Alertmanager is called so by Debian, and plainly so by everybody else.
  for program in $programs; do
    found=$(command -v "$program" || command -v "${program#prometheus-}") || return 1
    ln -sf "$found" "$target/bin/$program"
  done
}

unpack() {
  command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null || return 1
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  # apt-get download writes into the current folder; -o: it need not become another user for that.
  (cd "$folder" && apt-get -q -o APT::Sandbox::User=root -o Acquire::http::Timeout=30 \
      download prometheus prometheus-alertmanager) \
    > "$folder/log" 2>&1 || { tail -n 3 "$folder/log" >&2; return 1; }
  for package in "$folder"/*.deb; do
    dpkg-deb -x "$package" "$folder/unpacked" || return 1
  done
  for program in $programs; do
    install -m 755 "$folder/unpacked/usr/bin/$program" "$target/bin/$program" || return 1
  done
  relocate "$folder/unpacked"
}

relocate() {
  # Debian's Alertmanager reads its templates at an absolute path, which only root could make. Another
  # of the same length is put in its place: templates, below the folder that it is started in.
  built_in=/usr/share/prometheus/alertmanager
  instead=./templates///////////////////////
  [ "${#built_in}" = "${#instead}" ] || return 1
  LC_ALL=C sed -i "s#$built_in#$instead#g" "$target/bin/prometheus-alertmanager" || return 1
  mkdir -p "$target/templates"
  cp "$1$built_in"/*.tmpl "$target/templates/"
}

mkdir -p "$target/bin"
if have_all || link || { printf 'setup: fetching Prometheus and Alertmanager for the tests (about 120 MB unpacked)\n'; unpack; }; then
  touch "$marker"
  exit 0
fi
rm -rf "$target"
{
  printf 'setup: Prometheus and Alertmanager could not be had; the tests that need them will be skipped.\n'
  printf 'setup: On Debian and Ubuntu: apt-get update (as root), then make test again. Elsewhere: put\n'
  printf 'setup: prometheus, promtool and alertmanager on the PATH.\n'
} >&2
[ "${CI:-}" != true ]
