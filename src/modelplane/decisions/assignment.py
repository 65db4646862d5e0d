"""Which version a request meets, and why: the same answer as the gateway gives.

Called by `api.explaining` and `api.ofrep`. Pure. The order is the gateway's: the header that
chooses a version, then the first rule that holds, then the range of users that the hash of the
user's id lies in. Nothing here is a second truth: predicates are those the gateway evaluates, and
the ranges are those of the plan it was given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import xxhash
from pydantic import Field

from modelplane.decisions.routing import (
    OVERRIDE_RULE,
    TOTAL_WEIGHT,
    RoutePlan,
    Rule,
)
from modelplane.expressions.predicates import Predicate, RequestFacts, compile_predicate
from modelplane.resources.meta import Part
from modelplane.resources.traffic_split import DEFAULT_RULE

VERSION_HEADER = "x-modelplane-version"
"""Chooses a live version where the deployment allows it."""

MAX_COOKIE_BYTES = 256
"""A longer value of the cookie that tells users apart is not taken."""

_BLANK = " \t"  # and nothing else that Unicode calls a space: the gateway compares bytes

AssignmentReason = Literal["header", "refused", "only-version", "user", "random"]


class Share(Part):
    """A version and its share of the requests under a rule."""

    version: str
    cluster: str = Field(description="The gateway's name of the revision.")
    percentage: float


class Assignment(Part):
    """The version a request meets."""

    rule: str = Field(description="That it is under: `default`, `override` or a predicate's.")
    predicate: str = Field(default="", description="Of that rule.")
    reason: AssignmentReason = Field(
        description="`header`: it chose by header; `refused`: a version that is not live; "
        "`only-version`: nobody under the rule meets another; `user`: by the user's id; `random`: "
        "nothing tells the user apart, so each request meets another one."
    )
    bucket: int | None = Field(
        default=None, description="Place of the user among 10,000 under that rule."
    )
    version: str | None = Field(default=None, description="Absent: random or refused.")
    cluster: str | None = None
    shares: tuple[Share, ...] = Field(default=(), description="Of the rule.")
    mirrors: tuple[Share, ...] = Field(default=(), description="Where copies go, unseen.")
    why: tuple[str, ...] = Field(default=(), description="Step by step, for people.")


class Explanation(Assignment):
    """The version a request meets at a deployment, and whether its gateway knows yet."""

    deployment: str
    environment: str
    acknowledged: bool = Field(description="Whether the gateway routes so already.")
    notes: tuple[str, ...] = Field(default=(), description="What the answer leaves open.")


def bucket_of(user: str, salt: str) -> int:
    """Return the place of a user among `TOTAL_WEIGHT`, as the gateway hashes it.

    Envoy's xxHash64 (seed 0) of the salt, a colon and the id, modulo the total weight.

    Examples
    --------
    >>> bucket_of("alice", "1f3a") == bucket_of("alice", "1f3a") != bucket_of("alice", "2b")
    True
    """
    key = f"{salt}:{user}".encode("utf-8", "surrogatepass")
    return int(xxhash.xxh64_intdigest(key)) % TOTAL_WEIGHT


def assign(plan: RoutePlan, facts: RequestFacts, user: str | None = None) -> Assignment:
    """Return what `plan` makes of a request.

    Parameters
    ----------
    plan
        What the gateway was given.
    facts
        The request; header names in lower case.
    user
        What tells the user apart; None: what the plan's header or cookie in `facts` says.
    """
    chosen = facts.headers.get(VERSION_HEADER)
    if plan.allow_override and chosen is not None:
        return _assign_by_header(plan, chosen)
    rule, why = _find_rule(plan, facts)
    shares = tuple(_shares(plan, rule))
    mirrors = tuple(
        _share(plan, mirror.cluster, mirror.share / TOTAL_WEIGHT * 100) for mirror in rule.mirrors
    )
    found = Assignment(
        rule=rule.name,
        predicate=rule.predicate,
        reason="only-version",
        shares=shares,
        mirrors=mirrors,
    )
    if user is None:
        user = find_user(plan, facts)
    told = _tell_mirrors(mirrors)
    if len(shares) == 1:
        why.append(f"everybody under {rule.name} meets {shares[0].version}")
        bucket = None if user is None else bucket_of(user, rule.salt)
        at = {"bucket": bucket, "version": shares[0].version, "cluster": shares[0].cluster}
        return found.model_copy(update={**at, "why": (*why, *told)})
    if user is None:
        why.append(f"the request names no user ({_source(plan)}), so each one is drawn anew:")
        why.append(", ".join(f"{share.percentage:g} % {share.version}" for share in shares))
        return found.model_copy(update={"reason": "random", "why": (*why, *told)})
    bucket = bucket_of(user, rule.salt)
    cluster, start, end = _range_at(rule, bucket)
    version = _version_of(plan, cluster)
    why.append(f"bucket {bucket} of {TOTAL_WEIGHT} lies in {start}-{end - 1}, which is {version}")
    at = {"bucket": bucket, "version": version, "cluster": cluster}
    return found.model_copy(update={"reason": "user", **at, "why": (*why, *told)})


def find_user(plan: RoutePlan, facts: RequestFacts) -> str | None:
    """Return what tells the user of a request apart; None when nothing does."""
    if not plan.sticky_cookie:
        return facts.headers.get(plan.sticky_header)
    for pair in facts.headers.get("cookie", "").split(";"):
        name, found, value = pair.partition("=")
        value = value.strip(_BLANK)
        ours = found and name.strip(_BLANK) == plan.sticky_cookie
        if ours and value and len(value.encode()) <= MAX_COOKIE_BYTES:
            return value
    return None


def _assign_by_header(plan: RoutePlan, chosen: str) -> Assignment:
    met = plan.choices.get(chosen)
    if met is not None:
        why = f"{VERSION_HEADER} chose {chosen}"
        return Assignment(
            rule=OVERRIDE_RULE,
            reason="header",
            version=met.version,
            cluster=met.cluster,
            why=(why,),
        )
    live = sorted({variant.version for variant in plan.choices.values()})
    why = f"{VERSION_HEADER} asks for {chosen[:80]!r}; live are {', '.join(live)}: 404"
    return Assignment(rule=OVERRIDE_RULE, reason="refused", why=(why,))


def _find_rule(plan: RoutePlan, facts: RequestFacts) -> tuple[Rule, list[str]]:
    """Return the first rule that holds, and why those before it do not."""
    why: list[str] = []
    for rule in plan.all_rules:
        if not rule.predicate:
            if why or rule.name != DEFAULT_RULE:
                why.append(f"{rule.name} is for everybody else")
            return rule, why
        predicate = compile_predicate(rule.predicate, plan.input_types)
        if not isinstance(predicate, Predicate):
            why.append(f"predicate of {rule.name} is not valid: {predicate[0]}")
            continue
        holds = predicate.evaluate(facts)
        verb = "holds" if holds else "does not hold"
        why.append(f"predicate of {rule.name} {verb}: {predicate.describe(facts)}")
        if holds:
            return rule, why
    return plan.all_rules[-1], why


def _shares(plan: RoutePlan, rule: Rule) -> Iterator[Share]:
    widths: dict[str, int] = {}
    for segment in rule.segments:
        widths[segment.cluster] = widths.get(segment.cluster, 0) + segment.width
    for cluster, width in widths.items():
        yield _share(plan, cluster, width / TOTAL_WEIGHT * 100)


def _share(plan: RoutePlan, cluster: str, percentage: float) -> Share:
    return Share(version=_version_of(plan, cluster), cluster=cluster, percentage=percentage)


def _range_at(rule: Rule, bucket: int) -> tuple[str, int, int]:
    """Return the cluster of the range that a bucket lies in, with its bounds."""
    start = 0
    for segment in rule.segments:
        if bucket < start + segment.width:
            return segment.cluster, start, start + segment.width
        start += segment.width
    raise ValueError(f"rule {rule.name}: {bucket} lies in no range")


def _version_of(plan: RoutePlan, cluster: str) -> str:
    return next((v.version for v in plan.variants if v.cluster == cluster), cluster)


def _source(plan: RoutePlan) -> str:
    if plan.sticky_cookie:
        return f"cookie {plan.sticky_cookie}, which the gateway issues with the first answer"
    return f"header {plan.sticky_header}"


def _tell_mirrors(mirrors: Sequence[Share]) -> list[str]:
    return [
        f"{m.percentage:g} % are copied to {m.version}, whose answers are thrown away"
        for m in mirrors
    ]
