"""``dataset push``: register a version of data. What shows data is ``get``, ``describe`` and
``lineage``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from modelplane.cli import words
from modelplane.cli.options import Plain, PlainOutput
from modelplane.cli.output import print_json, warn
from modelplane.cli.progress import working
from modelplane.cli.session import Session, command, make_app
from modelplane.client.datasets import DataWarning

app = make_app()
dataset = make_app()
app.add_typer(dataset, name="dataset", help="Register versions of data.")


@command(
    dataset,
    "push",
    examples=[
        "modelplane dataset push transactions data/march.parquet",
        "modelplane dataset push transactions lake/transactions@3 --description 'card payments'",
        "modelplane dataset push images images.dvc --version 2026-03",
    ],
)
def push(
    session: Session,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the dataset.")],
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="File, folder, Parquet, Delta table (PATH@3: its version 3) or DVC file.",
        ),
    ],
    version: Annotated[
        str | None,
        typer.Option(
            "--version",
            metavar="VERSION",
            help="What to call it; left out: as its own tool does, or the next number.",
        ),
    ] = None,
    description: Annotated[
        str, typer.Option("--description", metavar="TEXT", help="Of a dataset that is new.")
    ] = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Register a version of data: its digest, schema and size. The data stays where it is.

    The same data again is the version that is there. `modelplane get datasetversions` lists
    them; `modelplane lineage dataset/NAME@VERSION --down` shows what was made from one.
    """
    with working(f"reading {path}"), telling_data_warnings():
        done = session.client.push_dataset(name, path, version=version, description=description)
    for text in done.warnings:
        warn(text)
    if output is Plain.JSON:
        print_json({"result": done.result, "resource": done.resource.to_dict()})
        return
    spec = done.resource.spec
    parts = [
        f"number {spec.number}",
        spec.format,
        "" if spec.rows is None else f"{spec.rows:,} rows",
        "" if spec.size_bytes is None else words.size(spec.size_bytes),
        spec.digest[: spec.digest.find(":") + 13],
    ]
    told = ", ".join(part for part in parts if part)
    typer.echo(f"datasetversion/{done.resource.metadata.name} {done.result}: {told}")


@contextmanager
def telling_data_warnings() -> Iterator[None]:
    """Print what could not be known of data as warnings for people."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", DataWarning)
        yield
    for warning in caught:
        warn(str(warning.message))
