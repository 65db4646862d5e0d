"""What the API needs from outside, handed in by wiring (or by a test).

Used by every module of the API; it must not know an adapter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelplane.decisions.gate_keys import StagePlace
from modelplane.ports.blobs import Blobs
from modelplane.ports.clock import Clock
from modelplane.ports.identity import CertificateAuthority
from modelplane.ports.metrics import Metrics
from modelplane.ports.predictions import Predictions
from modelplane.ports.quality import QualityBook
from modelplane.ports.series import SeriesRing
from modelplane.ports.store import Store


@dataclass(frozen=True, slots=True)
class ApiLimits:
    """Bounds on what one request may take.

    Attributes
    ----------
    json_bytes, telemetry_bytes, artifact_bytes
        Largest bodies, bytes.
    idle_timeout_s
        How long a client may take between two pieces it sends or takes, seconds.
    heartbeat_s
        How often a silent watch shows that it lives, seconds.
    """

    json_bytes: int = 2**20
    telemetry_bytes: int = 16 * 2**20
    artifact_bytes: int = 10 * 2**30
    idle_timeout_s: float = 30.0
    heartbeat_s: float = 10.0


@dataclass(frozen=True, slots=True)
class ApiDependencies:
    """Everything the API is made of.

    Attributes
    ----------
    store, blobs, metrics, clock
        The ports.
    new_uid
        Makes request ids.
    new_secret
        Makes the secret of a token: at least 128 random bits, as text.
    verify_audit
        Checks the audit chain: ``{verified, records, faults: [{sequence, kind, message}]}``.
    signed_head
        Returns the signed head of the audit chain with the public key, or None.
    sign
        Signs evidence with the audit log's key; hex.
    link_key
        Seals the one-time links of approvals; without one they are all refused.
    authority
        Certifies the proxies of agents; without one nobody is certified.
    stage_place
        What stages of pipelines are run by here.
    secret
        Returns a secret that a resource names, or None.
    wake_source
        Has a ModelSource looked at now: (source, model or None, new version's number or None).
    quality
        How right versions are; None: no predictions are kept here.
    predictions
        What models predicted and what turned out; None: nothing is kept.
    series
        What is measured, for `/metrics`; None: nothing is.
    evaluates_rules
        Whether modelplane evaluates alert rules itself, so that it warns of those it cannot.
    on_loopback
        Whether the API listens on loopback only: then a request must name a loopback host (no
        DNS rebinding), and `/metrics` needs no token.
    allowed_hosts
        Further host names that requests may name.
    stopping
        Set when the server is about to stop: watches end, so that it need not wait for them.
    """

    store: Store
    blobs: Blobs
    metrics: Metrics
    clock: Clock
    new_uid: Callable[[], str]
    new_secret: Callable[[], str]
    verify_audit: Callable[[], Awaitable[Mapping[str, Any]]]
    signed_head: Callable[[], Awaitable[Mapping[str, Any] | None]]
    sign: Callable[[bytes], str]
    link_key: bytes = b""
    authority: CertificateAuthority | None = None
    stage_place: StagePlace = field(default_factory=lambda: StagePlace("", ""))
    secret: Callable[[str], str | None] = lambda name: None
    wake_source: Callable[[str, str | None, int | None], None] = lambda *hint: None
    quality: QualityBook | None = None
    predictions: Predictions | None = None
    series: SeriesRing | None = None
    evaluates_rules: bool = True
    on_loopback: bool = True
    allowed_hosts: tuple[str, ...] = ()
    limits: ApiLimits = field(default_factory=ApiLimits)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
