"""``demo``: a modelplane of its own, three real versions, live traffic, and what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from modelplane.cli.options import Plain, PlainOutput
from modelplane.cli.output import print_json, print_table, remark
from modelplane.cli.platform import (
    ApiPort,
    ProductionPort,
    StagingPort,
    start_detached,
    stop,
    tell_ready,
)
from modelplane.cli.session import Session, command, make_app
from modelplane.client import Client
from modelplane.demo.loop import loop_succeeded, run_loop
from modelplane.demo.reporting import LoopOutcome, Report, write_report
from modelplane.demo.run import run_demo, succeeded
from modelplane.errors import Conflict, InvalidResource
from modelplane.settings import Settings, load_settings
from modelplane.supervisor.lock import find_holder
from modelplane.wiring.state import prepare_state

DEFAULT_STATE = Path(".modelplane-demo")
_MARKER = "demo"
"""A file that says that the state directory is a demo's and may be replaced by the next."""

_DATA = "demo-data"

app = make_app()


@command(
    app,
    "demo",
    examples=[
        "modelplane demo",
        "modelplane demo --keep",
        "modelplane demo --act 2",
        "modelplane demo --report demo.json --rate 100",
    ],
)
def demo(  # noqa: PLR0913 - the command line is its arguments
    session: Session,
    *,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="Write the outcome as JSON.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave it running, to look around in.")
    ] = False,
    act: Annotated[
        int,
        typer.Option(
            "--act", min=1, max=2, help="1: three rollouts; 2: the model ages and is retrained."
        ),
    ] = 1,
    rate: Annotated[
        float, typer.Option("--rate", metavar="RPS", min=1, max=5000, help="Requests per second.")
    ] = 200,
    api_port: ApiPort = None,
    staging_port: StagingPort = None,
    production_port: ProductionPort = None,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Watch three real versions go through rollouts, live, on real data.

    v1 goes to production; v2 has a bug that only live traffic shows and is rolled back; v3 is
    better and is promoted. In the second act the year goes on: labels come, the first model's
    precision falls, an alert fires, a playbook has a new version trained, which passes its gates
    and meets traffic. It runs a modelplane of its own in ./.modelplane-demo. The exit code is 0
    when everything went as it should.
    """
    if report is not None and not report.absolute().parent.is_dir():
        raise InvalidResource(f"--report {report}: there is no folder {report.parent}")
    overrides = {
        "api_port": api_port,
        "staging_port": staging_port,
        "production_port": production_port,
    }
    settings = load_settings(state=session.state or DEFAULT_STATE, **overrides)
    outcome = asyncio.run(_run(settings, overrides, rate, output, act=act, keep=keep))
    if report is not None:
        write_report(outcome, report)
    if output is Plain.JSON:
        print_json(asdict(outcome))
    else:
        _print_outcome(outcome)
    if not (succeeded(outcome) if act == 1 else loop_succeeded(outcome)):
        raise typer.Exit(1)


async def _run(
    settings: Settings,
    overrides: Mapping[str, Any],
    rate_per_s: float,
    output: Plain,
    *,
    act: int,
    keep: bool,
) -> Report:
    started = time.monotonic()

    def say(text: str) -> None:
        line = f"[{time.monotonic() - started:4.0f} s] {text}"
        typer.echo(line, err=output is Plain.JSON)

    await make_room(settings)
    say(f"starting a modelplane of its own in {settings.state_dir}")
    async with _running(settings, overrides, output, keep=keep):
        token = settings.paths.admin_token.read_text().strip()
        with (
            tempfile.TemporaryDirectory(prefix="modelplane-demo-") as work_dir,
            Client(settings.api_url, token) as client,
        ):
            if act == 1:
                return await run_demo(client, rate_per_s, Path(work_dir), say)
            # Data is registered by its place, and has to be there as long as what was made of it.
            return await run_loop(client, rate_per_s, settings.state_dir.absolute() / _DATA, say)


async def make_room(settings: Settings) -> None:
    """Remove what an earlier demo left; refuse to touch anything else.

    Raises
    ------
    Conflict
        A demo runs there, or the directory is none of a demo.
    """
    directory, paths = settings.state_dir, settings.paths
    if not directory.exists():
        return
    if find_holder(paths.lock) is not None:
        raise Conflict(
            f"a modelplane runs in {directory}",
            hint=f"stop it first: modelplane down --state {directory}",
        )
    if not (directory / _MARKER).is_file() and any(directory.iterdir()):
        raise Conflict(
            f"{directory} is not empty, and not from a demo",
            hint="name another directory with --state",
        )
    await stop(settings)
    shutil.rmtree(directory)


@contextlib.asynccontextmanager
async def _running(
    settings: Settings, overrides: Mapping[str, Any], output: Plain, *, keep: bool
) -> AsyncIterator[None]:
    """Keep a modelplane running; afterwards nothing is left, unless it should be kept.

    After a failure the directory stays, for its logs.
    """
    prepare_state(settings.paths)
    (settings.state_dir / _MARKER).touch()
    try:
        gateways = await start_detached(settings, dict(overrides))
        yield
    except BaseException:
        await stop(settings)
        remark(f"the logs are in {settings.paths.logs}")
        raise
    if keep:
        if output is Plain.TEXT:
            tell_ready(settings, gateways, output)
        return
    await stop(settings)
    shutil.rmtree(settings.state_dir)


def _print_outcome(report: Report) -> None:
    rows = [
        [
            outcome.version,
            outcome.environment,
            outcome.verdict.replace("_", " "),
            f"{outcome.candidate_requests:,}",
            f"{outcome.failed_requests:,}",
            f"{outcome.seconds:.0f} s",
            outcome.reason,
        ]
        for outcome in report.rollouts
    ]
    typer.echo()
    headers = ["VERSION", "ENVIRONMENT", "VERDICT", "REQUESTS", "FAILED", "TIME", "REASON"]
    print_table(headers, rows)
    if report.loop is not None:
        _print_loop(report.loop)
    verified = "verified" if report.audit_verified else "NOT VERIFIED"
    typer.echo(
        f"\nfailures that clients saw: {report.client_failures}\n"
        f"failures of the platform: {report.platform_failures}\n"
        f"audit chain: {verified}\n"
        f"took {report.seconds:.0f} s"
    )


def _print_loop(loop: LoopOutcome) -> None:
    def figure(when: str, value: float | None) -> str:
        if value is None:
            return "not known"
        lower, upper = loop.intervals[when]
        return f"{value:.2f} ({lower:.2f} to {upper:.2f})"

    old, new = loop.quality_beside, loop.quality_candidate
    beside = f"{figure('beside', old)} and {figure('candidate', new)}"
    rows = [
        ["drift", f"{loop.drift_detected_in}, after {loop.drift_detected_after_requests} requests"],
        ["drifted", ", ".join(loop.drifted) or "nothing"],
        ["alert", f"{loop.precision_alert_in}, after {loop.precision_alert_after_requests}"],
        ["retrained", f"{loop.retrained_version} in {loop.training_s} s: gates {loop.gates}"],
        ["rollout", loop.verdict or "none"],
        ["precision before", figure("before", loop.quality_before)],
        ["old and new, beside", beside],
        ["precision after", figure("after", loop.quality_after)],
        ["alert now", "closed" if loop.alert_closed else "stays"],
        ["because", loop.alert_message],
    ]
    typer.echo()
    print_table(["LOOP", ""], rows)
