"""Which signatures a version needs where, and which keys are trusted. Pure.

Called by admission, when an environment is applied, when a signature is registered, and by the
placement controller. Whether a signature holds is found by who has the files: the agent, and the
security scan of a pipeline.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re

from modelplane.errors import FieldError, InvalidResource
from modelplane.resources.environment import Environment
from modelplane.resources.model import ModelVersion, Signature

MAX_SIGNATURES = 16
"""Of one version; each key has one."""

_PEM = re.compile(
    r"\s*-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----\s*", re.ASCII
)
_KEY_ID = re.compile(r"[0-9a-f]{64}")


def key_id(public_key: str) -> str:
    """Return what a public key is called: the SHA-256 of its DER form, hex.

    Raises
    ------
    InvalidResource
        It is no public key in PEM.
    """
    found = _PEM.fullmatch(public_key)
    try:
        der = base64.b64decode("".join(found.group(1).split()), validate=True) if found else b""
    except binascii.Error:
        der = b""
    if not der:
        raise InvalidResource(
            "this is no public key", hint="give it as PEM: -----BEGIN PUBLIC KEY----- …"
        )
    return hashlib.sha256(der).hexdigest()


def trusted_keys(environment: Environment, own_key: str) -> tuple[str, ...]:
    """Return the keys whose signature a version needs here, PEM; empty when it needs none.

    `own_key` is this modelplane's own public key. Where it is missing the answer is a key that
    nothing is signed with, never that no signature is needed.
    """
    spec = environment.spec
    if not spec.require_signature:
        return ()
    return spec.trusted_keys or (own_key,)


def signatures_by(version: ModelVersion, keys: tuple[str, ...]) -> tuple[Signature, ...]:
    """Return those of a version's signatures that are said to be made with one of `keys`."""
    known = {key_id(key) for key in keys if key}
    return tuple(s for s in version.status.signatures if s.key_id in known)


def check_signed(version: ModelVersion, environment: Environment, own_key: str) -> None:
    """Refuse a version that lacks the signature its environment requires.

    Where `own_key` is not known here, any signature will do: the agent decides.

    Raises
    ------
    InvalidResource
        With what to do.
    """
    keys = trusted_keys(environment, own_key)
    if not keys or signatures_by(version, keys):
        return
    if keys == ("",) and version.status.signatures:
        return
    name, place = version.metadata.name, environment.metadata.name
    held = len(version.status.signatures)
    what = "it has none" if not held else f"none of its {held} is by a key that is trusted there"
    raise InvalidResource(
        f"{name} lacks the signature that environment {place!r} requires",
        [FieldError("spec.version", what)],
        hint=f"sign it: modelplane registry sign {name} --key KEY.pem",
    )


def check_keys(environment: Environment) -> None:
    """Refuse an environment whose trusted keys are none; raises `InvalidResource`."""
    faults = []
    for index, key in enumerate(environment.spec.trusted_keys):
        try:
            key_id(key)
        except InvalidResource:
            path = f"spec.trustedKeys.{index}"
            faults.append(FieldError(path, "must be a public key in PEM"))
    if faults:
        raise InvalidResource(f"Environment {environment.metadata.name} is not valid", faults)


def add_signature(version: ModelVersion, signature: Signature) -> ModelVersion:
    """Return a version with one more signature; the one by the same key is replaced.

    Raises
    ------
    InvalidResource
        It is no bundle, or the version has too many.
    """
    faults = []
    if not _KEY_ID.fullmatch(signature.key_id):
        faults.append(FieldError("keyId", "must be the SHA-256 of the public key, hex"))
    if not _is_bundle(signature.bundle):
        faults.append(FieldError("bundle", "must be a sigstore bundle: JSON with a dsseEnvelope"))
    before = version.status.signatures
    others = tuple(s for s in before if s.key_id != signature.key_id)
    if len(others) >= MAX_SIGNATURES:
        faults.append(FieldError("bundle", f"the version has {MAX_SIGNATURES} signatures already"))
    if faults:
        raise InvalidResource("the signature is not valid", faults)
    if any((s.key_id, s.bundle) == (signature.key_id, signature.bundle) for s in before):
        return version
    return version.with_status(signatures=(*others, signature))


def _is_bundle(text: str) -> bool:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(data, dict) and isinstance(data.get("dsseEnvelope"), dict)
