"""``registry sign``, ``verify-signature`` and ``keygen``: signatures over versions' files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from modelplane.cli.options import Plain, PlainOutput
from modelplane.cli.output import print_json
from modelplane.cli.progress import working
from modelplane.cli.session import Session, command, make_app
from modelplane.client.signing import (
    SignatureRefused,
    make_key_pair,
    read_public_key,
    sign_files,
    verify_files,
)
from modelplane.decisions.signatures import key_id
from modelplane.errors import Conflict, InvalidResource
from modelplane.resources.model import ModelVersion

REFUSED_EXIT_CODE = 8
"""The check was carried out, and no signature holds."""

commands = make_app()

Version = Annotated[
    str, typer.Argument(metavar="MODEL@VERSION", help="The version, such as fraud@1.2.0.")
]


@command(
    commands,
    "sign",
    examples=[
        "modelplane registry sign fraud@1.2.0 --key KEY.pem",
        "modelplane registry sign fraud@1.2.0",
    ],
)
def sign(
    session: Session,
    *,
    version: Version,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="KEY.pem", help="Private key; default modelplane's own."),
    ] = None,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Sign the files of a version and register the signature.

    The files are fetched and verified first, so what is signed is what is stored. A key has one
    signature of a version: signing again replaces it.
    """
    private_key = key or _own_key(session)
    with _files(session, version) as files:
        signed = sign_files(files, private_key)
    stored = session.client.add_signature(version, signed)
    if output is Plain.JSON:
        print_json({"resource": stored.to_dict(), "keyId": signed.key_id})
        return
    typer.echo(f"modelversion/{stored.metadata.name} signed by {signed.key_id[:12]}")


@command(
    commands,
    "verify-signature",
    examples=[
        "modelplane registry verify-signature fraud@1.2.0 --key KEY.pub",
        "modelplane registry verify-signature fraud@1.2.0 -o json",
    ],
)
def verify_signature(
    session: Session,
    *,
    version: Version,
    key: Annotated[
        list[Path] | None,
        typer.Option(
            "--key", metavar="KEY.pub", help="Trusted public key; default modelplane's own."
        ),
    ] = None,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Verify that a trusted key signed exactly the files of a version.

    The files are fetched and verified here, by this machine. Exit code 8 when no signature holds.
    """
    public_keys = [read_public_key(file) for file in key or [_own_key(session)]]
    stored = session.client.get(ModelVersion, version)
    with _files(session, version) as files:
        bundles = [signature.bundle for signature in stored.status.signatures]
        try:
            found, fault = verify_files(files, bundles, public_keys), ""
        except SignatureRefused as error:
            found, fault = "", str(error)
    if output is Plain.JSON:
        print_json({"verified": not fault, "keyId": found or None, "message": fault})
    elif fault:
        typer.echo(f"{version}: {fault}")
    else:
        typer.echo(f"{version}: signed by {found[:12]}, which is trusted")
    if fault:
        raise typer.Exit(REFUSED_EXIT_CODE)


@command(commands, "keygen", examples=["modelplane registry keygen KEY.pem"])
def keygen(
    _: Session,
    *,
    file: Annotated[Path, typer.Argument(metavar="KEY.pem", help="Where the private key goes.")],
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Make a key pair for signing: P-256, the private key readable by you alone.

    The public key goes beside it, with the suffix .pub: an environment names it in trustedKeys.
    """
    if file.exists() or file.with_suffix(".pub").exists():
        raise Conflict(f"{file} or its public key exists already", hint="a key is never replaced")
    if file.suffix == ".pub":
        raise InvalidResource("the private key cannot end with .pub", hint="call it KEY.pem")
    try:
        public_key = make_key_pair(file)
    except OSError as error:
        raise InvalidResource(f"{file} cannot be written: {error.strerror}") from None
    name = key_id(public_key.read_text())
    if output is Plain.JSON:
        print_json({"privateKey": str(file), "publicKey": str(public_key), "keyId": name})
        return
    typer.echo(f"{file} and {public_key}: key {name[:12]}")


def _own_key(session: Session) -> Path:
    own = session.client.endpoint.signing_key
    if own is None:
        raise InvalidResource(
            "modelplane's own key is not on this machine", hint="name another with --key"
        )
    return own


@contextmanager
def _files(session: Session, version: str) -> Iterator[Path]:
    """Give the files of a version, fetched and verified against their digest."""
    stored = session.client.get(ModelVersion, version)
    if stored.spec.artifact is None:
        raise Conflict(f"the files of {version} are not here")
    with tempfile.TemporaryDirectory(prefix="modelplane-") as directory:
        files = Path(directory) / "files"
        with working(f"fetching {version}"):
            session.client.download_artifact(stored.spec.artifact.digest, files)
        yield files
