"""``feedback …``: tell what turned out to be true."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from modelplane.cli.options import Environment, Plain, PlainOutput
from modelplane.cli.output import print_json, remark
from modelplane.cli.progress import tallying
from modelplane.cli.session import Session, command, make_app
from modelplane.client.label_files import LabelColumns, read_labels
from modelplane.errors import InvalidResource
from modelplane.resources.meta import DEFAULT_ENVIRONMENT

app = make_app()
feedback = make_app()
app.add_typer(feedback, name="feedback", help="Tell what turned out to be true.")

_SHOWN_FAULTS = 20
_REFUSED = ("invalid", "contradicts", "too_late", "no_room")
_POSITION = re.compile(r"labels\[(\d+)\]\.?(.*)")


def _column(name: str, what: str) -> Any:
    return typer.Option(name, metavar="COLUMN", help=f"Column with {what}.")


@command(
    feedback,
    "import",
    examples=[
        "modelplane feedback import outcomes.csv --deployment fraud",
        "modelplane feedback import sales.parquet --deployment ranking --key order_id "
        "--reward revenue",
        "modelplane feedback import outcomes.csv --deployment fraud -e staging -o json",
    ],
)
def import_(  # noqa: PLR0913 - one parameter for each option
    session: Session,
    *,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="CSV or Parquet.")
    ],
    deployment: Annotated[
        str, typer.Option("--deployment", "-d", metavar="NAME", help="Whose predictions.")
    ],
    request_id: Annotated[
        str | None, _column("--request-id", "the request's id; default request_id")
    ] = None,
    key: Annotated[
        str | None, _column("--key", "the join key of the deployment, instead of an id")
    ] = None,
    label: Annotated[str | None, _column("--label", "what was true; default label")] = None,
    reward: Annotated[str | None, _column("--reward", "what it brought; default reward")] = None,
    row: Annotated[
        str | None, _column("--row", "which row of the request, from 0; default row")
    ] = None,
    at: Annotated[str | None, _column("--at", "when that was known; default at")] = None,
    environment: Environment = None,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Join labels or rewards of a file with predictions, and say what became of them.

    What was told before changes nothing, so a file can be imported again. Exits with 1 when
    labels were refused; the others are kept.
    """
    place = environment or DEFAULT_ENVIRONMENT
    columns = LabelColumns(request_id, key, label, reward, row, at)
    fates: Counter[str] = Counter()
    faults: list[dict[str, Any]] = []
    done = 0
    with tallying("labels sent") as advance:
        for batch in read_labels(file, columns):
            answer = _send(session, deployment, batch, place)
            fates.update(answer["fates"])
            faults += [_locate(fault, done) for fault in answer["faults"]]
            done += len(batch)
            advance(len(batch))
    refused = sum(fates[fate] for fate in _REFUSED)
    told = {fate: count for fate, count in fates.items() if count}
    if output is Plain.JSON:
        print_json({"labels": done, "fates": told, "faults": faults})
    else:
        counts = ", ".join(f"{count:,} {fate.replace('_', ' ')}" for fate, count in told.items())
        typer.echo(f"{done:,} labels of {file}: {counts or 'none'}")
        for fault in faults[:_SHOWN_FAULTS]:
            remark(f"row {fault['row']}: {fault['message']}")
        if len(faults) > _SHOWN_FAULTS:
            remark(f"… and {len(faults) - _SHOWN_FAULTS:,} more")
    if refused:
        raise typer.Exit(1)


def _send(
    session: Session, deployment: str, batch: Sequence[Mapping[str, Any]], environment: str
) -> dict[str, Any]:
    """Tell a batch; one in which no label is valid is no reason to keep back the rest."""
    try:
        return session.client.send_feedback(deployment, batch, environment)
    except InvalidResource as error:
        if not error.fields or not all(_POSITION.fullmatch(f.path) for f in error.fields):
            raise
        faults = [{"path": f.path, "message": f.message} for f in error.fields]
        return {"fates": {"invalid": len(batch)}, "faults": faults}


def _locate(fault: dict[str, Any], done: int) -> dict[str, Any]:
    """Return a fault with its row in the file, from 1, the head not counted."""
    found = _POSITION.fullmatch(fault["path"])
    if found is None:
        return {"row": None, "message": f"{fault['path']}: {fault['message']}"}
    field = f"{found[2]}: " if found[2] else ""
    return {"row": done + int(found[1]) + 1, "message": f"{field}{fault['message']}"}
