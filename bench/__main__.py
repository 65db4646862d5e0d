"""Runs the measurements and writes bench/results.json and bench/RESULTS.md.

``make bench`` runs all of them; ``make bench ARGS="gateway store_writes"`` some. Figures are
medians of one run on one machine; ratios are what can be compared between machines.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
MEASUREMENTS = {
    "gateway": "Gateway against direct, a hand-written Envoy, and a plain proxy",
    "propagation": "Publication of a route to the first request on it",
    "serving": "Our model server against MLServer and KServe's",
    "predictions": "Log of predictions on our model server: off, read, never read",
    "labels": "Predictions kept, and labels joined with a million of them",
    "store_writes": "Audited writes",
    "analysis_tick": "One analysis tick of 1,000 rollouts with 5 metrics",
    "analysis_slices": "Harm to one part of the users: found by the parts, and by the whole alone",
    "canary_table": "Simulated canaries: ours against fixed thresholds and Kayenta's test",
    "registry_lists": "Lists and searches of 10,000 versions and 500 deployments",
    "mlflow_registry": "Registry calls of MLflow users: modelplane against mlflow server",
    "gates": "One suite of a pipeline: sequential, parallel, sharded, cached",
    "drift": "Drift of 1 M rows of 20 columns",
    "start_up": "Start-up and command line",
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    # The peers' environments, about 1.5 GB: built once, in the user's cache.
    "serving": {"cache": Path.home() / ".cache" / "modelplane-bench"},
}


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def markdown(title: str, figures: Any, depth: int = 2) -> list[str]:
    """Return figures as headings and tables: a dict of dicts becomes a table."""
    lines = [f"{'#' * depth} {title}", ""]
    if isinstance(figures, dict) and "table" in figures and isinstance(figures["table"], str):
        return [*lines, figures["table"], ""]
    plain = {k: v for k, v in figures.items() if not isinstance(v, dict | list)}
    if plain:
        lines += ["| figure | value |", "|---|---|"]
        lines += [f"| {name} | {_shown(value)} |" for name, value in plain.items()] + [""]
    nested = {k: v for k, v in figures.items() if isinstance(v, dict)}
    if nested and all(_is_flat(v) for v in nested.values()):
        columns = list(dict.fromkeys(c for row in nested.values() for c in row))
        lines += [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
        for name, row in nested.items():
            cells = " | ".join(_shown(row.get(column, "")) for column in columns)
            lines.append(f"| {name} | {cells} |")
        return [*lines, ""]
    for name, value in nested.items():
        lines += markdown(name, value, depth + 1)
    return lines


def _is_flat(row: dict[str, Any]) -> bool:
    return not any(isinstance(value, dict | list) for value in row.values())


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> int:
    """Run what was asked for, keep the other figures, and write both files."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=")
    parser.add_argument("names", nargs="*", help=f"some of: {', '.join(MEASUREMENTS)}")
    chosen = parser.parse_args().names or list(MEASUREMENTS)
    unknown = set(chosen) - set(MEASUREMENTS)
    if unknown:
        parser.error(f"no measurement {', '.join(sorted(unknown))}")
    file = FOLDER / "results.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for name in chosen:
        print(f"{name}: {MEASUREMENTS[name]} …", flush=True)
        started = time.monotonic()
        figures = importlib.import_module(f"bench.{name}").run(**ARGUMENTS.get(name, {}))
        results[name] = {"machine": machine(), "figures": figures}
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        file.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    lines = ["# Figures", "", "Written by `make bench`; medians of one run.", ""]
    for name, title in MEASUREMENTS.items():
        if name in results:
            at = results[name]["machine"]
            lines += markdown(title, results[name]["figures"])
            lines += [f"*{at['cores']} cores, Python {at['python']}, {at['at'][:10]}*", ""]
    (FOLDER / "RESULTS.md").write_text("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
