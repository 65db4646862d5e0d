"""``predict``: one prediction through the gateway, as any client would ask for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from modelplane.cli.options import Environment, Plain, PlainOutput
from modelplane.cli.output import print_json, remark
from modelplane.cli.session import Session, command, make_app
from modelplane.errors import InvalidResource
from modelplane.resources.meta import DEFAULT_ENVIRONMENT

app = make_app()


@command(
    app,
    "predict",
    examples=[
        "modelplane predict fraud --data request.json",
        'modelplane predict fraud --data \'{"inputs": [{"name": "x", "shape": [1, 2], '
        '"datatype": "FP64", "data": [0.5, null]}]}\'',
        "modelplane predict fraud -e staging --user anna --data - < request.json",
    ],
)
def predict(
    session: Session,
    *,
    deployment: Annotated[
        str, typer.Argument(metavar="DEPLOYMENT", help="Name of the deployment.")
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            "-d",
            metavar="FILE|JSON|-",
            help="Open Inference Protocol request: a file, the JSON itself, or -.",
        ),
    ],
    environment: Environment = None,
    user: Annotated[
        str | None,
        typer.Option("--user", metavar="ID", help="Whose request; one user keeps one version."),
    ] = None,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Ask a deployment for one prediction, through its gateway.

    The answer goes to stdout; which version gave it, to stderr. In a floating-point tensor
    `null` is NaN.
    """
    place = environment or DEFAULT_ENVIRONMENT
    answer = session.client.predict(
        deployment, _read_request(data), environment=place, user_id=user
    )
    if output is Plain.JSON:
        print_json(
            {
                "response": dict(answer.response),
                "version": answer.version,
                "assigned": answer.assigned,
                "requestId": answer.request_id,
            }
        )
        return
    print_json(dict(answer.response))
    served = f"version {answer.version} answered"
    if answer.assigned and answer.assigned != answer.version:
        served += f" for {answer.assigned}, which failed"
    remark(f"{served} (request {answer.request_id})")


def _read_request(data: str) -> dict[str, Any]:
    if data == "-":
        text = sys.stdin.read()
    elif data.lstrip().startswith("{"):
        text = data
    else:
        try:
            text = Path(data).read_text()
        except (OSError, UnicodeError) as error:
            raise InvalidResource(f"--data {data}: cannot be read: {error}") from None
    try:
        request = json.loads(text)
    except ValueError as error:
        raise InvalidResource(f"--data: not JSON: {error}") from None
    if not isinstance(request, dict) or not isinstance(request.get("inputs"), list):
        raise InvalidResource(
            "--data: not an inference request",
            hint='it looks like {"inputs": [{"name": …, "shape": …, "datatype": …, "data": …}]}',
        )
    return request
