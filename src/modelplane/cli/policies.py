"""``policy …``: what policies would decide, now and of what has been. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Annotated

import typer

from modelplane.cli import words
from modelplane.cli.analysis_replay import ProposedSettings, print_analysis, settings_in
from modelplane.cli.files import load_manifests
from modelplane.cli.moments import parse_moment, show_moment
from modelplane.cli.options import Files, Plain, PlainOutput
from modelplane.cli.output import print_json, print_table, remark
from modelplane.cli.session import Session, command, make_app
from modelplane.client.policies import AnyPolicy, PolicyTrial
from modelplane.decisions.analysis_replay import AnalysisReplay
from modelplane.decisions.policy_replay import PolicyReplay, Replayed
from modelplane.errors import InvalidResource
from modelplane.resources.approval import ApprovalPolicy
from modelplane.resources.environment import Environment
from modelplane.resources.manifest import AnyResource
from modelplane.resources.meta import DEFAULT_ENVIRONMENT
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion_policy import PromotionPolicy

app = make_app()
policy = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
app.add_typer(policy, name="policy", help="Try policies on a version, and replay them.")


@command(
    policy,
    "replay",
    examples=[
        "modelplane policy replay -f stricter.yaml",
        "modelplane policy replay -f policies/ --since '30d ago' -o json",
        "modelplane policy replay -f deployment-with-other-analysis.yaml",
    ],
)
def replay(
    session: Session,
    *,
    files: Files,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Only promotions asked for since then."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Show every promotion, not only what would change.")
    ] = False,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Run proposed policies and analysis settings over the past, and show what would flip.

    Policies of the same name are replaced by the proposed ones, the others count as they are.
    What is asked: results of gates, approvals and freezes as they were at the time. A
    ModelDeployment or an Environment with a canary proposes analysis settings: they judge the
    recorded rollouts anew.
    """
    moment = parse_moment(since, session.now()) if since is not None else None
    policies, settings = _split(load_manifests(files))
    found = session.client.replay_policies(policies, since=moment) if policies else None
    tried = [(one, _replay_analysis(session, one, moment)) for one in settings]
    if output is Plain.JSON:
        told = [{"settings": str(one), **result.to_dict()} for one, result in tried]
        print_json({**(found.to_dict() if found else {}), **({"analysis": told} if told else {})})
        return
    if found is not None:
        _print_replay(found, everything=everything)
    for one, result in tried:
        print_analysis(one, result, everything=everything)


def _replay_analysis(
    session: Session, settings: ProposedSettings, since: datetime | None
) -> AnalysisReplay:
    return session.client.replay_analysis(
        settings.analysis, settings.environment, settings.deployment, since=since
    )


def _print_replay(found: PolicyReplay, *, everything: bool) -> None:
    shown = [item for item in found.items if everything or item.flips]
    if shown:
        headers = ["WHERE", "PROMOTION", "MODEL", "VERSION", "AT", "WAS", "WOULD BE", "BECAUSE"]
        print_table(headers, [_row(item) for item in shown])
    remark(_sum_up(found))


@command(
    policy,
    "test",
    examples=[
        "modelplane policy test fraud@1.2.0 -e production",
        "modelplane policy test fraud@latest -e staging -f stricter.yaml",
    ],
)
def try_(
    session: Session,
    *,
    version: Annotated[
        str, typer.Argument(metavar="MODEL@VERSION", help="The version; `latest` may stand for it.")
    ],
    environment: Annotated[
        str, typer.Option("--environment", "-e", metavar="ENV", help="Where it is to go.")
    ] = DEFAULT_ENVIRONMENT,
    files: Annotated[
        list[str] | None,
        typer.Option(
            "--file", "-f", metavar="FILE|DIR|-", help="Proposed policies; may be repeated."
        ),
    ] = None,
    deployment: Annotated[
        str | None,
        typer.Option("--deployment", metavar="NAME", help="Where the model has several."),
    ] = None,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Say what would be decided of a version now, and why.

    The exit code is 1 when it could not go there at once.
    """
    proposed = _load(files) if files else []
    trial = session.client.test_policies(version, environment, proposed, deployment=deployment)
    if output is Plain.JSON:
        print_json(trial.to_dict())
    else:
        _print_trial(trial)
    if not trial.allowed:
        raise typer.Exit(1)


def _load(files: Sequence[str]) -> list[AnyPolicy]:
    policies, settings = _split(load_manifests(files))
    if settings:
        raise InvalidResource(f"{settings[0]} is no policy")
    return policies


def _split(
    resources: Iterable[AnyResource],
) -> tuple[list[AnyPolicy], list[ProposedSettings]]:
    """Return the policies and the analysis settings among `resources`."""
    policies: list[AnyPolicy] = []
    settings: list[ProposedSettings] = []
    for resource in resources:
        if isinstance(resource, PromotionPolicy | ApprovalPolicy):
            policies.append(resource)
        elif isinstance(resource, ModelDeployment | Environment):
            settings.append(settings_in(resource))
        else:
            raise InvalidResource(
                f"{resource.key} is no policy, and declares no analysis",
                hint="give PromotionPolicy and ApprovalPolicy, or a ModelDeployment or "
                "Environment with a canary; apply anything else first",
            )
    return policies, settings


def _print_trial(trial: PolicyTrial) -> None:
    where = f"{trial.model}@{trial.version} to {trial.environment}"
    typer.echo(f"{where}: {trial.phase}  {trial.message}".rstrip())
    rows = [[p.kind, p.name, p.outcome, p.message or words.NOTHING] for p in trial.policies]
    rows += [["Gate", g.pipeline, g.phase, g.run or words.NOTHING] for g in trial.gates]
    rows += [["Approval", name, "needed", words.NOTHING] for name in trial.approvals]
    if rows:
        print_table(["KIND", "NAME", "OUTCOME", "MESSAGE"], rows)


def _row(item: Replayed) -> list[str]:
    return [
        item.environment,
        item.promotion,
        item.model,
        item.version,
        show_moment(item.requested_at) if item.requested_at else words.NOTHING,
        item.was,
        item.would,
        (item.would_because if item.would != "allowed" else item.was_because) or words.NOTHING,
    ]


def _sum_up(found: PolicyReplay) -> str:
    decided = len(found.items)
    parts = [f"{found.flips} of {decided} decisions would flip"]
    told = [f"{count} {name.replace('-', ' → ')}" for name, count in found.counts.items()]
    if told:
        parts.append(", ".join(told))
    left_out = [
        f"{count} {what}"
        for count, what in (
            (found.undecided, "never decided"),
            (found.exempt, "went back to what served before"),
        )
        if count
    ]
    if left_out:
        parts.append(f"left out: {', '.join(left_out)}")
    return "; ".join(parts)
