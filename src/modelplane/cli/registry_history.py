"""``registry history``: which version was what, when, who moved it, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from modelplane.cli import words
from modelplane.cli.moments import parse_moment, show_moment
from modelplane.cli.options import Plain, PlainOutput
from modelplane.cli.output import print_json, print_table, remark
from modelplane.cli.session import Session, command, make_app
from modelplane.decisions.history import Named
from modelplane.resources.meta import API_VERSION
from modelplane.resources.model import AliasMove

commands = make_app()

_ORIGINS = {"request": "asked for", "rollout": "rollout", "outside": "outside modelplane"}


@command(
    commands,
    "history",
    examples=[
        "modelplane registry history fraud --at 'tuesday 14:02'",
        "modelplane registry history fraud --at '2026-11-17 14:02' -e production",
        "modelplane registry history fraud --alias champion",
        "modelplane registry history fraud --at '2h ago' -o json",
    ],
)
def history(
    session: Session,
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model.")],
    at: Annotated[
        str | None,
        typer.Option(
            "--at",
            metavar="TIME",
            help="What was what then: a date, a time, 'tuesday 14:02', '2h ago'; local "
            "unless it says its zone.",
        ),
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option("--environment", "-e", metavar="ENV", help="Only what served in it."),
    ] = None,
    alias: Annotated[
        str | None,
        typer.Option("--alias", metavar="ALIAS", help="Only this: champion, challenger, yours."),
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="COUNT", min=1, help="How many moves at the most.")
    ] = 100,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Show who moved which alias, champion and challenger from where to where, when and why.

    With --at: which version each of them was at that moment, and the move that made it so.
    The history stays when the model is deleted.
    """
    only = {"environment": environment, "alias": alias}
    if at is None:
        moves = session.client.history(model, limit=limit, **only)
        _print_moves(moves, limit, output)
        return
    moment = parse_moment(at, session.now())
    named = session.client.history_at(model, moment, **only)
    if output is Plain.JSON:
        items = [item.to_dict() for item in named]
        head = {"apiVersion": API_VERSION, "kind": "ModelHistory", "model": model}
        print_json({**head, "at": moment.isoformat(), "items": items})
        return
    remark(f"{model} at {show_moment(moment)}:")
    if not named:
        remark("nothing was named then" + (" by what you asked for" if any(only.values()) else ""))
        return
    headers = ["WHAT", "WHERE", "VERSION", "SINCE", "BY", "WHY", "HOW"]
    print_table(headers, [_row_of_named(item) for item in named])


def _print_moves(moves: Sequence[AliasMove], limit: int, output: Plain) -> None:
    if output is Plain.JSON:
        print_json({"items": [move.to_dict() for move in moves]})
        return
    if not moves:
        remark("nothing was moved")
        return
    headers = ["AT", "WHAT", "WHERE", "FROM", "TO", "BY", "WHY", "HOW"]
    print_table(headers, [_row_of_move(move) for move in moves])
    if len(moves) == limit:
        remark(f"these are the newest {limit}; --limit shows more")


def _row_of_named(item: Named) -> list[str]:
    return [
        item.alias,
        _where(item.environment, item.deployment),
        item.version,
        show_moment(item.since),
        item.subject,
        item.reason or words.NOTHING,
        _how(item.origin, item.promotion),
    ]


def _row_of_move(move: AliasMove) -> list[str]:
    spec = move.spec
    return [
        show_moment(spec.at),
        spec.alias,
        _where(spec.environment, spec.deployment),
        spec.before or words.NOTHING,
        spec.after or words.NOTHING,
        spec.subject,
        spec.reason or words.NOTHING,
        _how(spec.origin, spec.promotion),
    ]


def _where(environment: str | None, deployment: str | None) -> str:
    return f"{environment}/{deployment}" if environment else "alias"


def _how(origin: str, promotion: str | None) -> str:
    way = _ORIGINS[origin]
    return f"{way}, promotion {promotion}" if promotion else way
