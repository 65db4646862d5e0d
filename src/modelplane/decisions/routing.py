"""What a gateway should do with requests, as plain data.

The agent computes a `RoutePlan` for each deployment from its stored `TrafficSplit` and hands it
to `ports.proxy.Proxy`; the adapter for Envoy turns it into protobuf. Nothing here knows of
Envoy. Plans are consistent by construction: a weight never names a cluster that is not in the
same plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from modelplane.resources.limits import Limits
from modelplane.resources.strategy import Slice
from modelplane.resources.traffic_split import DEFAULT_RULE, InputType

TOTAL_WEIGHT = 10_000
"""Weights of one plan sum to this constant (basis points), which keeps hashing sticky."""

Role = Literal["stable", "candidate", "shadow"]

OVERRIDE_RULE = "override"
"""Tags the counts of requests that chose their version by header; they are not judged."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One ready replica that may receive requests.

    Attributes
    ----------
    replica
        Name of the `Replica` resource.
    address
        ``unix:/path`` or ``host:port``.
    identity
        SPIFFE id that answers there over mutual TLS; empty: no TLS.
    """

    replica: str
    address: str
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Variant:
    """One live revision of a deployment.

    Attributes
    ----------
    cluster
        Name unique on the gateway, ``DEPLOYMENT.REVISION`` with the revision's short digest.
    version
        The model version people know, such as ``1.2.0``; sent as ``x-modelplane-version``.
    role
        ``stable``, ``candidate`` or ``shadow``; a plan has exactly one stable.
    weight
        Share of requests in basis points, 0 to `TOTAL_WEIGHT`, where the plan names no rules.
    endpoints
        Ready replicas, sorted by replica name; may be empty only when the weight is 0.
    """

    cluster: str
    version: str
    role: Role
    weight: int
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Segment:
    """A range of users, `width` basis points of the hash wide, and the cluster they go to."""

    cluster: str
    width: int


@dataclass(frozen=True, slots=True)
class Mirror:
    """A share of requests, in basis points, that is copied to a shadow's cluster."""

    cluster: str
    share: int


@dataclass(frozen=True, slots=True)
class Remote:
    """A share of requests, in basis points, that is copied to another environment's gateway.

    Attributes
    ----------
    environment
        Names it.
    address
        ``host:port`` of its mesh.
    identity
        SPIFFE id of its gateway.
    share
        Of all requests, whatever their rule.
    """

    environment: str
    address: str
    identity: str
    share: int


@dataclass(frozen=True, slots=True)
class Rule:
    """Who is under it, and which of them go where. The first rule that holds is used.

    Attributes
    ----------
    name
        Tags the counts; the last rule of a plan is `DEFAULT_RULE`.
    predicate
        CEL for `expressions.predicates`; empty holds for everybody.
    salt
        Which users are in which range; constant while a rollout under the rule runs.
    segments
        Ranges in the order of the hash; their widths sum to `TOTAL_WEIGHT`.
    mirrors
        Copies of the requests under this rule.
    """

    name: str
    predicate: str
    salt: str
    segments: tuple[Segment, ...]
    mirrors: tuple[Mirror, ...] = ()


def count_key(cluster: str, rule: str = DEFAULT_RULE) -> str:
    """Return the key of a variant's counts under a rule: the cluster alone for the default one.

    Examples
    --------
    >>> count_key("fraud.01"), count_key("fraud.01", "rule-1f")
    ('fraud.01', 'fraud.01|rule-1f')
    """
    return cluster if rule == DEFAULT_RULE else f"{cluster}|{rule}"


def split_count_key(key: str) -> tuple[str, str]:
    """Return the cluster and the rule of a `count_key`."""
    cluster, _, rule = key.partition("|")
    return cluster, rule or DEFAULT_RULE


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """Everything a gateway needs to serve one deployment.

    Attributes
    ----------
    deployment
        Name of the deployment, which is the model's name in the inference path.
    generation
        Generation of the `TrafficSplit` this was computed from; acknowledgements carry it back.
    variants
        The live revisions; weights sum to `TOTAL_WEIGHT`.
    sticky_header
        Request header (lower case) that tells users apart.
    sticky_cookie
        Cookie that tells users apart instead; empty: none.
    salt
        Of the one rule that a plan without rules has.
    rules
        Who gets what, `DEFAULT_RULE` last; empty: one rule by the variants' weights (`all_rules`).
    input_types
        Types of the inputs that predicates may name; empty: any name, any type.
    slices
        Parts of the users that are counted each by itself.
    allow_override
        Whether the header ``x-modelplane-version`` may choose a live version.
    limits
        What protects the deployment from too much.
    peers
        SPIFFE ids that endpoints may soon have, so that the gateway is prepared for them.
    remotes
        Gateways of other environments that get copies of the requests.
    timeout_s
        How long one request may take in all, seconds.
    try_timeout_s
        How long one attempt at one replica may take, seconds.
    shield
        Whether stable answers what the candidate fails. On unless the deployment is not
        idempotent.
    """

    deployment: str
    generation: int
    variants: tuple[Variant, ...]
    sticky_header: str = "x-user-id"
    salt: str = ""
    timeout_s: float = 60.0
    try_timeout_s: float = 20.0
    shield: bool = True
    sticky_cookie: str = ""
    rules: tuple[Rule, ...] = ()
    input_types: Mapping[str, InputType] = field(default_factory=dict)
    slices: tuple[Slice, ...] = ()
    allow_override: bool = False
    limits: Limits = field(default_factory=Limits)
    peers: tuple[str, ...] = ()
    remotes: tuple[Remote, ...] = ()

    def __post_init__(self) -> None:
        stable = [variant for variant in self.variants if variant.role == "stable"]
        if len(stable) != 1:
            raise ValueError(f"a plan has exactly one stable variant, got {len(stable)}")
        if len({variant.cluster for variant in self.variants}) != len(self.variants):
            raise ValueError("two variants of a plan are one revision")
        total = sum(variant.weight for variant in self.variants)
        if total != TOTAL_WEIGHT and not self.rules:
            raise ValueError(f"weights sum to {TOTAL_WEIGHT}, got {total}")
        for variant in self.variants:
            if variant.weight and not variant.endpoints:
                raise ValueError(f"{variant.cluster} has weight {variant.weight} and no endpoint")
        self._check_rules()

    def _check_rules(self) -> None:
        if not self.rules:
            return
        served = {variant.cluster for variant in self.variants if variant.endpoints}
        if self.rules[-1].name != DEFAULT_RULE or self.rules[-1].predicate:
            raise ValueError(f"a plan's last rule is {DEFAULT_RULE!r}, without a predicate")
        if len({rule.name for rule in self.rules}) != len(self.rules):
            raise ValueError("two rules of a plan have one name")
        for rule in self.rules:
            width = sum(segment.width for segment in rule.segments)
            if width != TOTAL_WEIGHT:
                raise ValueError(f"rule {rule.name}: widths sum to {TOTAL_WEIGHT}, got {width}")
            named = {s.cluster for s in rule.segments} | {m.cluster for m in rule.mirrors}
            if not named <= served:
                missing = ", ".join(sorted(named - served))
                raise ValueError(f"rule {rule.name} names what has no endpoint: {missing}")

    @property
    def all_rules(self) -> tuple[Rule, ...]:
        """The rules in force; of a plan that names none, one by the variants' weights.

        The first candidate then grows from the bottom of the hash and the second from the top,
        both into stable between them, so that a growing candidate never loses a user.
        """
        if self.rules:
            return self.rules
        first, *others = self.candidates or (None,)
        order = (first, *others[1:], self.stable, *others[:1])
        segments = tuple(
            Segment(variant.cluster, variant.weight)
            for variant in order
            if variant is not None and variant.weight
        )
        return (Rule(DEFAULT_RULE, "", self.salt, segments),)

    @property
    def choices(self) -> dict[str, Variant]:
        """What the header that chooses may say: a live version, or a revision's short digest.

        Of several revisions of one version, which differ in their runtime, the version means the
        first; the others are met by their digests.
        """
        live = [variant for variant in reversed(self.variants) if variant.endpoints]
        digests = {variant.cluster.rpartition(".")[2]: variant for variant in live}
        return digests | {variant.version: variant for variant in live}

    @property
    def stable(self) -> Variant:
        """The variant that serves by default and answers what a candidate fails."""
        return next(variant for variant in self.variants if variant.role == "stable")

    @property
    def candidates(self) -> tuple[Variant, ...]:
        """The variants that are being judged."""
        return tuple(variant for variant in self.variants if variant.role == "candidate")
