"""``registry alias``, ``tag`` and ``correct``: what may change about a version, and how."""

from __future__ import annotations

from typing import Annotated

import typer

from modelplane.cli.options import Plain, PlainOutput
from modelplane.cli.output import print_json
from modelplane.cli.session import Session, command, make_app
from modelplane.decisions.corrections import read_value
from modelplane.errors import InvalidResource
from modelplane.resources.model import ModelVersion

commands = make_app()

Version = Annotated[
    str, typer.Argument(metavar="MODEL@VERSION", help="The version, such as fraud@1.2.0.")
]
Reason = Annotated[
    str, typer.Option("--reason", metavar="TEXT", help="Why; goes into the history.")
]


@command(
    commands,
    "alias",
    examples=[
        "modelplane registry alias fraud@1.2.0 champion --reason 'better recall'",
        "modelplane registry alias fraud@1.2.0 champion --remove",
    ],
)
def alias(
    session: Session,
    *,
    version: Version,
    name: Annotated[str, typer.Argument(metavar="ALIAS", help="Such as champion.")],
    remove: Annotated[bool, typer.Option("--remove", help="Take it away.")] = False,
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Let an alias name a version, or take it away.

    An alias names one version of a model at a time; every move is kept.
    """
    answer = session.client.act(
        ModelVersion, version, "alias", alias=name, remove=remove, reason=reason
    )
    if output is Plain.JSON:
        print_json(answer)
        return
    done = "removed from" if remove else "names"
    typer.echo(f"{name} {done} {version} ({answer['result']})")


@command(
    commands,
    "tag",
    examples=[
        "modelplane registry tag fraud@1.2.0 team=risk tier=1",
        "modelplane registry tag fraud@1.2.0 tier-",
    ],
)
def tag(
    session: Session,
    *,
    version: Version,
    changes: Annotated[
        list[str], typer.Argument(metavar="KEY=VALUE|KEY-...", help="Set a tag, or remove it.")
    ],
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Set tags of a version, and remove those that end with a minus sign."""
    pairs = [_parse_change(change) for change in changes]
    answer = session.client.act(ModelVersion, version, "tag", tags=dict(pairs), reason=reason)
    if output is Plain.JSON:
        print_json(answer)
        return
    typer.echo(f"{version} tagged ({answer['result']})")


@command(
    commands,
    "correct",
    examples=[
        "modelplane registry correct fraud@1.2.0 metrics.accuracy=0.91 --reason 'wrong test set'",
        "modelplane registry correct fraud@1.2.0 metrics.recall- --reason 'never measured'",
    ],
)
def correct(
    session: Session,
    *,
    version: Version,
    change: Annotated[
        str,
        typer.Argument(
            metavar="FIELD=VALUE|FIELD-",
            help="What it should have been, or that it should not be there.",
        ),
    ],
    reason: Annotated[
        str, typer.Option("--reason", metavar="TEXT", help="Why; required.", show_default=False)
    ],
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Say what a version's record should have said.

    The record stays as it was registered; the correction stands beside it, with who and why,
    and counts wherever the version is searched or shown. Metrics, parameters, flavour, feature
    configuration and what is known of the training can be corrected; a wrong file or dataset
    takes a new version.
    """
    field, text = _parse_change(change)
    value = None if text is None else read_value(field, text)
    corrected = session.client.correct_version(version, field, value, reason=reason)
    if output is Plain.JSON:
        print_json(corrected.to_dict())
        return
    count = len(corrected.status.corrections)
    typer.echo(f"{version} {field} corrected ({count} correction{'s' if count > 1 else ''})")


def _parse_change(text: str) -> tuple[str, str | None]:
    """Return ``KEY=VALUE`` as key and value, ``KEY-`` as key and None."""
    key, equals, value = text.partition("=")
    if equals and key.strip():
        return key.strip(), value
    if not equals and len(key) > 1 and key.endswith("-"):
        return key[:-1], None
    raise InvalidResource(f"{text!r}: write it like key=value, or key- to remove it")
