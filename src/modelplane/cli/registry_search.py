"""``registry search``: what is registered, by what it is like."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from modelplane.cli.columns import headers_of, row_of
from modelplane.cli.kinds import parse_kind
from modelplane.cli.options import Format, Output
from modelplane.cli.output import print_json, print_table, print_yaml, remark
from modelplane.cli.session import Session, command, make_app
from modelplane.cli.words import NOTHING
from modelplane.decisions.search import named_fields
from modelplane.decisions.search_fields import SEARCHED, Field
from modelplane.errors import InvalidResource
from modelplane.resources.meta import API_VERSION, Resource
from modelplane.resources.model import AliasMove, ModelVersion

AnyResource = Resource[Any, Any]

commands = make_app()

_SHOWN = frozenset({"place", "name", "model", "dataset", "version", "number", "alias", "created"})
"""Fields that the table has columns for anyway."""


@command(
    commands,
    "search",
    examples=[
        "modelplane registry search \"metrics.accuracy > 0.9 and tags.team = 'risk'\"",
        "modelplane registry search --model fraud --order-by 'metrics.auc DESC' --limit 5",
        "modelplane registry search \"dataset = 'transactions@3'\" -o name",
        "modelplane registry search \"created > '2026-11-01' and alias IS NULL\"",
        "modelplane registry search --kind models \"labels.tier = '1'\"",
    ],
)
def search(
    session: Session,
    *,
    filter_: Annotated[
        str, typer.Argument(metavar="[FILTER]", help="What has to hold, joined by and.")
    ] = "",
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Only versions of this model.")
    ] = None,
    order_by: Annotated[
        str,
        typer.Option("--order-by", metavar="FIELD [DESC],…", help="What comes first."),
    ] = "",
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="At most so many.")
    ] = None,
    kind: Annotated[
        str,
        typer.Option("--kind", metavar="KIND", help="versions, models, datasets or dsv."),
    ] = "versions",
    output: Output = Format.TABLE,
) -> None:
    """Find versions (or models, or datasets) by metrics, parameters, tags, data, time and more.

    The language is that of MLflow's search. The table shows what was asked about.
    """
    searched = parse_kind(kind)
    if searched not in SEARCHED:
        names = ", ".join(k.plural for k in SEARCHED)
        raise InvalidResource(f"{searched.plural} are not searched", hint=f"there are: {names}")
    wanted = filter_
    if model is not None:
        if searched not in {ModelVersion, AliasMove}:
            raise InvalidResource("--model is for versions", hint="leave it out")
        quoted = model.replace("'", "''")
        wanted = f"{filter_} AND model = '{quoted}'" if filter_.strip() else f"model = '{quoted}'"
    found = session.client.list(
        searched, filter_string=wanted, order_by=order_by, limit=limit
    ).items
    if output is Format.TABLE:
        _print_table(searched, found, named_fields(filter_, order_by, searched), session.now())
    elif output is Format.NAME:
        for resource in found:
            typer.echo(f"{resource.kind.lower()}/{resource.metadata.name}")
    elif output is Format.YAML:
        print_yaml([resource.to_dict() for resource in found])
    else:
        items = [resource.to_dict() for resource in found]
        print_json({"apiVersion": API_VERSION, "kind": f"{searched.__name__}List", "items": items})


def _print_table(
    kind: type[AnyResource],
    found: Sequence[AnyResource],
    fields: Sequence[Field],
    now: datetime,
) -> None:
    """Print the columns of `get`, and after the name what was asked about."""
    if not found:
        remark(f"no {kind.plural} match")
        return
    asked = [field for field in fields if field.name not in _SHOWN]
    metrics_named = any(field.name.startswith("metrics.") for field in asked)
    headers = headers_of(kind)
    kept = [i for i, name in enumerate(headers) if i and not (metrics_named and name == "METRICS")]
    rows = []
    for resource in found:
        row = row_of(resource, now)
        rows.append([row[0], *(_cell(f, resource) for f in asked), *(row[i] for i in kept)])
    print_table([headers[0], *_headers(asked), *(headers[i] for i in kept)], rows)


def _headers(fields: Sequence[Field]) -> list[str]:
    """Return keys in capitals, or whole names where two fields have one key."""
    keys = [field.name.partition(".")[2] or field.name for field in fields]
    return [
        (key if keys.count(key) == 1 else field.name).upper()
        for key, field in zip(keys, fields, strict=True)
    ]


def _cell(field: Field, resource: AnyResource) -> str:
    value = field.read(resource, None)
    if value is None:
        return NOTHING
    if field.type == "time":
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M}"
    if field.type == "texts":
        return ",".join(sorted(value)) or NOTHING
    return f"{value:.6g}" if isinstance(value, float) else str(value)
