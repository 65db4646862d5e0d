"""``auth …``: who am I, and may I."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from modelplane.cli.options import Environment, Plain, PlainOutput
from modelplane.cli.output import print_json, print_table, remark
from modelplane.cli.session import Session, command, make_app

app = make_app()
auth = make_app()
app.add_typer(auth, name="auth", help="Ask who one is, and who may do what.")


@command(
    auth,
    "can-i",
    examples=[
        "modelplane auth can-i promote ModelDeployment",
        "modelplane auth can-i steer rollout -e staging --as anna",
        "modelplane auth can-i apply ModelVersion --model fraud",
    ],
)
def can_i(
    session: Session,
    *,
    verb: Annotated[
        str, typer.Argument(metavar="VERB", help="get, list, apply, delete, promote, steer, run …")
    ],
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="A kind, or Artifact, Audit, Evidence …")
    ],
    environment: Environment = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME", help="The model that it would be about."),
    ] = None,
    as_: Annotated[
        str | None,
        typer.Option("--as", metavar="SUBJECT", help="Ask about this token instead of one's own."),
    ] = None,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Say whether something is allowed, and by which rule; exit code 1 when it is not.

    `list` and `watch` without an environment are over all of them.
    """
    answer = session.client.can_i(verb, kind, environment, model=model, subject=as_)
    if output is Plain.JSON:
        told = {"allowed": answer.allowed, "rule": answer.rule, "message": answer.message}
        print_json(told)
    else:
        typer.echo(f"yes (rule {answer.rule})" if answer else "no")
        if not answer:
            remark(answer.message)
    if not answer:
        raise typer.Exit(1)


@command(auth, "whoami", examples=["modelplane auth whoami", "modelplane auth whoami -o json"])
def whoami(session: Session, *, output: PlainOutput = Plain.TEXT) -> None:
    """Show the name, the groups and the roles of the token in use."""
    told = session.client.whoami()
    if output is Plain.JSON:
        print_json(told)
        return
    typer.echo(f"{told['name']} (groups: {', '.join(told['groups']) or 'none'})")
    if told["roles"]:
        print_table(
            ["ROLE", "BINDING", "ENVIRONMENTS", "MODELS"], [_row(role) for role in told["roles"]]
        )
    else:
        remark("no role is bound to these groups: this token may do nothing")


def _row(role: dict[str, Any]) -> list[str]:
    models = role.get("models", {})
    labels = [f"{name}={value}" for name, value in models.get("labels", {}).items()]
    return [
        role["role"],
        role["binding"],
        ",".join(role.get("environments", ())) or "all",
        ",".join([*models.get("names", ()), *labels]) or "all",
    ]
