"""How long the command line takes, and what the two processes weigh when idle."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from typing import Any

_COMMANDS = {
    "modelplane --help": ["--help"],
    "modelplane version": ["version"],
    "modelplane validate": ["validate", "-f", "-"],
}
_MANIFEST = b"kind: ModelDeployment\nmetadata: {name: fraud}\nspec: {version: 1.2.0}\n"


def run(rounds: int = 7) -> dict[str, Any]:
    """Return the median seconds of each command, and of Python doing nothing."""
    figures = {"python -c pass": {"median_s": _median([sys.executable, "-c", "pass"], rounds)}}
    for name, arguments in _COMMANDS.items():
        command = [sys.executable, "-m", "modelplane.cli.main", *arguments]
        figures[name] = {"median_s": _median(command, rounds)}
    return figures


def _median(command: list[str], rounds: int) -> float:
    seconds = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        subprocess.run(command, input=_MANIFEST, capture_output=True, check=True, timeout=60)
        seconds.append(time.perf_counter() - started)
    return round(statistics.median(seconds[1:]), 3)


if __name__ == "__main__":
    print(run())
