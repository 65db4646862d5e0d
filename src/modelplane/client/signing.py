"""Signing a version's files and verifying that, as the model-signing standard has it.

Called by pushes, by ``registry sign``, by the agent and by the security scan. The signature is
one JSON bundle over the SHA-256 of every file, made with an elliptic curve key, without any
service. Needs the extra ``signing``, imported when it is first used. Private keys are read and
never sent.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelplane.decisions.signatures import key_id
from modelplane.errors import InvalidResource, TerminalError

_CURVES = ("secp256r1", "secp384r1", "secp521r1")


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature: the bundle, JSON, and the name of the key that made it."""

    bundle: str
    key_id: str


class SignatureRefused(Exception):
    """No signature holds; says why."""


def is_available() -> bool:
    """Whether the extra ``signing`` is installed."""
    try:
        _import()
    except TerminalError:
        return False
    return True


def make_key_pair(private_key: Path) -> Path:
    """Write a new P-256 key pair: `private_key` (mode 0600), and beside it the public ``.pub``.

    Returns the public key's path; a key that is there already is kept and its public one written
    again.
    """
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - 40 ms
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    public_key = private_key.with_suffix(".pub")
    if not private_key.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        _write_new(private_key, pem)
    wanted = read_public_key(private_key)
    if not public_key.exists() or public_key.read_text() != wanted:
        public_key.write_text(wanted)
    return public_key


def _write_new(file: Path, content: bytes) -> None:
    """Write a file whole, never readable by others, and never over another."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(temporary, file)
    finally:
        temporary.unlink()


def read_public_key(key: Path) -> str:
    """Return the public key of a key file, PEM: of a private key the one that belongs to it.

    Raises
    ------
    InvalidResource
        The file cannot be read or holds no elliptic curve key without a password.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    try:
        content = key.read_bytes()
    except OSError as error:
        raise InvalidResource(f"the key {key} cannot be read: {error.strerror}") from None
    try:
        if b"PRIVATE KEY" in content:
            public: Any = serialization.load_pem_private_key(content, None).public_key()
        else:
            public = serialization.load_pem_public_key(content)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _no_key(key) from None
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name not in _CURVES:
        raise _no_key(key)
    return public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    ).decode()


def _no_key(key: Path) -> InvalidResource:
    return InvalidResource(
        f"{key} holds no key that can sign: PEM, elliptic curve P-256, without a password",
        hint="make one: modelplane registry keygen KEY.pem",
    )


def sign_files(artifact: Path, private_key: Path) -> Signed:
    """Sign a file or a folder.

    Raises
    ------
    InvalidResource
        The key or the files cannot be used.
    TerminalError
        The extra ``signing`` is not installed.
    """
    public_key = read_public_key(private_key)
    hashing, signing, _ = _import()
    with tempfile.TemporaryDirectory(prefix="modelplane-") as directory, _folder(artifact) as files:
        place = Path(directory) / "bundle.json"
        config = signing.Config().set_hashing_config(_hashing(hashing))
        try:
            config.use_elliptic_key_signer(private_key=private_key).sign(files, place)
        except (ValueError, TypeError, OSError) as error:
            raise InvalidResource(f"{artifact} cannot be signed: {error}") from None
        bundle = json.dumps(json.loads(place.read_bytes()), separators=(",", ":"))
    return Signed(bundle, key_id(public_key))


def verify_files(artifact: Path, bundles: Sequence[str], public_keys: Sequence[str]) -> str:
    """Return the name of the key, one of `public_keys`, that signed exactly these files.

    Parameters
    ----------
    artifact
        A file or a folder.
    bundles
        Signatures; one that holds is enough.
    public_keys
        The keys that are trusted, PEM.

    Raises
    ------
    SignatureRefused
        None holds.
    TerminalError
        The extra ``signing`` is not installed.
    """
    hashing, _, verifying = _import()
    if not bundles:
        raise SignatureRefused("there is no signature by a trusted key")
    reasons = []
    with tempfile.TemporaryDirectory(prefix="modelplane-") as directory, _folder(artifact) as files:
        place, key_file = Path(directory) / "bundle.json", Path(directory) / "key.pub"
        for public_key in public_keys:
            for bundle in bundles:
                place.write_text(bundle)
                key_file.write_text(public_key)
                config = verifying.Config().set_hashing_config(_hashing(hashing))
                try:
                    config.use_elliptic_key_verifier(public_key=key_file).verify(files, place)
                    return key_id(public_key)
                # A bundle from elsewhere may make the parser raise anything; none of it is a yes.
                except Exception as error:
                    reasons.append(" ".join(str(error).split()) or type(error).__name__)
    told = "; ".join(dict.fromkeys(reasons))[:500] or "no key is trusted"
    raise SignatureRefused(f"no signature by a trusted key holds: {told}")


def _hashing(hashing: Any) -> Any:
    """Every file counts: by itself the library would leave out what belongs to git."""
    return hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)


@contextmanager
def _folder(artifact: Path) -> Iterator[Path]:
    """Give the folder of an artifact: one file is signed as the folder that it will be kept in."""
    if artifact.is_dir():
        yield artifact
        return
    with tempfile.TemporaryDirectory(prefix="modelplane-") as directory:
        copy = Path(directory) / artifact.name
        try:
            try:
                os.link(artifact, copy)
            except OSError:
                shutil.copyfile(artifact, copy)
        except OSError as error:
            raise InvalidResource(f"{artifact} cannot be read: {error.strerror}") from None
        yield Path(directory)


def _import() -> tuple[Any, Any, Any]:
    """Return model_signing's modules for hashing, signing and verifying; takes half a second."""
    try:
        from model_signing import hashing, signing, verifying  # noqa: PLC0415
    except ImportError:
        raise TerminalError(
            "signatures take a package that is not installed here",
            hint="pip install 'modelplane[signing]'",
        ) from None
    return hashing, signing, verifying
