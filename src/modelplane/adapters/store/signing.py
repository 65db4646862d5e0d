"""The audit chain's newest link, signed and kept outside the database.

Without it a log cut off at its end would verify. Used by the writer, which signs, and by
verification, which checks. The private key never leaves the audit folder.

The folder holds ``key.pem`` (mode 0600), ``key.pub``, ``head.json``, and after a fault the head
that the database contradicted as ``head-SEQUENCE.json``: it stays a witness.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import ValidationError

from modelplane.adapters.store.connections import explain_os_error
from modelplane.decisions.audit_chain import SignedHead, signed_bytes
from modelplane.errors import TerminalError

_NEVER = datetime(1970, 1, 1, tzinfo=UTC)


class HeadKeeper:
    """Signs heads with the folder's key and keeps the newest in a file.

    Raises
    ------
    TerminalError
        From the constructor, when the key cannot be read; `NoSpace` on a full disk.
    """

    def __init__(self, audit_dir: Path) -> None:
        self._dir = audit_dir
        self._file = audit_dir / "head.json"
        try:
            audit_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._key = self._load_or_make_key()
        except OSError as error:
            raise explain_os_error(error, audit_dir) from error

    def sign(self, sequence: int, hash_: str, at: datetime) -> SignedHead:
        """Return the signed head of a chain that ends with `sequence`."""
        head = SignedHead(sequence=sequence, hash=hash_, at=at)
        return head.with_(signature=self._key.sign(signed_bytes(head)).hex())

    def sign_bytes(self, data: bytes) -> str:
        """Return the key's signature over `data`, hex.

        What is signed must begin with words of its own, so that it is never the bytes of a head.
        """
        return self._key.sign(data).hex()

    def is_genuine(self, head: SignedHead) -> bool:
        """Whether one of the folder's keys signed `head`."""
        return any(_verifies(key, head) for key in self._public_keys())

    def write(self, head: SignedHead) -> None:
        """Replace the head file, durably; raises OSError."""
        write_durably(self._file, json.dumps(head.to_dict()).encode())

    def read(self) -> SignedHead | None:
        """Return the head in the file; None when there is none.

        A file that is not a head reads as one that nobody signed.
        """
        return _read_head(self._file)

    def read_witnesses(self) -> Sequence[SignedHead]:
        """Return all heads in the folder, the newest file first."""
        others = sorted(self._dir.glob("head-*.json"), reverse=True)
        found = [_read_head(file) for file in (self._file, *others)]
        return [head for head in found if head is not None]

    def set_aside(self, sequence: int) -> None:
        """Keep the present head file as a witness, so that a new one does not hide it."""
        self._file.replace(self._dir / f"head-{sequence}.json")

    def public_key(self) -> bytes:
        """Return the public key, PEM."""
        return self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def _load_or_make_key(self) -> Ed25519PrivateKey:
        file, public = self._dir / "key.pem", self._dir / "key.pub"
        if file.exists():
            try:
                key = serialization.load_pem_private_key(file.read_bytes(), password=None)
            except ValueError as error:
                raise TerminalError(
                    f"{file} is not a private key", hint="restore it, or move it away for a new one"
                ) from error
            if not isinstance(key, Ed25519PrivateKey):
                raise TerminalError(f"{file} is not an Ed25519 key")
        else:
            if public.exists():  # heads signed with the lost key stay verifiable
                public.replace(self._dir / f"key-{int(public.stat().st_mtime)}.pub")
            key = Ed25519PrivateKey.generate()
            pem = key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            write_durably(file, pem)
        self._key = key
        if not public.exists() or public.read_bytes() != self.public_key():
            write_durably(public, self.public_key(), mode=0o644)
        return key

    def _public_keys(self) -> Sequence[Ed25519PublicKey]:
        keys = [self._key.public_key()]
        for file in sorted(self._dir.glob("key-*.pub")):
            with contextlib.suppress(ValueError):  # then it is no key, and verifies nothing
                key = serialization.load_pem_public_key(file.read_bytes())
                if isinstance(key, Ed25519PublicKey):
                    keys.append(key)
        return keys


def _verifies(key: Ed25519PublicKey, head: SignedHead) -> bool:
    try:
        key.verify(bytes.fromhex(head.signature), signed_bytes(head))
    except (InvalidSignature, ValueError):
        return False
    return True


def _read_head(file: Path) -> SignedHead | None:
    try:
        return SignedHead.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        return SignedHead(sequence=0, hash=f"unreadable: {file.name}", at=_NEVER)


def write_durably(file: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Replace `file` by `content`, whole and on disk, or not at all; raises OSError."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
