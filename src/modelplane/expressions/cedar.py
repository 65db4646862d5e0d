"""Cedar: rules of access as policies, compiled once, and asked.

Used by `decisions.authorization`; knows roles only as policies with names. Every text that comes
from outside stands in a policy as an escaped literal, and in a request as data, so no name can
become syntax. It must not decide anything itself: what Cedar does not permit is refused, and so
is everything that Cedar could not evaluate.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from cedarpy import PolicySet, is_authorized

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class CedarPolicy:
    """One policy; a condition that is empty holds for everything.

    Attributes
    ----------
    id
        What answers call it.
    groups
        Whom it is about; None: everyone.
    verbs, kinds
        What may (or must not) be done to what.
    stages, environments, models, labels
        Where and to which models; a request that names none is not meant. `labels` are the
        model's, all of them.
    effect, unless_groups
        ``forbid`` outweighs every permit, except for members of `unless_groups`.
    """

    id: str
    groups: tuple[str, ...] | None = None
    verbs: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    labels: Pairs = ()
    effect: Literal["permit", "forbid"] = "permit"
    unless_groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CedarRequest:
    """What is asked.

    Attributes
    ----------
    groups
        Of who asks.
    verb, kind, environment, stage, model, labels
        What is to be done to what, where; `labels` are the model's.
    somewhere
        Whether it could be allowed in any place and for any model at all.
    """

    groups: tuple[str, ...]
    verb: str
    kind: str
    environment: str | None = None
    stage: str | None = None
    model: str | None = None
    labels: Pairs = ()
    somewhere: bool = False


@dataclass(frozen=True, slots=True)
class CedarAnswer:
    """Whether it is allowed, and the ids of the policies that decided; none when none applied."""

    allowed: bool
    reasons: tuple[str, ...]


class CedarPolicies:
    """Policies, parsed once.

    Parameters
    ----------
    policies
        In any order; ids are told as they are, so they should differ.
    """

    def __init__(self, policies: Iterable[CedarPolicy]) -> None:
        self.text = "\n\n".join(write_policy(policy) for policy in policies)
        self._compiled = PolicySet.from_str(self.text)

    def ask(self, request: CedarRequest) -> CedarAnswer:
        """Decide one request; one that Cedar cannot read or evaluate is refused."""
        try:
            result = is_authorized(_request(request), self._compiled, _entities(request))
        except ValueError:
            return CedarAnswer(allowed=False, reasons=())
        diagnostics = result.diagnostics
        named = diagnostics.id_annotations_by_reason
        # A policy that failed was left out, and it might have been one that forbids.
        allowed = result.allowed and not diagnostics.errors
        return CedarAnswer(allowed, tuple(sorted(named.get(r, r) for r in diagnostics.reasons)))


def write_policy(policy: CedarPolicy) -> str:
    """Return `policy` in Cedar's syntax.

    Examples
    --------
    >>> print(write_policy(CedarPolicy("a/b@c", groups=("ops",), verbs=("steer",))))
    @id("a/b@c")
    permit (principal, action in [Action::"steer"], resource)
    when { principal in [Group::"ops"] };
    """
    verbs = ", ".join(f"Action::{quote(verb)}" for verb in policy.verbs)
    action = f"action in [{verbs}]" if verbs else "action"
    lines = [
        f"@id({quote(policy.id)})",
        f"{policy.effect} (principal, {action}, resource)",
    ]
    if policy.groups is not None:
        lines.append(f"when {{ {_member_of(policy.groups)} }}")
    if policy.kinds:
        lines.append(f"when {{ {_one_of('kind', policy.kinds)} }}")
    limits = [
        f"resource has {name} && {_one_of(name, values)}"
        for name, values in (
            ("stage", policy.stages),
            ("environment", policy.environments),
            ("model", policy.models),
        )
        if values
    ]
    limits += [
        f"resource.labels.contains({{name: {quote(name)}, value: {quote(value)}}})"
        for name, value in policy.labels
    ]
    lines += [f"when {{ context.somewhere || ({limit}) }}" for limit in limits]
    if policy.unless_groups:
        lines.append(f"unless {{ {_member_of(policy.unless_groups)} }}")
    return "\n".join(lines) + ";"


def quote(text: str) -> str:
    r"""Return `text` as a literal of Cedar, whatever it holds.

    Examples
    --------
    >>> print(quote('a"é'))
    "a\u{22}\u{e9}"
    """
    plain = "".join(
        c if c.isascii() and c.isprintable() and c not in '"\\' else f"\\u{{{ord(c):x}}}"
        for c in text
    )
    return f'"{plain}"'


def _member_of(groups: Sequence[str]) -> str:
    if not groups:
        return "false"
    return f"principal in [{', '.join(f'Group::{quote(group)}' for group in groups)}]"


def _one_of(attribute: str, values: Sequence[str]) -> str:
    return f"[{', '.join(quote(value) for value in values)}].contains(resource.{attribute})"


_SUBJECT = {"type": "Subject", "id": "subject"}
_RESOURCE = {"type": "Resource", "id": "resource"}


def _request(request: CedarRequest) -> dict[str, object]:
    return {
        "principal": _SUBJECT,
        "action": {"type": "Action", "id": request.verb},
        "resource": _RESOURCE,
        "context": {"somewhere": request.somewhere},
    }


def _entities(request: CedarRequest) -> str:
    attributes: dict[str, object] = {
        "kind": request.kind,
        # A set of pairs: as attributes, names such as __entity would mean something to Cedar.
        "labels": [{"name": name, "value": value} for name, value in request.labels],
    }
    for name in ("environment", "stage", "model"):
        value = getattr(request, name)
        if value is not None:
            attributes[name] = value
    parents = [{"type": "Group", "id": group} for group in request.groups]
    return json.dumps(
        [
            {"uid": _SUBJECT, "attrs": {}, "parents": parents},
            {"uid": _RESOURCE, "attrs": attributes, "parents": []},
        ]
    )
