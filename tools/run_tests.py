"""Runs the tests: the fast set, the slow ones, then the end-to-end set.

Those that judge traffic run one by one, so that nothing else takes the processor from them.

Called by `make test`. Says plainly what is skipped and how to get it; with CI=true nothing may
be skipped, so a skipped test fails the run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path


def _run(title: str, *arguments: str) -> int:
    print(f"\n== {title}", flush=True)
    started = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    if os.environ.get("CI") == "true":
        command += ["-p", "tests.no_skips"]
    code = subprocess.run(command, check=False).returncode
    print(f"== {title}: {time.monotonic() - started:.0f} s, exit code {code}", flush=True)
    return code


def main() -> int:
    """Run both sets and return the worst exit code."""
    os.chdir(Path(__file__).resolve().parent.parent)
    workers = str(min(os.cpu_count() or 1, 4))
    parallel = ("-n", workers, "--dist", "loadfile")
    fast = _run("fast tests", "-m", "not e2e and not slow", *parallel)
    if "--fast" in sys.argv[1:]:
        return fast
    slow = _run("slow tests", "-m", "slow and not e2e", *parallel)
    beside = _run("end-to-end tests beside each other", "-m", "e2e and beside", *parallel)
    alone = _run("end-to-end tests one by one", "-m", "e2e and not beside", "--durations=10")
    return fast or slow or beside or alone


if __name__ == "__main__":
    sys.exit(main())
