"""A supervisor over two small shell scripts, as a process of its own.

Run as ``python -m tests.supervisor.stand_in DIRECTORY``. The scripts write a line when they start
and when they are asked to end, so that a test sees what happened in which order.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from modelplane.adapters.clock import SystemClock
from modelplane.adapters.runtime.processes import LinuxProcesses
from modelplane.errors import ModelplaneError
from modelplane.ports.processes import ProcessSpec
from modelplane.supervisor.stopping import Member, Progress
from modelplane.supervisor.supervisor import Supervisor, run_until_signal

_SCRIPT = """
echo "$1 started $$" >> "$2/events"
trap 'echo "$1 ended $$" >> "$2/events"; exit 0' TERM
while :; do sleep 0.02; done
"""


def members(directory: Path, script: str = _SCRIPT) -> list[Member]:
    """The stand-ins for the control plane and the agent."""
    return [
        Member(
            ProcessSpec(
                name=name,
                command=("/bin/sh", "-c", script, "sh", name, str(directory)),
                env={"PATH": "/usr/bin:/bin"},
                cwd=directory,
                log_path=directory / "logs" / f"{name}.log",
            ),
            drain_s=5.0,
        )
        for name in ("control-plane", "agent")
    ]


def keeper(directory: Path, name: str = "supervisor") -> LinuxProcesses:
    """A keeper of the supervisor's own processes, or of the agent's."""
    return LinuxProcesses(directory / "processes" / name)


def make_supervisor(directory: Path, script: str = _SCRIPT) -> Supervisor:
    """The supervisor of the stand-ins; its progress goes to standard output."""

    def tell(progress: Progress) -> None:
        print(f"{progress.process}: {progress.message}", flush=True)

    return Supervisor(
        lock=directory / "up.lock",
        members=members(directory, script),
        processes=keeper(directory),
        leftovers=keeper(directory, "agent"),
        clock=SystemClock(),
        tell=tell,
    )


def main() -> int:
    try:
        asyncio.run(run_until_signal(make_supervisor(Path(sys.argv[1]))))
    except ModelplaneError as error:
        print(f"error: {error}", flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
