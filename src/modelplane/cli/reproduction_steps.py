"""The steps of a reproduction in their order: code, data, environment, command, comparison.

Called by `reproducing`. Each step gives findings; what one step lacks, the next ones say. What
is decided about them stands in `decisions.reproduction`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from modelplane.cli.reproduction_environment import (
    RunEnvironment,
    build_environment,
    present_environment,
)
from modelplane.cli.reproduction_serving import Answers, Place, ask_version
from modelplane.client import Client
from modelplane.client.artifacts import digest_tree
from modelplane.client.reproduction import RecordedPush, choose_push, read_pushes
from modelplane.client.reproduction_code import (
    CheckedOut,
    check_out,
    find_repository,
    locate_script,
)
from modelplane.client.reproduction_command import command_environment, run_command
from modelplane.client.reproduction_data import Places, place_data
from modelplane.decisions.reproduction import (
    UNKNOWN,
    Finding,
    compare_artifacts,
    compare_metrics,
    compare_parameters,
    compare_predictions,
    settle_data,
)
from modelplane.decisions.reproduction_command import RecordedCommand, hide_secrets
from modelplane.errors import ModelplaneError
from modelplane.resources.meta import Metadata
from modelplane.resources.model import ModelVersion, ModelVersionSpec

_SERVER_TIMEOUT_S = 300.0
_TAIL_LINES = 8


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What to reproduce, and how.

    Attributes
    ----------
    version
        The recorded version.
    command
        Its command, or why it cannot be run.
    work
        An empty folder with a short path; everything happens below it.
    source
        A folder of the user's with the code.
    copy_source
        Whether `source` is taken as it is where no commit was recorded.
    artifact
        The file or folder that the command writes, from where it runs; None for the push.
    requests
        What both versions are asked.
    tolerance
        See `decisions.reproduction.agree`.
    timeout_s
        How long the environment may take to build, and then the command to run.
    use_present
        Whether to run in the present environment.
    allow_pickle
        Whether artifacts may be loaded that run code when they are.
    tell
        Called with what is done next.
    """

    version: ModelVersion
    command: RecordedCommand | str
    work: Path
    source: Path
    copy_source: bool
    artifact: Path | None
    requests: Sequence[Mapping[str, Any]]
    tolerance: float
    timeout_s: float
    use_present: bool
    allow_pickle: bool
    tell: Callable[[str], None]

    @property
    def log(self) -> Path:
        """What the command printed."""
        return self.work / "command.log"


def reproduce(plan: Reproduction, client: Client, *, keep: bool) -> tuple[Finding, ...]:
    """Run all steps and return what they found; keeps the checked out code when `keep`."""
    training = plan.version.spec.training
    plan.tell("checking out the code")
    code = check_out(training, plan.source, plan.work / "code", copy=plan.copy_source)
    try:
        return tuple(_run_steps(plan, client, code))
    finally:
        if not keep:
            code.remove()


def _run_steps(plan: Reproduction, client: Client, code: CheckedOut) -> list[Finding]:
    spec = plan.version.spec
    if code.top is None:
        return [code.finding, *_not_run("there is no code to run", plan)]
    if isinstance(plan.command, str):
        return [code.finding, *_not_run(plan.command, plan)]
    folder, remark = _directory(plan, code.top)
    plan.tell("looking for the data")
    source = find_repository(plan.source) or plan.source.resolve()
    places = Places(code.top, folder.relative_to(code.top), source, plan.work)
    data = [place_data(reference, places) for reference in spec.datasets]
    plan.tell("making the environment")
    environment = _environment(plan, code.top, source)
    if environment.python is None:
        return [code.finding, *data, environment.finding, *_not_run("there is no Python", plan)]
    plan.tell("running the command")
    words, outside = _locate(plan.command, environment, code.top)
    prepared = replace(plan.command, words=words)
    ran = _run(plan, prepared, environment, folder, remark or outside)
    found = _find_result(plan, folder)
    before = [code.finding, *data, environment.finding, ran]
    if isinstance(found, str):
        missing = Finding("artifact", "not reproducible", found)
        predictions = Finding("predictions", "not reproducible", "there is no new version to ask")
        return [*before, missing, predictions]
    data = list(settle_data(data, spec.datasets, found.version.spec.datasets))
    plan.tell("comparing")
    return [code.finding, *data, environment.finding, ran, *_compare(plan, client, found)]


def _directory(plan: Reproduction, top: Path) -> tuple[Path, str]:
    """Return where the command runs, within the code, and what is not as recorded about it."""
    recorded = plan.version.spec.training.directory
    folder = (top / ("." if recorded == UNKNOWN else recorded)).resolve()
    if folder.is_dir() and folder.is_relative_to(top):
        return folder, ""
    return top, f"the code has no folder {recorded}: it ran at the top"


def _not_run(why: str, plan: Reproduction) -> Iterable[Finding]:
    yield Finding("command", "not reproducible", f"not run: {why}")
    if plan.version.spec.artifact is None:
        yield compare_artifacts(None, "")
    yield Finding("predictions", "not reproducible", "there is no new version to ask")


def _environment(plan: Reproduction, code: Path, source: Path) -> RunEnvironment:
    training = plan.version.spec.training
    if plan.use_present:
        return present_environment(training, source)
    return build_environment(training, code, plan.work / "venv", timeout_s=plan.timeout_s)


def _run(
    plan: Reproduction,
    command: RecordedCommand,
    environment: RunEnvironment,
    folder: Path,
    remark: str,
) -> Finding:
    """Run the command in `folder` and say how it went; `remark` is not as recorded either."""
    pushes = plan.work / "pushes"
    pushes.mkdir()
    env = command_environment(os.environ, pushes, environment.programs)
    started_s = time.monotonic()
    ran = run_command(command.words, folder, env, plan.log, timeout_s=plan.timeout_s)
    took_s = time.monotonic() - started_s
    details: dict[str, Any] = {
        "command": command.shown,
        "exitCode": ran.exit_code,
        "seconds": round(took_s, 3),
    }
    if ran.error:
        return Finding("command", "not reproducible", ran.error, details)
    if ran.exit_code == 0 and not remark:
        return Finding("command", "match", f"ran in {took_s:.1f} s", details)
    tail = hide_secrets(ran.log_tail, command.secrets)
    details["logTail"] = "\n".join(tail.splitlines()[-_TAIL_LINES:])
    if ran.exit_code == 0:
        return Finding("command", "differs", remark, details)
    ended = (
        f"it was ended after {plan.timeout_s:g} s"
        if ran.exit_code is None
        else f"it ended with {ran.exit_code}: {_last_line(tail)}"
    )
    message = f"{ended}; {remark}" if remark else ended
    return Finding("command", "not reproducible", message, details)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"


def _locate(
    command: RecordedCommand, environment: RunEnvironment, top: Path
) -> tuple[tuple[str, ...], str]:
    """Return the words with program and script as they lie here, and what is not as recorded."""
    words = list(command.words)
    outside = []
    for index in (0, command.script):
        if index is None or not PurePosixPath(words[index]).is_absolute():
            continue
        found = locate_script(words[index], top, environment.programs)
        if found is not None:
            words[index] = found
        elif index:
            outside.append(words[index])
    if command.is_python:
        words[0] = str(environment.python)
    return tuple(words), f"{outside[0]} lies outside the recorded code" if outside else ""


def _find_result(plan: Reproduction, folder: Path) -> RecordedPush | str:
    """Return the version that the command made, or why there is none."""
    spec = plan.version.spec
    if plan.artifact is not None:
        path = folder / plan.artifact
        if not path.exists():
            return f"the command wrote nothing at {plan.artifact}"
        if spec.artifact is None:
            return "the version has no files here to compare with"
        written = spec.artifact.with_(digest=digest_tree(path).digest)
        made = spec.with_(artifact=written, metrics={}, parameters={}, datasets=())
        name = Metadata(name=plan.version.metadata.name)
        return RecordedPush(ModelVersion(metadata=name, spec=made), path)
    pushes = read_pushes(plan.work / "pushes")
    found = choose_push(pushes, spec.model, spec.version)
    if found is not None:
        return found
    if pushes:
        names = ", ".join(push.version.metadata.name for push in pushes[:5])
        return f"the command pushed no version of {spec.model}, but {names}"
    return "the command pushed nothing: name the file that it writes with --artifact"


def _compare(plan: Reproduction, client: Client, found: RecordedPush) -> list[Finding]:
    spec, new = plan.version.spec, found.version.spec
    assert new.artifact is not None
    recorded = spec.artifact.digest if spec.artifact else None
    findings = [compare_artifacts(recorded, new.artifact.digest)]
    if plan.artifact is None:
        compared = (
            compare_parameters(spec.parameters, new.parameters),
            compare_metrics(spec.metrics, new.metrics, plan.tolerance),
        )
        findings += [finding for finding in compared if finding is not None]
    return [*findings, _compare_predictions(plan, client, found)]


def _compare_predictions(plan: Reproduction, client: Client, found: RecordedPush) -> Finding:
    spec, new = plan.version.spec, found.version.spec
    if spec.artifact is None or new.artifact is None:
        message = "the version has no files here: there is nothing to ask"
        return Finding("predictions", "not reproducible", message)
    same = spec.artifact == new.artifact.with_(size_bytes=spec.artifact.size_bytes)
    if not plan.requests:
        why = "no input example was recorded: give requests with --inputs"
        return _not_asked(why, same=same)
    recorded = plan.work / "recorded"
    try:
        client.download_artifact(spec.artifact.digest, recorded)
    except ModelplaneError as error:
        return _not_asked(f"the recorded artifact cannot be had: {error}", same=False)
    asked = (("recorded", spec, recorded), ("new", new, found.artifact))
    answers = asyncio.run(_ask_all(plan, asked))
    for (what, _, _), answer in zip(asked, answers, strict=True):
        if isinstance(answer, str):
            hint = "; see --allow-pickle" if "pickle" in answer and not plan.allow_pickle else ""
            why = f"the {what} version could not be asked: {answer}{hint}"
            return _not_asked(why, same=same)
    before, now = (answer for answer in answers if not isinstance(answer, str))
    return compare_predictions(before, now, plan.tolerance)


def _not_asked(why: str, *, same: bool) -> Finding:
    """Return what can be said without answers: that the same bytes predict the same."""
    if same:
        return Finding("predictions", "match", f"the same bytes predict the same ({why})")
    return Finding("predictions", "not reproducible", why)


async def _ask_all(
    plan: Reproduction, versions: Sequence[tuple[str, ModelVersionSpec, Path]]
) -> list[Answers | str]:
    """Ask all versions at once; each has a socket of its own, and environments are shared."""
    asking = (
        ask_version(
            spec,
            _as_folder(artifact, plan.work / f"{what}-files"),
            plan.requests,
            Place(plan.work / "serving", what),
            allow_pickle=plan.allow_pickle,
            timeout_s=_SERVER_TIMEOUT_S,
        )
        for what, spec, artifact in versions
    )
    return list(await asyncio.gather(*asking))


def _as_folder(path: Path, folder: Path) -> Path:
    """Return an artifact as the folder that a server takes, whether it is a file or a folder."""
    if path.is_dir():
        return path
    folder.mkdir()
    (folder / path.name).symlink_to(path.resolve())
    return folder
