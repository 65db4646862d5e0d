"""``approve``, ``reject`` and ``approvals …``: questions to people, and their answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from modelplane.cli import words
from modelplane.cli.columns import headers_of, rows_of
from modelplane.cli.options import Environment, Plain, PlainOutput, Reason
from modelplane.cli.output import print_json, print_table, remark
from modelplane.cli.session import Session, command, make_app
from modelplane.resources.approval import Approval, Delegation
from modelplane.resources.gate_run import Measurement, StageResult
from modelplane.resources.meta import DEFAULT_ENVIRONMENT

_LIST = "list"


class _ListByDefault(TyperGroup):
    """``approvals --mine`` is ``approvals list --mine``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command's name in front when none is given."""
        asks_help = bool(args) and args[0] in {"--help", "-h"}
        if not asks_help and (not args or args[0].startswith("-")):
            args = [_LIST, *args]
        return super().parse_args(ctx, args)


app = make_app()
approvals = typer.Typer(cls=_ListByDefault, rich_markup_mode=None, pretty_exceptions_enable=False)
app.add_typer(approvals, name="approvals", help="See who has to agree to what, and delegate.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the approval.")]


@command(
    app,
    "approve",
    examples=[
        "modelplane approve fraud-3.risk",
        "modelplane approve fraud-3.risk -e staging --reason 'the recall gain is worth it'",
    ],
)
def approve(
    session: Session,
    *,
    name: Name,
    environment: Environment = None,
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Agree to a promotion that an approval policy asks you about."""
    place = environment or DEFAULT_ENVIRONMENT
    _tell(session.client.approve(name, place, reason=reason), output)


@command(
    app,
    "reject",
    examples=["modelplane reject fraud-3.risk --reason 'no data from the new region'"],
)
def reject(
    session: Session,
    *,
    name: Name,
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; who made the version sees it.")
    ],
    environment: Environment = None,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Refuse a promotion that an approval policy asks you about; one refusal ends it."""
    place = environment or DEFAULT_ENVIRONMENT
    _tell(session.client.reject(name, place, reason=reason), output)


@command(
    approvals,
    _LIST,
    examples=[
        "modelplane approvals",
        "modelplane approvals --mine",
        "modelplane approvals list --all -e production -o json",
    ],
)
def list_(
    session: Session,
    *,
    mine: Annotated[bool, typer.Option("--mine", help="Only those that you may answer.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="Closed ones, too.")] = False,
    environment: Annotated[
        str | None, typer.Option("--environment", "-e", metavar="ENV", help="Only in it.")
    ] = None,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """List the open approvals; `modelplane approvals` alone does the same."""
    client = session.client
    found: Sequence[Approval]
    if mine:
        all_mine = client.my_approvals()
        found = [a for a in all_mine if environment in {None, a.metadata.environment}]
    else:
        listed = client.list(Approval, environment).items
        found = [a for a in listed if everything or a.status.phase == "Pending"]
    if output is Plain.JSON:
        print_json({"items": [approval.to_dict() for approval in found]})
    elif found:
        print_table(headers_of(Approval), rows_of(found, session.now()))
    else:
        remark("nothing waits for you" if mine else "no approvals are open; --all shows all")


@command(approvals, "show", examples=["modelplane approvals show fraud-3.risk -e staging"])
def show(
    session: Session,
    *,
    name: Name,
    environment: Environment = None,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Show an approval: what is asked of whom, what was answered, what the gates found."""
    client = session.client
    approval = client.get(Approval, name, environment or DEFAULT_ENVIRONMENT)
    found = (client.find(StageResult, result) for result in approval.spec.results)
    results = [result for result in found if result is not None]
    if output is Plain.JSON:
        evidence = [result.to_dict() for result in results]
        print_json({"approval": approval.to_dict(), "results": evidence})
        return
    for label, text in _facts(approval):
        typer.echo(f"{label:<13} {text}")
    _print_answers(approval)
    if results:
        typer.echo("")
        rows = [_row_of_result(result) for result in results]
        print_table(["STAGE", "CHECK", "PASSED", "MEASURED", "MESSAGE"], rows)
    else:
        remark("no results of gates stand behind it")


@command(
    approvals,
    "delegate",
    examples=[
        "modelplane approvals delegate --to ben --until 2d",
        "modelplane approvals delegate --to ben --until 2026-12-24T18:00:00Z --policy risk",
    ],
)
def delegate(
    session: Session,
    *,
    to: Annotated[str, typer.Option("--to", metavar="WHO", help="Who answers for you.")],
    until: Annotated[
        str, typer.Option("--until", metavar="TIME", help="How long, such as 2d; or a time.")
    ],
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", metavar="NAME", help="Only for it; may be repeated."),
    ] = None,
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Let somebody else answer for you until a time; it counts as your one answer."""
    made = session.client.delegate(to, until, policies=policy or (), reason=reason)
    if output is Plain.JSON:
        print_json(made.to_dict())
        return
    spec = made.spec
    what = ", ".join(spec.policies) or "all policies"
    typer.echo(
        f"{spec.delegate} answers for {spec.delegator} until {_moment(spec.ends_at)}: {what}"
    )
    remark(f"end it with: modelplane approvals revoke {made.metadata.name}")


@command(
    approvals,
    "delegations",
    examples=["modelplane approvals delegations"],
)
def delegations(session: Session, *, output: PlainOutput = Plain.TEXT) -> None:
    """List who answers for whom."""
    found = session.client.list(Delegation).items
    if output is Plain.JSON:
        print_json({"items": [delegation.to_dict() for delegation in found]})
    else:
        print_table(headers_of(Delegation), rows_of(found, session.now()))


@command(approvals, "revoke", examples=["modelplane approvals revoke d-3f2a9c01b7e4"])
def revoke(
    session: Session,
    *,
    delegation: Annotated[str, typer.Argument(metavar="DELEGATION", help="Its name.")],
    output: PlainOutput = Plain.TEXT,
) -> None:
    """End a delegation now."""
    ended = session.client.revoke_delegation(delegation)
    if output is Plain.JSON:
        print_json({"name": delegation, "result": "revoked"})
    else:
        typer.echo(f"{ended.spec.delegate} no longer answers for {ended.spec.delegator}")


def _tell(approval: Approval, output: Plain) -> None:
    if output is Plain.JSON:
        print_json(approval.to_dict())
        return
    status = approval.status
    typer.echo(f"approval/{approval.metadata.name} {status.phase}: {status.message}")


def _facts(approval: Approval) -> list[tuple[str, str]]:
    spec, status = approval.spec, approval.status
    who = ", ".join(
        [*(f"group {group}" for group in spec.approvers.groups), *spec.approvers.subjects]
    )
    facts = [
        ("Approval", approval.metadata.name),
        ("Environment", approval.metadata.environment or words.NOTHING),
        ("Model", f"{spec.model} {spec.version}"),
        ("Promotion", spec.promotion),
        ("Policy", f"{spec.policy} ({spec.team})" if spec.team else spec.policy),
        ("Asked", f"{who}; {spec.quorum} must agree"),
        ("Author", spec.author),
        ("Requested by", spec.requester),
        ("Phase", f"{status.phase}: {status.message}" if status.message else status.phase),
        ("Open until", _moment(spec.expires_at)),
        ("Revision", spec.revision_digest),
        ("Evidence", spec.evidence_digest),
    ]
    return [(label, text) for label, text in facts if text]


def _print_answers(approval: Approval) -> None:
    if not approval.status.decisions:
        return
    rows = [
        [
            f"{d.subject} for {d.on_behalf_of}" if d.on_behalf_of else d.subject,
            d.decision,
            _moment(d.at),
            "link" if d.link else "",
            d.reason,
        ]
        for d in approval.status.decisions
    ]
    typer.echo("")
    print_table(["WHO", "ANSWER", "AT", "BY", "REASON"], rows)


def _row_of_result(result: StageResult) -> list[str]:
    spec = result.spec
    outcome = spec.outcome
    measured = ", ".join(_measurement(m) for m in outcome.measurements if not m.slice)
    passed = "yes" if outcome.passed else "no"
    return [spec.stage, spec.check, passed, measured, outcome.message]


def _measurement(measurement: Measurement) -> str:
    champion = measurement.champion
    beside = "" if champion is None else f" (champion {champion:.4g})"
    return f"{measurement.name}={measurement.value:.4g}{beside}"


def _moment(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M}Z"
