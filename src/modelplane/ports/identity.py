"""Identities of workloads: the authority that certifies them, and the keys they make.

The authority belongs to the control plane and is called by its API; keys are made by the agent,
and never leave it. `Credentials` are what a proxy speaks mutual TLS with.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from modelplane.resources.certificates import (
    AuthoritiesStatus,
    CertificateRequest,
    IssuedCertificate,
    TrustBundle,
)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made, and the request for its certificate; both PEM."""

    private_key: str = field(repr=False)
    request: str


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who a proxy is and whom it trusts.

    Attributes
    ----------
    identity
        Its SPIFFE id.
    private_key, certificate
        PEM.
    trusted
        Certificates of the authorities it trusts, PEM.
    not_before, not_after
        The certificate's life.
    """

    identity: str
    private_key: str = field(repr=False)
    certificate: str
    trusted: str
    not_before: datetime
    not_after: datetime


class KeyMaker(Protocol):
    """Makes keys."""

    def make_key(self) -> NewKey:
        """Return a new key with a request for its certificate."""


class CertificateAuthority(Protocol):
    """Certifies workloads. All methods may read and write small files."""

    def issue(self, request: CertificateRequest) -> IssuedCertificate:
        """Certify a workload; the first call makes the first authority.

        Raises `InvalidResource` when the request is not one, is not signed by its own key, has a
        key of another kind, or asks for a name of its own.
        """

    def trust(self) -> TrustBundle | None:
        """Return whom to trust now; None while there is no authority."""

    def status(self) -> AuthoritiesStatus:
        """Return how the authorities stand."""

    def rotate(self) -> AuthoritiesStatus:
        """Begin a rollover to a new authority; raises `Conflict` while another is under way."""
