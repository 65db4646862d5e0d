"""``push``: register a version of a model with its artifact."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from modelplane.cli.datasets import telling_data_warnings
from modelplane.cli.kinds import parse_pairs
from modelplane.cli.options import Plain, PlainOutput
from modelplane.cli.output import print_json, warn
from modelplane.cli.progress import working
from modelplane.cli.session import Session, command, make_app
from modelplane.cli.words import size
from modelplane.client.datasets import describe_data
from modelplane.errors import InvalidResource
from modelplane.resources.dataset import DatasetReference
from modelplane.resources.model import Training

app = make_app()


class ArtifactFormat(StrEnum):
    """How the files of an artifact are read."""

    MLFLOW = "mlflow"
    ONNX = "onnx"
    SKOPS = "skops"
    JOBLIB = "joblib"
    COMMAND = "command"


def _option(*names: str, metavar: str, help_: str) -> Any:
    return typer.Option(*names, metavar=metavar, help=help_)


@command(
    app,
    "push",
    examples=[
        "modelplane push fraud --version 1.2.0 --artifact model.onnx --metric accuracy=0.93",
        "modelplane push fraud --version 1.3.0 --artifact mlruns/0/ab12/artifacts/model "
        "--dataset transactions=march.parquet --tag team=risk",
        "modelplane push echo --version 1.0.0 --artifact ./server "
        "--command 'python serve.py --uds {socket}'",
    ],
)
def push(  # noqa: PLR0913 - one parameter for each option
    session: Session,
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the model.")],
    version: Annotated[str, _option("--version", metavar="VERSION", help_="Such as 1.2.0.")],
    artifact: Annotated[
        Path | None,
        _option("--artifact", metavar="PATH", help_="File or folder; optional with --command."),
    ] = None,
    artifact_format: Annotated[
        ArtifactFormat | None,
        _option(
            "--format",
            metavar="mlflow|onnx|skops|joblib|command",
            help_="How it is read; told from the files when left out.",
        ),
    ] = None,
    serve_command: Annotated[
        str | None,
        _option(
            "--command",
            metavar="COMMAND",
            help_="A program that speaks the Open Inference Protocol on the socket {socket}.",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        _option("--metric", metavar="NAME=VALUE", help_="Offline metric; may be repeated."),
    ] = None,
    parameter: Annotated[
        list[str] | None,
        _option("--parameter", metavar="NAME=VALUE", help_="Training parameter; may be repeated."),
    ] = None,
    dataset: Annotated[
        list[str] | None,
        _option(
            "--dataset",
            metavar="[NAME=]PATH",
            help_="Data it was made from, as `dataset push` takes it; may be repeated.",
        ),
    ] = None,
    training_data: Annotated[
        str | None,
        _option(
            "--training-data",
            metavar="PATH",
            help_="Table it was trained on: recorded as --dataset is, and drift is measured "
            "against a profile of it.",
        ),
    ] = None,
    feature_configuration: Annotated[
        Path | None,
        _option(
            "--feature-configuration",
            metavar="FILE",
            help_="How its features are made, as JSON or YAML.",
        ),
    ] = None,
    flavour: Annotated[
        str,
        _option(
            "--flavour",
            metavar="LIBRARY",
            help_="What it was made with; told from the files when left out.",
        ),
    ] = "",
    requirements: Annotated[
        Path | None,
        _option("--requirements", metavar="FILE", help_="Python requirements to run it."),
    ] = None,
    signature: Annotated[
        Path | None, _option("--signature", metavar="FILE", help_="Inputs and outputs, as JSON.")
    ] = None,
    input_example: Annotated[
        Path | None,
        _option(
            "--input-example",
            metavar="FILE",
            help_="One inference request as JSON: the smoke prediction.",
        ),
    ] = None,
    tag: Annotated[
        list[str] | None, _option("--tag", metavar="KEY=VALUE", help_="May be repeated.")
    ] = None,
    description: Annotated[
        str, _option("--description", metavar="TEXT", help_="What people should know.")
    ] = "",
    sign_key: Annotated[
        Path | None,
        _option(
            "--sign-key",
            metavar="KEY.pem",
            help_="Private key to sign the files with; default modelplane's own, where it is here.",
        ),
    ] = None,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Register a version of a model with its artifact.

    Pushing the same bytes again changes nothing; other bytes under the same version are refused.
    What made the version is recorded as unknown, since this is not the process that trained it:
    push from Python (`from modelplane import Client`) and it is captured.
    """
    if artifact is None and serve_command is None:
        raise InvalidResource("nothing to push", hint="give --artifact, or --command")
    with working(f"pushing {name} {version}"), telling_data_warnings():
        done = session.client.push(
            name,
            version,
            artifact,
            format=artifact_format.value if artifact_format else None,
            command=shlex.split(serve_command) if serve_command else (),
            metrics=_parse_metrics(metric or ()),
            parameters=parse_pairs("--parameter", parameter or ()),
            datasets=[_read_dataset(text) for text in dataset or ()],
            dataset=training_data,
            feature_configuration=feature_configuration or {},
            flavour=flavour,
            requirements=requirements,
            signature=_read_json("--signature", signature),
            input_example=_read_json("--input-example", input_example),
            tags=parse_pairs("--tag", tag or ()),
            description=description,
            training=Training(),
            sign_key=sign_key,
        )
    for text in done.warnings:
        warn(text)
    if output is Plain.JSON:
        print_json({"result": done.result, "resource": done.resource.to_dict()})
        return
    spec = done.resource.spec
    files = spec.artifact
    what = (
        f", {files.format}, {size(files.size_bytes)}, {files.digest.removeprefix('sha256:')[:12]}"
        if files
        else ""
    )
    typer.echo(
        f"modelversion/{done.resource.metadata.name} {done.result}: number {spec.number}{what}"
    )


def _parse_metrics(texts: Sequence[str]) -> dict[str, float]:
    metrics = {}
    for name, value in parse_pairs("--metric", texts).items():
        try:
            metrics[name] = float(value)
        except ValueError:
            raise InvalidResource(f"--metric {name}={value}: {value!r} is no number") from None
    return metrics


def _read_dataset(text: str) -> str | DatasetReference:
    """Return data as it was given, described when it was given a name.

    A path may hold an equals sign itself: in the folders of a partitioned table it does.
    """
    name, equals, path = text.partition("=")
    if not equals or not name or "/" in name or Path(text).exists():
        return text
    return describe_data(path, name)


def _read_json(option: str, file: Path | None) -> dict[str, Any] | None:
    if file is None:
        return None
    try:
        data = json.loads(file.read_bytes())
    except OSError as error:
        raise InvalidResource(f"{option} {file}: {error.strerror}") from None
    except ValueError as error:
        raise InvalidResource(f"{option} {file}: not JSON: {error}") from None
    if not isinstance(data, dict):
        raise InvalidResource(f"{option} {file}: must be a JSON object")
    return data
