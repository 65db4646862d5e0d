"""``up`` and ``down``: a whole modelplane on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from modelplane.cli.members import (
    child_variables,
    find_gateways,
    keep_leftovers,
    keep_members,
    make_members,
    make_supervisor,
)
from modelplane.cli.options import Plain, PlainOutput
from modelplane.cli.output import print_json, remark
from modelplane.cli.progress import working
from modelplane.cli.session import Session, command, make_app
from modelplane.errors import Conflict
from modelplane.settings import Settings, load_settings
from modelplane.supervisor.detaching import detach
from modelplane.supervisor.lock import find_holder
from modelplane.supervisor.stopping import Progress, stop_all
from modelplane.supervisor.supervisor import run_until_signal
from modelplane.wiring.state import prepare_state

HEALTHY_WITHIN_S = 90.0
_LOOK_EVERY_S = 0.2

app = make_app()

Host = Annotated[
    str | None,
    typer.Option("--host", metavar="ADDRESS", help="Where API and gateways listen."),
]
ApiPort = Annotated[
    int | None, typer.Option("--api-port", metavar="PORT", help="Port of the API; default 7080.")
]
StagingPort = Annotated[
    int | None,
    typer.Option("--staging-port", metavar="PORT", help="Staging's gateway; default 7081."),
]
ProductionPort = Annotated[
    int | None,
    typer.Option("--production-port", metavar="PORT", help="Production's gateway; default 7082."),
]


@command(
    app,
    "up",
    examples=[
        "modelplane up",
        "modelplane up --detach",
        "modelplane up --state /var/lib/modelplane --api-port 8080 --detach",
    ],
)
def up(
    session: Session,
    *,
    host: Host = None,
    api_port: ApiPort = None,
    staging_port: StagingPort = None,
    production_port: ProductionPort = None,
    detached: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once everything answers.")
    ] = False,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Start the control plane, the agent and the gateways; Ctrl-C drains and stops them all.

    What a killed `up` left running is taken back. Environments staging and production exist from
    the start. Beyond loopback the gateways ask for the token in STATE/gateway-token.
    """
    overrides = _overrides(host, api_port, staging_port, production_port)
    settings = load_settings(state=session.state, **overrides)
    prepare_state(settings.paths)
    if detached:
        with working("starting the control plane, the agent and the gateways"):
            gateways = asyncio.run(start_detached(settings, overrides))
        tell_ready(settings, gateways, output)
    else:
        asyncio.run(_run(settings, overrides, output))


def _overrides(
    host: str | None, api_port: int | None, staging: int | None, production: int | None
) -> dict[str, Any]:
    return {
        "api_host": host,
        "gateway_host": host,
        "api_port": api_port,
        "staging_port": staging,
        "production_port": production,
    }


async def _run(settings: Settings, overrides: dict[str, Any], output: Plain) -> None:
    """Run in the foreground, and say when everything answers."""
    variables = child_variables(overrides, settings.paths)
    supervisor = make_supervisor(settings, variables, tell_progress)
    announcing = asyncio.create_task(_announce(settings, output))
    try:
        await run_until_signal(supervisor)
    finally:
        announcing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await announcing


async def _announce(settings: Settings, output: Plain) -> None:
    while (gateways := await find_gateways(settings)) is None:  # noqa: ASYNC110 - over HTTP
        await asyncio.sleep(_LOOK_EVERY_S)
    tell_ready(settings, gateways, output)


async def start_detached(settings: Settings, overrides: dict[str, Any]) -> dict[str, str]:
    """Start `up` in the background; return the gateways' addresses once everything answers.

    Raises
    ------
    Conflict
        One runs on this state directory already.
    TerminalError
        It did not get healthy, with the end of its log; nothing runs then.
    """
    holder = find_holder(settings.paths.lock)
    if holder is not None:
        raise Conflict(
            f"modelplane is already running on {settings.state_dir} (pid {holder})",
            hint="stop it with modelplane down, or use another --state directory",
        )
    found: dict[str, str] = {}

    async def is_healthy() -> bool:
        found.update(await find_gateways(settings) or {})
        return bool(found)

    await detach(
        [sys.executable, "-m", "modelplane.cli", "up"],
        env=child_variables(overrides, settings.paths),
        log_path=settings.paths.logs / "up.log",
        is_healthy=is_healthy,
        timeout_s=HEALTHY_WITHIN_S,
    )
    return found


def tell_ready(settings: Settings, gateways: dict[str, str], output: Plain) -> None:
    """Say where everything is and what to do next."""
    paths = settings.paths
    if output is Plain.JSON:
        print_json(
            {
                "api": settings.api_url,
                "gateways": gateways,
                "state": str(paths.state_dir),
                "tokenFile": str(paths.admin_token),
            }
        )
        return
    rows = {"API": settings.api_url, **gateways, "token": f"{paths.admin_token}"}
    width = max(map(len, rows)) + 2
    lines = [f"modelplane is up; its state is {paths.state_dir}", ""]
    lines += [f"  {name:{width}}{text}" for name, text in rows.items()]
    lines += ["", "The command line finds the token by itself" + _where(paths.state_dir)]
    lines += ["Next: modelplane push NAME --version 1.0.0 --artifact PATH"]
    typer.echo("\n".join(lines))


def _where(state_dir: Path) -> str:
    if state_dir == Path(".modelplane").absolute():
        return " in this directory."
    return f" with MODELPLANE_STATE={state_dir}"


def tell_progress(progress: Progress) -> None:
    """Say on stderr what a process does."""
    remark(f"{progress.process}: {progress.message}")


@command(app, "down", examples=["modelplane down", "modelplane down --state /var/lib/modelplane"])
def down(session: Session, *, output: PlainOutput = Plain.TEXT) -> None:
    """Stop everything that `up` started: drain the gateways, then stop every process.

    Works when `up` itself was killed too. Nothing is left running.
    """
    settings = load_settings(state=session.state)
    stopped = asyncio.run(stop(settings))
    if output is Plain.JSON:
        print_json({"stopped": stopped, "state": str(settings.state_dir)})
    else:
        where = f"state {settings.state_dir}"
        typer.echo(f"stopped; {where}" if stopped else f"nothing was running; {where}")


async def stop(settings: Settings) -> bool:
    """Stop a modelplane; return whether any of it ran."""
    paths = settings.paths
    if not paths.state_dir.is_dir():
        return False
    return await stop_all(
        paths.lock,
        make_members(paths, {}),
        keep_members(paths),
        keep_leftovers(paths),
        tell=tell_progress,
    )
