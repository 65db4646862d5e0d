"""Runs one stage: reads the task, runs its check, writes the outcome, says how it went.

Called by ``python -m modelplane.stages``, which the agent runs as a `Job`. Decides nothing about
the run: whether a stage is tried again is the control plane's to say, by the exit code.

======  =====================================================  ==========================
 code    meaning                                                result
======  =====================================================  ==========================
 0       the check was made; it passed or it did not            the `StageOutcome`
 65      it cannot be made, now or later                        ``{"impossible": why}``
 75      something outside failed; another attempt may work     ``{"infrastructure": why}``
 other   the check itself is at fault                           none
======  =====================================================  ==========================
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modelplane.resources.checks import CheckName
from modelplane.resources.gate_run import StageOutcome, StageTask, TestCase
from modelplane.resources.meta import Part
from modelplane.stages.failures import CheckImpossible, InfrastructureFailed
from modelplane.stages.workspace import Workspace

IMPOSSIBLE = 65
INFRASTRUCTURE = 75
MAX_RESULT_BYTES = 250_000
"""A little less than an agent takes."""
EVIDENCE_NAME = "outcome.json"

_MISUSED = 64
_ENDED = 128 + signal.SIGTERM
_MAX_MESSAGE_CHARS = 2000
_SHORT_MESSAGE_CHARS = 200
_LISTS = ("cases", "findings", "measurements")

Check = Callable[[StageTask, Workspace], Awaitable[StageOutcome]]


def main() -> int:
    """Run the stage that the variables name; return the exit code."""
    # With -m the working directory is where imports look first; files of a check lie there.
    sys.path[:] = [place for place in sys.path if place not in {"", str(Path.cwd())}]
    try:
        input_path = Path(os.environ["MODELPLANE_JOB_INPUT"])
        result_path = Path(os.environ["MODELPLANE_JOB_RESULT"])
        workspace = workspace_of(os.environ)
    except KeyError as error:
        print(f"{error.args[0]} is not set: agents run this, as a job", file=sys.stderr)  # noqa: T201
        return _MISUSED
    try:
        task = _read_task(input_path)
        outcome = asyncio.run(_run(task, workspace))
    except CheckImpossible as error:
        return _give_up(result_path, "impossible", error, IMPOSSIBLE)
    except InfrastructureFailed as error:
        return _give_up(result_path, "infrastructure", error, INFRASTRUCTURE)
    except asyncio.CancelledError:
        return _ENDED
    workspace.output_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    (workspace.output_dir / EVIDENCE_NAME).write_text(json.dumps(outcome.to_dict()))
    _write(result_path, shorten_outcome(outcome, MAX_RESULT_BYTES))
    return 0


def workspace_of(variables: Mapping[str, str]) -> Workspace:
    """Return the workspace that an agent's variables describe; raises KeyError."""
    champion = variables.get("MODELPLANE_ARTIFACT_CHAMPION")
    return Workspace(
        work_dir=Path.cwd(),
        output_dir=Path(variables["MODELPLANE_JOB_OUTPUT"]),
        candidate_dir=Path(variables["MODELPLANE_ARTIFACT_CANDIDATE"]),
        champion_dir=Path(champion) if champion else None,
        environments_dir=Path(variables["MODELPLANE_ENVIRONMENTS"]),
        socket_dir=Path(variables["MODELPLANE_JOB_SOCKETS"]),
        reuse_interpreter=variables.get("MODELPLANE_REUSE_INTERPRETER", "true") == "true",
    )


def find_check(name: CheckName) -> Check:
    """Return the function of a check.

    Raises
    ------
    CheckImpossible
        A package that it needs is not installed on this node.
    """
    try:
        module = importlib.import_module(f"modelplane.stages.checks.{name}")
    except ModuleNotFoundError as error:
        raise _lacking(name, error) from error
    check: Check = module.run
    return check


def shorten_outcome(outcome: StageOutcome, max_bytes: int) -> dict[str, Any]:
    """Return an outcome as plain data within `max_bytes` of JSON.

    What is left out, in this order, until it fits: details, long messages, and of cases, findings
    and measurements of slices those that passed and came last. The evidence holds all of it.
    """
    if _size(outcome) <= max_bytes:
        return _plain(outcome)
    shortened = outcome.with_(
        details={},
        message=_note(outcome.message),
        cases=tuple(case.with_(message=_cut(case.message)) for case in outcome.cases),
        findings=tuple(f.with_(message=_cut(f.message)) for f in outcome.findings),
    )
    # What speaks against the candidate, and what policies read, stays longest.
    shortened = shortened.with_(
        cases=tuple(sorted(shortened.cases, key=_passed)),
        findings=tuple(sorted(shortened.findings, key=lambda f: f.severity != "error")),
        measurements=tuple(
            sorted(shortened.measurements, key=lambda m: (m.slice != "", m.passed is not False))
        ),
    )
    while _size(shortened) > max_bytes:
        longest = max(_LISTS, key=lambda name: _size_of(getattr(shortened, name)))
        items = getattr(shortened, longest)
        if len(items) <= 1:
            return _plain(outcome.with_(details={}, cases=(), findings=(), measurements=()))
        shortened = shortened.with_(**{longest: items[: len(items) * 3 // 4]})
    return _plain(shortened)


async def _run(task: StageTask, workspace: Workspace) -> StageOutcome:
    running = asyncio.current_task()
    assert running is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    name = task.stage.check
    check = find_check(name)
    try:
        return await check(task, workspace)
    except ModuleNotFoundError as error:
        raise _lacking(name, error) from error
    except ValidationError as error:
        # A number that is none, mostly: no threshold can be held against it.
        raise CheckImpossible(
            f"the check {name} came to what cannot be: {_faults(error)}"
        ) from error


def _faults(error: ValidationError) -> str:
    return "; ".join(
        f"{error.title}.{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}, "
        f"not {str(fault['input'])[:100]}"
        for fault in error.errors()[:5]
    )


def _lacking(name: str, error: ModuleNotFoundError) -> Exception:
    if (error.name or "").startswith("modelplane"):
        return error
    return CheckImpossible(
        f"the check {name} needs {error.name}, which is not installed where it runs: "
        "pip install 'modelplane[gates]'"
    )


def _read_task(path: Path) -> StageTask:
    try:
        return StageTask.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise CheckImpossible(f"the job was not given a stage: {_faults(error)}") from error


def _give_up(result_path: Path, kind: str, error: Exception, code: int) -> int:
    message = str(error)[:_MAX_MESSAGE_CHARS]
    print(f"{kind}: {message}", file=sys.stderr)  # noqa: T201 - the job's log
    _write(result_path, {kind: message.encode(errors="replace").decode()})
    return code


def _write(path: Path, data: Mapping[str, Any]) -> None:
    """Write the result whole or not at all."""
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(data, allow_nan=False))
    scratch.replace(path)


def _plain(outcome: StageOutcome) -> dict[str, Any]:
    return outcome.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def _size(outcome: StageOutcome) -> int:
    return len(json.dumps(_plain(outcome)))


def _size_of(items: tuple[Part, ...]) -> int:
    return sum(len(item.model_dump_json(by_alias=True, exclude_defaults=True)) for item in items)


def _passed(case: TestCase) -> bool:
    return case.passed


def _cut(message: str) -> str:
    return message[:_SHORT_MESSAGE_CHARS]


def _note(message: str) -> str:
    return f"{message[:1800]} (shortened; {EVIDENCE_NAME} in the evidence has all of it)".strip()
