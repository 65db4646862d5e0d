"""``apply``, ``diff`` and ``validate``: what people declare.

All documents are read and checked before the first is sent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelplane.cli.files import load_manifests
from modelplane.cli.following import follow_promotion
from modelplane.cli.options import Files, Format, Output, Plain, PlainOutput, Reason, Timeout
from modelplane.cli.output import print_json, print_yaml, warn
from modelplane.cli.session import Session, command, make_app
from modelplane.errors import NotFound
from modelplane.resources.diff import FieldChange, diff
from modelplane.resources.manifest import canonical
from modelplane.resources.meta import Resource

if TYPE_CHECKING:
    from modelplane.client import Applied

AnyResource = Resource[Any, Any]

app = make_app()

_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


@command(
    app,
    "apply",
    examples=[
        "modelplane apply -f fraud.yaml",
        "modelplane apply -f deployments/ --dry-run",
        "modelplane apply -f fraud.yaml --wait --reason 'retrained on March'",
        "cat fraud.yaml | modelplane apply -f -",
    ],
)
def apply(
    session: Session,
    *,
    files: Files,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the rollouts that this starts to their end.")
    ] = False,
    timeout: Timeout = "1h",
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Make the resources in manifests what is declared.

    A deployment whose version or runtime differs from what it last declared starts a rollout;
    replicas and strategy change in place; an unchanged manifest does nothing. With --wait the
    exit code is 1 when a rollout was not promoted.
    """
    client = session.client
    applied = []
    for resource in load_manifests(files):
        done = client.apply(resource, dry_run=dry_run, reason=reason)
        applied.append(done)
        if output is Plain.TEXT:
            typer.echo(describe_applied(done, dry_run=dry_run))
        for text in done.warnings:
            warn(text)
    if output is Plain.JSON:
        print_json([applied_to_dict(done) for done in applied])
    promotions = [done.promotion for done in applied if done.promotion is not None]
    if wait and not dry_run:
        outcomes = [follow_promotion(session, p, timeout=timeout) for p in promotions]
        if not all(outcomes):
            raise typer.Exit(1)


@command(
    app,
    "diff",
    examples=["modelplane diff -f fraud.yaml", "modelplane diff -f deployments/ -o json"],
)
def show_diff(session: Session, *, files: Files, output: PlainOutput = Plain.TEXT) -> None:
    """Show what `apply` would change, field by field.

    The exit code is 0 when nothing differs and 1 when something does.
    """
    client = session.client
    found: list[tuple[AnyResource, list[FieldChange]]] = []
    for resource in load_manifests(files):
        after = client.apply(resource, dry_run=True).resource
        key = resource.key
        try:
            before = canonical(client.get(type(resource), key.name, key.environment))
        except NotFound:
            before = None
        changes = diff(before, canonical(after))
        if changes:
            found.append((resource, changes))
    if output is Plain.JSON:
        print_json(
            [{**_name(resource), "changes": _changes(changes)} for resource, changes in found]
        )
    else:
        for resource, changes in found:
            typer.echo(describe_key(resource))
            for change in changes:
                typer.echo(_describe_change(change))
    if found:
        raise typer.Exit(1)


@command(
    app,
    "validate",
    examples=[
        "modelplane validate -f fraud.yaml",
        "modelplane validate -f fraud.yaml -o json",
        "modelplane validate -f deployments/ -o yaml",
    ],
)
def validate(session: Session, *, files: Files, output: Output = Format.TABLE) -> None:
    """Check manifests without a server and print what they mean.

    With -o json or yaml it prints the canonical resources, every default written out. Whether
    the versions and environments exist is for `apply --dry-run` to say.
    """
    resources = load_manifests(files)
    documents = [canonical(resource) for resource in resources]
    if output is Format.JSON:
        print_json(documents[0] if len(documents) == 1 else _as_list(documents))
    elif output is Format.YAML:
        print_yaml(documents)
    else:
        for resource in resources:
            suffix = "" if output is Format.NAME else " valid"
            typer.echo(describe_key(resource) + suffix)


def describe_key(resource: AnyResource) -> str:
    """Return ``kind/name`` as `get` takes it."""
    return f"{resource.kind.lower()}/{resource.metadata.name}"


def describe_applied(done: Applied[Any], *, dry_run: bool = False) -> str:
    """Return what a change did, in one line or two."""
    resource = done.resource
    place = f" in {resource.metadata.environment}" if resource.metadata.environment else ""
    line = f"{describe_key(resource)} {done.result}{place}" + (" (dry run)" if dry_run else "")
    if done.promotion is None:
        return line
    version = done.promotion.spec.revision.version
    return f"{line}\n  promotion {done.promotion.metadata.name} to version {version}"


def applied_to_dict(done: Applied[Any]) -> dict[str, Any]:
    """Return what a change did, for -o json."""
    return {
        **_name(done.resource),
        "result": done.result,
        "promotion": done.promotion.metadata.name if done.promotion else None,
        "warnings": list(done.warnings),
    }


def _name(resource: AnyResource) -> dict[str, Any]:
    metadata = resource.metadata
    named = {"kind": resource.kind, "name": metadata.name, "environment": metadata.environment}
    return {key: value for key, value in named.items() if value is not None}


def _as_list(documents: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"apiVersion": "modelplane.dev/v1", "kind": "List", "items": list(documents)}


def _changes(changes: Sequence[FieldChange]) -> list[dict[str, Any]]:
    return [
        {"path": c.path, "change": c.change, "before": c.before, "after": c.after} for c in changes
    ]


def _describe_change(change: FieldChange) -> str:
    before, after = (json.dumps(value, ensure_ascii=False) for value in _sides(change))
    values = {"added": after, "removed": before, "changed": f"{before} -> {after}"}
    return f"  {_SIGNS[change.change]} {change.path}: {values[change.change]}"


def _sides(change: FieldChange) -> tuple[Any, Any]:
    return change.before, change.after
