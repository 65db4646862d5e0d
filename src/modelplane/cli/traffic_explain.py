"""``traffic explain``: which version is this user on, and why?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import typer

from modelplane.cli.options import Environment, Plain, PlainOutput
from modelplane.cli.output import print_json, remark
from modelplane.cli.session import Session, command, make_app
from modelplane.decisions.assignment import Explanation
from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.meta import DEFAULT_ENVIRONMENT

commands = make_app()


@command(
    commands,
    "explain",
    examples=[
        "modelplane traffic explain fraud --user alice",
        "modelplane traffic explain fraud --user alice --header x-user-region=west",
        "modelplane traffic explain fraud --user alice --input amount=300 -e staging -o json",
    ],
)
def explain(
    session: Session,
    *,
    deployment: Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="Its name.")],
    user: Annotated[
        str | None,
        typer.Option(
            "--user",
            "-u",
            metavar="ID",
            help="What tells the user apart: the value of the user header or cookie.",
        ),
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header", "-H", metavar="NAME=VALUE", help="Of the request; may be repeated."
        ),
    ] = None,
    input: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=VALUE",
            help="Field of the body: a number, true, false or text; may be repeated.",
        ),
    ] = None,
    environment: Environment = None,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Say which version a request meets, and why: the same answer as the gateway gives."""
    found = session.client.explain(
        deployment,
        user,
        environment=environment or DEFAULT_ENVIRONMENT,
        headers=dict(_pairs("--header", header or ())),
        inputs={name: _scalar(value) for name, value in _pairs("--input", input or ())},
    )
    if output is Plain.JSON:
        print_json(found.to_dict())
        return
    for line in format_explanation(found):
        typer.echo(line)
    for note in found.notes:
        remark(f"note: {note}")


def format_explanation(found: Explanation) -> list[str]:
    """Return an explanation as lines: the version first, then step by step why."""
    version = found.version
    if version is None:
        version = "refused" if found.reason == "refused" else "a version at random"
    lines = [f"{found.deployment} in {found.environment}: {version}"]
    lines += [f"  {step}" for step in found.why]
    if found.predicate:
        lines.append(f"  {found.rule} is: {found.predicate}")
    return lines


def _pairs(option: str, given: Sequence[str]) -> list[tuple[str, str]]:
    pairs = [tuple(each.partition("=")) for each in given]
    faults = [
        FieldError(option, f"write NAME=VALUE, got {''.join(pair)[:60]!r}")
        for pair in pairs
        if not pair[0] or not pair[1]
    ]
    if faults:
        raise InvalidResource("the options are not valid", faults)
    return [(pair[0], pair[2]) for pair in pairs]


def _scalar(text: str) -> float | str | bool:
    """Return what stands for a JSON scalar as that, and anything else as text."""
    try:
        value = json.loads(text, parse_constant=str)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float | str) else text
