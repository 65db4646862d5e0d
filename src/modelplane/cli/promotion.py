"""``promote``: a version of a deployment to an environment."""

from __future__ import annotations

from typing import Annotated

import typer

from modelplane.cli.following import follow_promotion
from modelplane.cli.manifests import applied_to_dict, describe_applied
from modelplane.cli.options import Plain, PlainOutput, Reason, Timeout
from modelplane.cli.output import print_json, warn
from modelplane.cli.session import Session, command, make_app

app = make_app()


@command(
    app,
    "promote",
    examples=[
        "modelplane promote fraud --version 1.2.0 --to production",
        "modelplane promote fraud --to production --wait --reason 'good in staging'",
    ],
)
def promote(
    session: Session,
    *,
    deployment: Annotated[
        str, typer.Argument(metavar="DEPLOYMENT", help="Name of the deployment.")
    ],
    to: Annotated[str, typer.Option("--to", metavar="ENV", help="Environment to promote to.")],
    version: Annotated[
        str | None,
        typer.Option(
            "--version",
            metavar="VERSION",
            help="Semantic version, number or latest; left out: what serves in the environment "
            "before.",
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the rollout to its end.")] = False,
    timeout: Timeout = "1h",
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Promote a version of a deployment to an environment.

    A deployment that is not there yet is made from the one in the environment before. With
    --wait the exit code is 1 when the version was not promoted.
    """
    done = session.client.promote(deployment, version, to=to, reason=reason)
    for text in done.warnings:
        warn(text)
    if output is Plain.JSON:
        print_json(applied_to_dict(done))
    else:
        typer.echo(describe_applied(done))
    promotion = done.promotion if wait else None
    if promotion is not None and not follow_promotion(session, promotion, timeout=timeout):
        raise typer.Exit(1)
