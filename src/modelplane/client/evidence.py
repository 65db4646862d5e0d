"""Checks a bundle of evidence without a server: signatures here, the rest in `decisions`.

Called by ``modelplane evidence verify`` and by users' Python. Needs the file and, to know whose
evidence it is, the public key of the modelplane that made it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from modelplane.client.calls import Call, resource_path
from modelplane.decisions.audit_chain import signed_bytes
from modelplane.decisions.evidence import (
    Bundle,
    Check,
    check_chain,
    check_documents,
    read_bundle,
    signed_text,
)
from modelplane.decisions.evidence_story import check_story
from modelplane.errors import InvalidResource
from modelplane.resources.promotion import Promotion


@dataclass(frozen=True, slots=True)
class EvidenceReport:
    """What was checked.

    Attributes
    ----------
    bundle
        What was read.
    checks
        In the order in which they were made.
    key
        Fingerprint of the key that signed: SHA-256 over its DER form, hex.
    """

    bundle: Bundle
    checks: tuple[Check, ...]
    key: str

    @property
    def verified(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


def evidence_call(promotion: str, environment: str) -> Call:
    """Return the call that fetches a bundle."""
    path = resource_path(Promotion, promotion, "/evidence")
    return Call("GET", path, {"environment": environment})


def fingerprint(public_key: str) -> str:
    """Return the SHA-256 of a public key in PEM, over its DER form, hex.

    Raises
    ------
    InvalidResource
        It is no Ed25519 public key.
    """
    return hashlib.sha256(
        _load(public_key).public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    ).hexdigest()


def verify_evidence(data: object, *, public_key: str | None = None) -> EvidenceReport:
    """Check a bundle.

    Parameters
    ----------
    data
        The bundle, plain data.
    public_key
        PEM of the key that must have signed it. None takes the one in the bundle: then the
        report says that the bundle is whole, and not whose it is.

    Raises
    ------
    InvalidResource
        `data` is no bundle, or `public_key` no key.
    """
    bundle = read_bundle(data)
    checks = [_check_key(bundle, public_key)]
    checks += _check_signatures(bundle, public_key or bundle.public_key)
    checks += check_chain(bundle)
    checks += check_documents(bundle)
    checks += check_story(bundle)
    return EvidenceReport(bundle, tuple(checks), fingerprint(public_key or bundle.public_key))


def _check_key(bundle: Bundle, public_key: str | None) -> Check:
    own = fingerprint(bundle.public_key)
    if public_key is None:
        message = f"signed with key {own[:16]}…, which the bundle brings itself: compare it"
        return Check(name="key", passed=True, message=message)
    wanted = fingerprint(public_key)
    if wanted == own:
        return Check(name="key", passed=True, message=f"signed with the given key {own[:16]}…")
    message = f"signed with key {own[:16]}…, not with the given key {wanted[:16]}…"
    return Check(name="key", passed=False, message=message)


def _check_signatures(bundle: Bundle, public_key: str) -> list[Check]:
    key = _load(public_key)
    return [
        _check_signature("signature", "the bundle", key, bundle.signature, signed_text(bundle)),
        _check_signature(
            "head", "the head of the audit log", key, bundle.head.signature,
            signed_bytes(bundle.head),
        ),
    ]  # fmt: skip


def _check_signature(
    name: str, what: str, key: Ed25519PublicKey, signature: str, signed: bytes
) -> Check:
    try:
        key.verify(bytes.fromhex(signature), signed)
    except (InvalidSignature, ValueError):
        return Check(name=name, passed=False, message=f"{what} does not carry a valid signature")
    return Check(name=name, passed=True, message=f"{what} carries a valid signature")


def _load(public_key: str) -> Ed25519PublicKey:
    try:
        key: Any = serialization.load_pem_public_key(public_key.encode())
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise InvalidResource(
            "not a public key of modelplane: it should be Ed25519 in PEM",
            hint="modelplane evidence key prints the one of a running modelplane",
        )
    return key
