"""Names of workloads, and which authority signs and is trusted when. Pure.

Called by `adapters.identity` (which holds the keys), by the API and by the agent. Names are SPIFFE
ids (https://spiffe.io/docs/latest/spiffe-specs/spiffe-id/): one per certificate, and all that a
peer is admitted by.

A rollover has three phases, so that no two peers ever meet of whom one does not know the other's
authority: the new authority joins what is trusted; once everybody has heard of it, it signs; the
old one leaves when the last certificate it signed has ended.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from modelplane.resources.certificates import Workload

SCHEME = "spiffe://"
"""How every SPIFFE id begins."""


def spiffe_id(trust_domain: str, workload: Workload) -> str:
    """Return the name of a workload.

    Examples
    --------
    >>> spiffe_id("d", Workload(environment="staging", role="inbound", node="local"))
    'spiffe://d/environments/staging/nodes/local/inbound'
    """
    base = f"{SCHEME}{trust_domain}/environments/{workload.environment}"
    return (
        f"{base}/gateway" if workload.role == "gateway" else f"{base}/nodes/{workload.node}/inbound"
    )


def gateway_id(trust_domain: str, environment: str) -> str:
    """Return the name of an environment's gateway."""
    return spiffe_id(trust_domain, Workload(environment=environment, role="gateway"))


def trust_domain_of(identity: str) -> str:
    """Return the trust domain of a SPIFFE id.

    Examples
    --------
    >>> trust_domain_of("spiffe://d/environments/staging/gateway")
    'd'
    """
    return identity.removeprefix(SCHEME).partition("/")[0]


def allowed_peers(allow: Iterable[str], trust_domain: str) -> tuple[str, ...]:
    """Return the SPIFFE ids that a gateway's `mesh.allow` means: ids, or names of environments."""
    ids = {name if name.startswith(SCHEME) else gateway_id(trust_domain, name) for name in allow}
    return tuple(sorted(ids))


@dataclass(frozen=True, slots=True)
class Authority:
    """One generation of the certificate authority.

    Attributes
    ----------
    number
        1, 2, 3 …
    created_at
        Since when it is trusted.
    signs_from
        From when on new certificates are signed by it.
    longest_life_s
        The longest life of a certificate it signed, seconds.
    """

    number: int
    created_at: datetime
    signs_from: datetime
    longest_life_s: float


@dataclass(frozen=True, slots=True)
class Standing:
    """What holds at a moment: who signs, who joins, who leaves and when, who is gone."""

    signer: Authority
    joining: tuple[Authority, ...]
    leaving: tuple[tuple[Authority, datetime], ...]
    gone: tuple[Authority, ...]

    @property
    def trusted(self) -> tuple[Authority, ...]:
        """All whose certificates are accepted, the oldest first."""
        return (*(one for one, _ in self.leaving), self.signer, *self.joining)


def decide_standing(authorities: Sequence[Authority], now: datetime) -> Standing:
    """Return how the authorities stand at `now`.

    Parameters
    ----------
    authorities
        At least one; numbers and times of signing rise.
    """
    ordered = sorted(authorities, key=lambda one: one.number)
    signing = [one for one in ordered if one.signs_from <= now] or ordered[:1]
    signer = signing[-1]
    leaving, gone = [], []
    for one, successor in itertools.pairwise(signing):
        until = successor.signs_from + timedelta(seconds=one.longest_life_s)
        if until > now:
            leaving.append((one, until))
        else:
            gone.append(one)
    joining = tuple(one for one in ordered if one.number > signer.number)
    return Standing(signer, joining, tuple(leaving), tuple(gone))


def renewal_due(not_before: datetime, not_after: datetime, seed: str) -> datetime:
    """Return when a certificate is to be renewed: at half its life, give or take a tenth.

    `seed` spreads the renewals of many, so that they do not ask all at once.
    """
    jitter = hashlib.sha256(seed.encode()).digest()[0] / 255
    share = 0.4 + 0.2 * jitter
    return not_before + (not_after - not_before) * share
