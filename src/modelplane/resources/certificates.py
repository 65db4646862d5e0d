"""What agents and the certificate authority say to each other. Pure data.

Not resources: a certificate lives for an hour and is asked for again. The agent makes the key and
sends a request; the control plane answers with a certificate and with what to trust.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field, model_validator

from modelplane.resources.meta import Name, Part

WorkloadRole = Literal["gateway", "inbound"]


class Workload(Part):
    """Who a certificate is for: an environment's gateway, or the proxy before its servers."""

    environment: Name
    role: WorkloadRole
    node: str = Field(default="", pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$")

    @model_validator(mode="after")
    def _a_node_is_named_where_there_is_one(self) -> Workload:
        if bool(self.node) != (self.role == "inbound"):
            raise ValueError("an inbound proxy is on a node, a gateway is the environment's")
        return self


class CertificateRequest(Part):
    """A request of an agent: the identity follows from the workload."""

    workload: Workload
    request: str = Field(max_length=8192, description="PKCS #10, PEM, signed by the new key.")


class TrustBundle(Part):
    """Whom to trust: the authorities whose certificates may still be in use."""

    trust_domain: str
    authorities: str = Field(description="Certificates of the authorities, PEM, newest last.")


class IssuedCertificate(Part):
    """A certificate with exactly one name, the SPIFFE id, and whom its owner should trust."""

    identity: str = Field(description="SPIFFE id.")
    certificate: str = Field(description="PEM.")
    not_before: datetime
    not_after: datetime
    trust: TrustBundle


class AuthorityStatus(Part):
    """One authority of the control plane."""

    number: int
    phase: Literal["joining", "signing", "leaving"] = Field(
        description="`joining`: trusted, does not sign yet; `leaving`: trusted until the last "
        "certificate it signed has ended."
    )
    since: datetime
    until: datetime | None = Field(default=None, description="When the phase ends, where known.")
    fingerprint: str = Field(description="SHA-256 of its certificate.")


class AuthoritiesStatus(Part):
    """The certificate authority as `modelplane ca status` shows it."""

    trust_domain: str = Field(default="", description="Empty: nothing has asked for one yet.")
    certificate_life_s: float
    authorities: tuple[AuthorityStatus, ...] = ()
