"""``get``, ``describe`` and ``delete``: resources that are there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from modelplane.cli.columns import headers_of, rows_of
from modelplane.cli.description import describe_resource
from modelplane.cli.kinds import parse_pairs, parse_target, place_of
from modelplane.cli.options import Environment, Format, Output, Plain, PlainOutput, Reason
from modelplane.cli.output import (
    format_yaml,
    print_json,
    print_json_line,
    print_table,
    print_yaml,
    remark,
    terminal_width,
)
from modelplane.cli.session import Session, command, make_app
from modelplane.cli.tables import format_table
from modelplane.errors import Conflict, InvalidResource, TransientError
from modelplane.resources.meta import API_VERSION, Resource

AnyResource = Resource[Any, Any]

RECONNECT_S = 1.0

app = make_app()

Target = Annotated[
    list[str], typer.Argument(metavar="KIND [NAME]...", help="Such as deployments, or rollout/x.")
]
All = Annotated[bool, typer.Option("--all", "-A", help="All environments.")]


@command(
    app,
    "get",
    examples=[
        "modelplane get deployments -A",
        "modelplane get deployment fraud -e staging -o yaml",
        "modelplane get rollouts -w",
        "modelplane get models -l team=risk -o name",
        "modelplane get versions -o json",
    ],
)
def get(
    session: Session,
    *,
    target: Target,
    environment: Environment = None,
    all_environments: All = False,
    selector: Annotated[
        str | None, typer.Option("--selector", "-l", metavar="KEY=VALUE,…", help="By labels.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show changes, for ever.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """List resources, show one, or watch them.

    What prints with -o yaml can be changed and applied again. Deleted versions are not listed;
    "modelplane registry search 'deleted = true'" finds them.
    """
    kind, names = parse_target(target)
    place = None if all_environments else place_of(kind, environment)
    if all_environments and names and kind.scoped:
        raise InvalidResource("--all lists; leave it out to get a resource by name")
    labels = parse_pairs("--selector", selector.split(",")) if selector else {}
    if names and not watch:
        found = [session.client.get(kind, name, place) for name in names]
        _print(session, kind, found, output, single=len(names) == 1)
        return
    listing = session.client.list(kind, place, labels=labels)
    items = [item for item in listing.items if not names or item.metadata.name in names]
    if not watch:
        _print(session, kind, items, output)
        return
    _print_changes(session, kind, items, output)
    _watch(session, kind, place, listing.resource_version, names, labels, output)


def _watch(  # noqa: PLR0917 - what to watch, and how to show it
    session: Session,
    kind: type[AnyResource],
    place: str | None,
    since: int,
    names: Sequence[str],
    labels: dict[str, str],
    output: Format,
) -> None:
    """Print changes until the person has seen enough; go on where a connection broke."""
    while True:
        try:
            for change in session.client.watch(kind, since, place):
                since = change.resource_version
                resource = change.resource
                if names and resource.metadata.name not in names:
                    continue
                if labels.items() - resource.metadata.labels.items():
                    continue
                _print_changes(session, kind, [resource], output, change=change.type)
        except TransientError as error:
            remark(f"{error.message}; trying again")
            session.sleep(RECONNECT_S)
        except Conflict as error:
            if error.code != "expired":
                raise
            since = session.client.list(kind, place).resource_version
            remark("some changes were missed: the server no longer had them")


def _print_changes(
    session: Session,
    kind: type[AnyResource],
    resources: Sequence[AnyResource],
    output: Format,
    *,
    change: str | None = None,
) -> None:
    """Print resources of a watch; `change` is None for those that were there before."""
    if output is Format.TABLE:
        rows = rows_of(resources, session.now())
        if change is None:
            print_table(headers_of(kind), rows)
        else:
            table = format_table(headers_of(kind), rows, terminal_width())
            typer.echo(table.splitlines()[1] + (" (deleted)" if change == "delete" else ""))
            sys.stdout.flush()
        return
    for resource in resources:
        if output is Format.JSON:
            print_json_line({"type": change or "put", "resource": resource.to_dict()})
        elif output is Format.YAML:
            typer.echo("---\n" + format_yaml(resource.to_dict()), nl=False)
        else:
            typer.echo(_name(resource) + (" deleted" if change == "delete" else ""))


def _print(
    session: Session,
    kind: type[AnyResource],
    resources: Sequence[AnyResource],
    output: Format,
    *,
    single: bool = False,
) -> None:
    if output is Format.JSON:
        items = [resource.to_dict() for resource in resources]
        head = {"apiVersion": API_VERSION, "kind": f"{kind.__name__}List"}
        print_json(items[0] if single else {**head, "items": items})
    elif output is Format.YAML:
        print_yaml([resource.to_dict() for resource in resources])
    elif output is Format.NAME:
        for resource in resources:
            typer.echo(_name(resource))
    elif resources:
        print_table(headers_of(kind), rows_of(resources, session.now()))
    else:
        remark(f"no {kind.plural}")


def _name(resource: AnyResource) -> str:
    return f"{resource.kind.lower()}/{resource.metadata.name}"


@command(
    app,
    "describe",
    examples=[
        "modelplane describe deployment fraud",
        "modelplane describe version fraud@1.2.0",
        "modelplane describe rollout fraud-2 -e staging",
    ],
)
def describe(
    session: Session,
    *,
    target: Target,
    environment: Environment = None,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Show everything about one resource, for people; of a deployment also what hangs on it."""
    kind, names = parse_target(target)
    if not names:
        raise InvalidResource(f"which one? name a {kind.__name__}", hint="see modelplane get")
    for name in names:
        resource = session.client.get(kind, name, place_of(kind, environment))
        if output is Plain.JSON:
            print_json(resource.to_dict())
        else:
            typer.echo(describe_resource(session, resource))


@command(
    app,
    "delete",
    examples=[
        "modelplane delete deployment fraud -e staging",
        "modelplane delete version fraud@1.2.0 --reason 'trained on wrong labels'",
    ],
)
def delete(
    session: Session,
    *,
    target: Target,
    environment: Environment = None,
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Delete a resource.

    A deployment's traffic stops and its model servers with it. A version becomes a tombstone,
    and only when it is deployed nowhere.
    """
    kind, names = parse_target(target)
    if not names:
        raise InvalidResource(f"which one? name a {kind.__name__}", hint="see modelplane get")
    place = place_of(kind, environment)
    deleted = [session.client.delete(kind, name, place, reason=reason) for name in names]
    if output is Plain.JSON:
        print_json([resource.to_dict() for resource in deleted])
    else:
        for resource in deleted:
            typer.echo(f"{_name(resource)} deleted" + (f" from {place}" if place else ""))
