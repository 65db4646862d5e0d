"""``reproduce``: run what made a version again, and see whether it makes the same.

Reads the options and prints the findings; the steps stand in `reproduction_steps`. It runs
somebody's recorded code, so it asks first.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from modelplane.cli.following import parse_timeout
from modelplane.cli.kinds import parse_pairs
from modelplane.cli.options import Plain, PlainOutput
from modelplane.cli.output import print_json, remark
from modelplane.cli.reproduction_steps import Reproduction
from modelplane.cli.reproduction_steps import reproduce as run_steps
from modelplane.cli.session import Session, command, make_app
from modelplane.decisions.reproduction import UNKNOWN, Finding, judge
from modelplane.decisions.reproduction_command import RecordedCommand, read_command
from modelplane.errors import InvalidResource
from modelplane.resources.model import ModelVersion

app = make_app()

_LONGEST_FOLDER = 60


class Surroundings(StrEnum):
    """Which environment the command runs in."""

    RECORDED = "recorded"
    CURRENT = "current"


@command(
    app,
    "reproduce",
    examples=[
        "modelplane reproduce fraud@1.2.0",
        "modelplane reproduce fraud@1.2.0 --source ~/code/fraud --environment current --yes",
        "modelplane reproduce fraud@1.2.0 --inputs requests.json --tolerance 1e-4 -o json",
    ],
)
def reproduce(  # noqa: PLR0913 - one parameter for each option
    session: Session,
    *,
    version: Annotated[
        str, typer.Argument(metavar="MODEL@VERSION", help="The version, such as fraud@1.2.0.")
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            "--source",
            metavar="DIR",
            help="A folder with the code: a git repository that has the commit; default here.",
        ),
    ] = None,
    environment: Annotated[
        Surroundings,
        typer.Option(
            "--environment",
            metavar="recorded|current",
            help="Build the recorded Python environment, or use the one that runs this.",
        ),
    ] = Surroundings.RECORDED,
    inputs: Annotated[
        Path | None,
        typer.Option(
            "--inputs",
            metavar="FILE",
            help="Inference requests as JSON, one or a list; default the input example.",
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance", min=0.0, help="How far numbers may be apart; relative above 1."
        ),
    ] = 1e-6,
    artifact: Annotated[
        Path | None,
        typer.Option(
            "--artifact",
            metavar="PATH",
            help="What the command writes, from where it runs; for commands that push nothing.",
        ),
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(
            "--secret",
            metavar="OPTION=VARIABLE",
            help="Variable with the value of an option recorded as ***; may be repeated.",
        ),
    ] = None,
    allow_pickle: Annotated[
        bool,
        typer.Option("--allow-pickle", help="Load artifacts that may run any code when loaded."),
    ] = False,
    timeout: Annotated[
        str,
        typer.Option("--timeout", metavar="TIME", help="How long the command may run."),
    ] = "1h",
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder that it ran in.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Run without asking.")] = False,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Run again what made a version, and compare the predictions.

    The recorded command runs on the recorded code, data and environment, in a folder of its own
    on this machine; its push is recorded, not sent. Succeeds only when the new version predicts
    what the recorded one predicts.
    """
    found = session.client.get(ModelVersion, version)
    folder = source or Path.cwd()
    if not folder.is_dir():
        raise InvalidResource(f"--source {folder}: there is no such folder")
    timeout_s = parse_timeout(timeout).total_seconds()
    requests = _read_requests(inputs, found)
    again = read_command(found.spec.training.command, _read_secrets(secret or ()))
    _agree(found, again, folder, yes=yes)
    work = _make_folder()
    plan = Reproduction(
        version=found,
        command=again,
        work=work,
        source=folder,
        copy_source=source is not None,
        artifact=artifact,
        requests=requests,
        tolerance=tolerance,
        timeout_s=timeout_s,
        use_present=environment is Surroundings.CURRENT,
        allow_pickle=allow_pickle,
        tell=remark,
    )
    try:
        with _ended_as_interrupted():
            findings = run_steps(plan, session.client, keep=keep)
    finally:
        if keep:
            remark(f"kept in {work}: once it is removed, `git worktree prune` forgets its code")
        else:
            shutil.rmtree(work, ignore_errors=True)
    verdict = _show(found, findings, work if keep else None, output)
    if not verdict:
        raise typer.Exit(1)


@contextlib.contextmanager
def _ended_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end this as Ctrl-C does: with the command and the servers that it started."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _make_folder() -> Path:
    """Make the folder of this run; sockets in it bear no long path."""
    base = tempfile.gettempdir()
    short = base if len(base) <= _LONGEST_FOLDER else "/tmp"  # noqa: S108 - mkdtemp makes it ours
    return Path(tempfile.mkdtemp(prefix="modelplane-", dir=short)).resolve()


def _agree(version: ModelVersion, again: RecordedCommand | str, source: Path, *, yes: bool) -> None:
    """Say what will run, and ask; raises when nobody can be asked, or says no."""
    if isinstance(again, str):
        return  # nothing will
    training = version.spec.training
    place = "" if training.directory in {UNKNOWN, "."} else f" in {training.directory}"
    author = version.spec.author or "somebody"
    remark(f"recorded for {version.metadata.name} by {author}:")
    remark(f"  {again.shown}")
    remark(f"  commit {training.git_commit}{place}, from {source}")
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidResource("this runs recorded code", hint="say --yes if you trust it")
    if not typer.confirm("Run it on this machine, as you?", err=True):
        raise typer.Exit(1)


def _read_secrets(given: Sequence[str]) -> dict[str, str]:
    secrets = {}
    for option, variable in parse_pairs("--secret", given).items():
        if variable not in os.environ:
            raise InvalidResource(f"--secret {option}={variable}: that variable is not set")
        secrets[option] = os.environ[variable]
    return secrets


def _read_requests(file: Path | None, version: ModelVersion) -> list[dict[str, Any]]:
    if file is None:
        example = version.spec.input_example
        return [example] if example is not None else []
    try:
        data = json.loads(file.read_bytes())
    except OSError as error:
        raise InvalidResource(f"--inputs {file}: {error.strerror}") from None
    except ValueError as error:
        raise InvalidResource(f"--inputs {file}: not JSON: {error}") from None
    requests = data if isinstance(data, list) else [data]
    if not requests or not all(
        isinstance(one, dict) and isinstance(one.get("inputs"), list) for one in requests
    ):
        raise InvalidResource(
            f"--inputs {file}: not an inference request, nor a list of them",
            hint='one looks like {"inputs": [{"name": …, "shape": …, "datatype": …, "data": …}]}',
        )
    return requests


def _show(
    version: ModelVersion, findings: Sequence[Finding], kept: Path | None, output: Plain
) -> bool:
    """Print what was found; return whether the version was reproduced."""
    verdict = judge(findings)
    if output is Plain.JSON:
        steps = [
            {
                "step": finding.step,
                "outcome": finding.outcome,
                "message": finding.message,
                "details": dict(finding.details),
            }
            for finding in findings
        ]
        answer = {
            "version": version.metadata.name,
            "result": verdict.result,
            "reasons": list(verdict.reasons),
            "steps": steps,
        }
        print_json(answer | ({"folder": str(kept)} if kept else {}))
        return verdict.reproduced
    for finding in findings:
        typer.echo(f"{finding.step:<12} {finding.outcome:<17} {finding.message}")
        for line in str(finding.details.get("logTail", "")).splitlines():
            typer.echo(f"{'':<12} | {line}")
    typer.echo(f"{version.metadata.name}: {verdict}")
    return verdict.reproduced
