"""The check ``command``: any program; its exit code, its result file, its JUnit reports.

Called by `stages.running`. The program runs as the agent's user with few variables and no secret,
in a directory of its own. Nothing that it writes is trusted: names stay inside that directory,
files are bounded and numbers are finite.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, FiniteFloat, ValidationError

from modelplane.resources.checks import CommandCheck
from modelplane.resources.gate_run import Finding, Measurement, StageOutcome, StageTask, TestCase
from modelplane.resources.meta import Part
from modelplane.stages.failures import CheckImpossible
from modelplane.stages.junit import read_junit
from modelplane.stages.programs import Program, forward, write_files
from modelplane.stages.workspace import Workspace

MODEL_NAME = "candidate"
"""The model's name in the addresses of the running candidate."""

_MAX_RESULT_BYTES = 256 * 2**10
_MAX_REPORTS = 200
_MAX_CASES = 5000
_MAX_EVIDENCE_BYTES = 32 * 2**20
_PLACE = re.compile(r"\{(python|model|url|socket|cases|data:[^{}]*)\}")


class CommandResult(Part):
    """What a program may say of its check.

    Attributes
    ----------
    passed
        No is no; yes does not outweigh an exit code or a case that failed.
    message
        The outcome in one sentence.
    metrics
        Finite numbers by name.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    passed: bool | None = None
    message: str = ""
    metrics: dict[Annotated[str, Field(min_length=1, max_length=100)], FiniteFloat] = Field(
        default_factory=dict, max_length=1000
    )


@dataclass(frozen=True, slots=True)
class Ended:
    """What there is when the program has ended.

    Attributes
    ----------
    code
        Exit code, or the negated number of a signal.
    result
        What it wrote; None when it wrote none.
    cases
        Of all its JUnit reports.
    faults
        What is wrong with what it wrote.
    """

    code: int
    result: CommandResult | None
    cases: Sequence[TestCase]
    faults: Sequence[str]


async def run(task: StageTask, workspace: Workspace) -> StageOutcome:
    """Run the program and judge it by its exit code, its result and its cases.

    Raises
    ------
    CheckImpossible
        It cannot be run; or it ended well, but what it promised to write is missing or garbage.
    """
    check = task.stage.configuration
    assert isinstance(check, CommandCheck)
    cwd = workspace.work_dir / "command"
    cwd.mkdir(mode=0o700)
    write_files(cwd, check.files)
    async with AsyncExitStack() as stack:
        places = {"python": sys.executable, "model": str(workspace.candidate_dir)}
        places |= await _bring_data(task, stack)
        if check.serve:
            model = await stack.enter_async_context(
                workspace.serve(task.candidate, workspace.candidate_dir, name=MODEL_NAME)
            )
            places["socket"] = str(model.socket)
            places["url"] = await stack.enter_async_context(forward(model.socket))
        cases = task.cases or check.cases
        program = Program(
            fill_command(check.run, places, cases),
            {name: fill_text(value, places, cases) for name, value in check.env.items()},
            cwd,
            workspace.output_dir / "command.log",
        )
        code = await program.run()
    return judge(check, _collect(check, code, cwd, cases, workspace.output_dir))


async def _bring_data(task: StageTask, stack: AsyncExitStack) -> dict[str, str]:
    """Return the places of the stage's data, fetched and checked."""
    places: dict[str, str] = {}
    if task.datasets:
        # Loading it takes a fifth of a second, which most commands need not wait for.
        from modelplane.stages.data_files import local_files  # noqa: PLC0415

        for data in task.datasets:
            path = await asyncio.to_thread(stack.enter_context, local_files(data))
            places[f"data:{data.name}"] = places[f"data:{data.name}@{data.version}"] = str(path)
    return places


def fill_command(
    command: Sequence[str], places: Mapping[str, str], cases: Sequence[str]
) -> list[str]:
    """Fill in the places; an argument that is just ``{cases}`` becomes one for each case.

    Examples
    --------
    >>> fill_command(["pytest", "--model={model}", "{cases}"], {"model": "/m"}, ["a", "b"])
    ['pytest', '--model=/m', 'a', 'b']
    """
    filled: list[str] = []
    for part in command:
        filled += cases if part == "{cases}" else [fill_text(part, places, cases)]
    return filled


def fill_text(text: str, places: Mapping[str, str], cases: Sequence[str]) -> str:
    """Fill in the places of one text, cases with commas between them; raises `CheckImpossible`."""

    def fill(found: re.Match[str]) -> str:
        name = found[1]
        if name == "cases":
            return ",".join(cases)
        if name not in places:
            missing = "the stage does not name it in datasets"
            if name in {"url", "socket"}:
                missing = "the candidate runs only with serve: true"
            raise CheckImpossible(f"{{{name}}} cannot be filled in: {missing}")
        return places[name]

    return _PLACE.sub(fill, text)


def judge(check: CommandCheck, ended: Ended) -> StageOutcome:
    """Decide what the program said.

    It passes when it ended with code 0, does not say otherwise itself, and no case failed. A
    program that failed has failed, however little it wrote; one that ended well owes what its
    stage declares.

    Raises
    ------
    CheckImpossible
        It ended well, and its result or a report is missing or garbage.
    """
    result = ended.result or CommandResult()
    lacking = sorted(set(check.metrics) - set(result.metrics))
    if ended.code == 0:
        if ended.faults:
            raise CheckImpossible("; ".join(ended.faults))
        if lacking:
            raise CheckImpossible(f"it did not report the metric {', '.join(lacking)}")
    failed = [case for case in ended.cases if not case.passed]
    passed = ended.code == 0 and result.passed is not False and not failed
    findings = [Finding(severity="warning", code="garbage", message=f) for f in ended.faults]
    kept = sorted(ended.cases, key=lambda case: case.passed)[:_MAX_CASES]
    if len(kept) < len(ended.cases):
        message = f"{len(kept):,} of {len(ended.cases):,} cases are shown, the failed ones first"
        findings.append(Finding(severity="info", code="cases_left_out", message=message))
    return StageOutcome(
        passed=passed,
        message=_describe(ended, result, failed)[:2000],
        measurements=tuple(Measurement(name=n, value=v) for n, v in result.metrics.items()),
        findings=tuple(findings),
        cases=tuple(kept),
        details={"exitCode": ended.code},
    )


def _describe(ended: Ended, result: CommandResult, failed: Sequence[TestCase]) -> str:
    texts = []
    if ended.code != 0 and not failed:
        how = f"signal {-ended.code}" if ended.code < 0 else f"exit code {ended.code}"
        texts.append(f"it ended with {how}")
    if ended.cases:
        skipped = sum(case.skipped for case in ended.cases)
        counted = f"{len(failed)} of {len(ended.cases)} cases failed"
        texts.append(f"{counted}, {skipped} were skipped" if skipped else counted)
    texts += (
        [f"first {failed[0].name}: {failed[0].message.splitlines()[0]}"] if _told(failed) else []
    )
    return "; ".join([part for part in (result.message, *texts) if part]) or "it ended well"


def _told(failed: Sequence[TestCase]) -> bool:
    return bool(failed and failed[0].message)


def _collect(
    check: CommandCheck, code: int, cwd: Path, cases: Sequence[str], output_dir: Path
) -> Ended:
    """Read what the program wrote, and keep copies as evidence."""
    faults: list[str] = []
    result: CommandResult | None = None
    found: list[TestCase] = []
    result_path = cwd / check.result
    if os.path.lexists(result_path):
        try:
            result = read_command_result(result_path)
        except CheckImpossible as error:
            faults.append(str(error))
    reports = sorted(cwd.glob(check.junit)) if check.junit is not None else []
    reports = [report for report in reports if _is_plain(report)]
    if len(reports) > _MAX_REPORTS:
        faults.append(f"{check.junit} names {len(reports):,} files; {_MAX_REPORTS} are the most")
    for report in reports[:_MAX_REPORTS]:
        try:
            found += read_junit(report, cases)
        except CheckImpossible as error:
            faults.append(str(error))
    if check.junit is not None and not found and not faults:
        what = "holds no case" if reports else "is not there"
        faults.append(f"the JUnit report {check.junit} {what}")
    _keep([result_path, *reports[:_MAX_REPORTS]], cwd, output_dir)
    return Ended(code, result, found, faults)


def read_command_result(path: Path) -> CommandResult:
    """Return the result that a program wrote, read strictly; raises `CheckImpossible`."""
    if not _is_plain(path):
        raise CheckImpossible(f"{path.name} is no plain file")
    with path.open("rb") as file:
        content = file.read(_MAX_RESULT_BYTES + 1)
    if len(content) > _MAX_RESULT_BYTES:
        raise CheckImpossible(f"{path.name} has more than {_MAX_RESULT_BYTES // 1024} KiB")
    try:
        data: Any = json.loads(content, parse_constant=_refuse_constant)
        return CommandResult.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise CheckImpossible(
            f"{path.name} is not {{passed, message, metrics: {{name: number}}}}: "
            f"{place or 'it'}: {first['msg']}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckImpossible(f"{path.name} is not JSON: {error}") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _is_plain(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _keep(paths: Sequence[Path], cwd: Path, output_dir: Path) -> None:
    left = _MAX_EVIDENCE_BYTES
    for path in paths:
        if _is_plain(path) and path.stat().st_size <= left:
            left -= path.stat().st_size
            place = output_dir / "command" / path.relative_to(cwd)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
