"""``contract …``: what consumers expect of models, and what may therefore be deployed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from modelplane.cli.columns import headers_of, rows_of
from modelplane.cli.options import Plain, PlainOutput, Reason
from modelplane.cli.output import print_json, print_table
from modelplane.cli.session import Session, command, make_app
from modelplane.decisions.deployability import Deployability, MatrixRow
from modelplane.decisions.pacts import Interaction, read_pact
from modelplane.errors import InvalidResource
from modelplane.resources.contract import Contract, Verification

app = make_app()
contract = make_app()
app.add_typer(
    contract, name="contract", help="Publish what consumers expect, and ask what may be deployed."
)

_ANSWERS = {True: "yes", False: "no", None: "not known"}

Consumer = Annotated[str, typer.Argument(metavar="CONSUMER", help="As its pacts call it.")]
ConsumerVersion = Annotated[
    str, typer.Argument(metavar="VERSION", help="Of the consumer; latest: the one published last.")
]
Where = Annotated[str, typer.Option("--environment", "-e", metavar="ENV", help="The environment.")]


@command(
    contract,
    "publish",
    examples=[
        "modelplane contract publish pacts/shop-fraud.json --consumer-version 3.1.0",
        "modelplane contract publish shop-fraud.json --consumer-version 8f2c1d0 -e production",
    ],
)
def publish(
    session: Session,
    *,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A pact file, version 2, 3 or 4.")],
    consumer_version: Annotated[
        str,
        typer.Option(
            "--consumer-version",
            metavar="VERSION",
            help="Version of the consumer: a semantic version, a commit …",
            show_default=False,
        ),
    ],
    environment: Annotated[
        list[str] | None,
        typer.Option(
            "--environment",
            "-e",
            metavar="ENV",
            help="Where this version of the consumer is deployed; may be repeated.",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="If the pact calls it otherwise."),
    ] = None,
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Publish a consumer's pact with a model.

    Pipelines that ask for it (`triggers: {onContract: true}`) then verify it. The same pact again
    changes nothing; a changed one needs another version of the consumer.
    """
    done = session.client.publish_contract(
        file, consumer_version, environments=environment or (), model=model, reason=reason
    )
    if output is Plain.JSON:
        print_json({"result": done.result, "resource": done.resource.to_dict()})
        return
    spec = done.resource.spec
    count = len(spec.pact["interactions"])
    where = f", deployed in {', '.join(spec.environments)}" if spec.environments else ""
    told = f"{count} interaction{'' if count == 1 else 's'} with {spec.model}{where}"
    typer.echo(f"contract/{done.resource.metadata.name} {done.result}: {told}")


@command(
    contract,
    "list",
    examples=["modelplane contract list", "modelplane contract list --model fraud -o json"],
)
def list_(
    session: Session,
    *,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="Only with this model.")
    ] = None,
    consumer: Annotated[
        str | None, typer.Option("--consumer", metavar="CONSUMER", help="Only of this consumer.")
    ] = None,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """List the contracts: which versions of the models keep them, and where consumers run."""
    found = [
        item
        for item in session.client.list(Contract).items
        if model in {None, item.spec.model} and consumer in {None, item.spec.consumer}
    ]
    if output is Plain.JSON:
        print_json({"items": [item.to_dict() for item in found]})
    else:
        print_table(headers_of(Contract), rows_of(found, session.now()))


@command(contract, "show", examples=["modelplane contract show shop.fraud@3.1.0"])
def show(
    session: Session,
    *,
    name: Annotated[
        str, typer.Argument(metavar="CONTRACT", help="Its name: CONSUMER.MODEL@VERSION.")
    ],
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Show what a consumer asks and expects, and which versions of the model keep to it."""
    found = session.client.get(Contract, name)
    if output is Plain.JSON:
        print_json(found.to_dict())
        return
    spec = found.spec
    typer.echo(f"{spec.consumer} {spec.consumer_version} expects of {spec.model}:")
    print_table(
        ["INTERACTION", "REQUEST", "STATUS"],
        [_tell_interaction(item) for item in read_pact(spec.pact).interactions],
    )
    where = ", ".join(spec.environments) or "nowhere, as far as is recorded"
    typer.echo(f"\ndeployed: {where}\n")
    if not found.status.verifications:
        typer.echo("not verified yet")
        return
    newest_first = reversed(found.status.verifications)
    print_table(
        ["VERSION", "KEPT", "AT", "RESULT", "MESSAGE"],
        [_tell_verification(verification) for verification in newest_first],
    )


@command(
    contract,
    "record-deployment",
    examples=["modelplane contract record-deployment shop 3.1.0 --environment production"],
)
def record_deployment(
    session: Session,
    *,
    consumer: Consumer,
    version: ConsumerVersion,
    environment: Where,
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Say that a version of a consumer runs in an environment; its other versions leave it.

    From then on a version of the model may go there only when it keeps that contract.
    """
    _record(session, consumer, version, environment, deployed=True, reason=reason, output=output)


@command(
    contract,
    "record-undeployment",
    examples=["modelplane contract record-undeployment shop 3.1.0 --environment staging"],
)
def record_undeployment(
    session: Session,
    *,
    consumer: Consumer,
    version: ConsumerVersion,
    environment: Where,
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Say that a version of a consumer runs in an environment no more."""
    _record(session, consumer, version, environment, deployed=False, reason=reason, output=output)


def _record(
    session: Session,
    consumer: str,
    version: str,
    environment: str,
    *,
    deployed: bool,
    reason: str,
    output: Plain,
) -> None:
    answer = session.client.record_deployment(
        consumer, version, environment, deployed=deployed, reason=reason
    )
    if output is Plain.JSON:
        print_json(answer)
        return
    verb = "is in" if deployed else "left"
    typer.echo(f"{consumer} {answer['consumerVersion']} {verb} {environment} ({answer['result']})")


@command(
    contract,
    "can-i-deploy",
    examples=[
        "modelplane contract can-i-deploy fraud@1.2.0 --to production",
        "modelplane contract can-i-deploy shop@3.1.0 --to production -o json",
    ],
)
def can_i_deploy(
    session: Session,
    *,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME@VERSION", help="A version of a model or of a consumer; or @latest."
        ),
    ],
    to: Annotated[
        str, typer.Option("--to", metavar="ENV", help="Where it is to go.", show_default=False)
    ],
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Say whether a version may go to an environment, by the contracts there.

    A model's version must be kept to every consumer that runs there, a consumer's version by what
    serves there. Exits with 0 when it may, with 1 when it may not or something was not verified.
    """
    pacticipant, at, version = name.rpartition("@")
    if not at or not pacticipant or not version:
        raise InvalidResource(f"{name!r}: write it NAME@VERSION, such as fraud@1.2.0")
    answer = session.client.can_i_deploy(pacticipant, version, to)
    if output is Plain.JSON:
        print_json(answer.model_dump(mode="json", by_alias=True))
    else:
        _tell(answer)
    if answer.summary.deployable is not True:
        raise typer.Exit(1)


def _tell(answer: Deployability) -> None:
    if answer.matrix:
        headers = ["CONSUMER", "VERSION", "PROVIDER", "VERSION", "KEPT", "VERIFIED", "MESSAGE"]
        print_table(headers, [_tell_row(row) for row in answer.matrix])
        typer.echo()
    typer.echo(f"{_ANSWERS[answer.summary.deployable]}: {answer.summary.reason}")


def _tell_row(row: MatrixRow) -> list[str]:
    found = row.verification_result
    told = [_ANSWERS[found.success], _moment(found.verified_at), found.message] if found else None
    return [
        row.consumer.name, row.consumer.version or "", row.provider.name,
        row.provider.version or "none", *(told or ["not known", "", ""]),
    ]  # fmt: skip


def _tell_interaction(item: Interaction) -> list[str]:
    states = f" (given {', '.join(item.states)})" if item.states else ""
    return [f"{item.description}{states}", f"{item.method} {item.path}", str(item.status)]


def _tell_verification(found: Verification) -> list[str]:
    return [
        found.version, _ANSWERS[found.passed], _moment(found.at), found.result, found.message
    ]  # fmt: skip


def _moment(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}Z"
