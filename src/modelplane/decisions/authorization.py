"""Who may do what: roles and their bindings, compiled to Cedar policies.

Called by the API for every request. Pure. Whatever no rule of a bound role allows is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from modelplane.decisions.roles import (
    ADMIN_GROUP,
    AGENT_GROUP,
    AGENT_KINDS,
    BUILT_IN_BINDING_NAMES,
    BUILT_IN_BINDINGS,
    BUILT_IN_ROLE_NAMES,
    BUILT_IN_ROLES,
    TRAINING_REGISTERS,
    TRAINING_RULES,
)
from modelplane.decisions.training_names import model_of_group
from modelplane.expressions.cedar import CedarPolicies, CedarPolicy, CedarRequest, Pairs
from modelplane.resources.approval import Approval
from modelplane.resources.contract import Contract
from modelplane.resources.gate_run import GateRun, StageResult
from modelplane.resources.kinds import KINDS
from modelplane.resources.meta import Resource, Subject
from modelplane.resources.model import AliasMove, Model, ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import Promotion
from modelplane.resources.replica import Replica
from modelplane.resources.role import Role, RoleBinding, RoleRule, Verb
from modelplane.resources.rollout import Rollout
from modelplane.resources.traffic_policy import TrafficPolicy
from modelplane.resources.training import TrainingRun, TrainingTrigger

__all__ = [
    "ADMIN_GROUP",
    "AGENT_GROUP",
    "AGENT_KINDS",
    "Access",
    "Allowed",
    "Authority",
    "Refused",
    "Verb",
    "labels_of",
    "model_of",
]

DEFAULT_DENY = "default-deny"
ONLY_ADMIN_GRANTS = "only-admin-grants"
_GRANTING_VERBS: tuple[Verb, ...] = ("apply", "delete", "act")
_GRANTING_KINDS = ("Role", "RoleBinding", "Token")
_MOST_COMPILED = 1_000
_MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Access:
    """What is asked for.

    Attributes
    ----------
    verb
        What is to be done.
    kind
        To what: a resource kind, or one of `roles.NOT_RESOURCES`.
    environment
        None for global kinds and for requests over all environments.
    model, labels
        The model that it is about, if about one, and that model's labels.
    somewhere
        Whether it could be allowed in any environment and for any model at all: the question
        while that is not known yet. A yes is not enough to do it.
    """

    verb: Verb
    kind: str
    environment: str | None = None
    model: str | None = None
    labels: Pairs = ()
    somewhere: bool = False

    def __str__(self) -> str:
        of_model = f" of model {self.model}" if self.model else ""
        place = f" in {self.environment}" if self.environment else ""
        if not (place or self.somewhere) and self.kind in KINDS and KINDS[self.kind].scoped:
            place = " in all environments"
        return f"{self.verb} {self.kind}{of_model}{place}"


@dataclass(frozen=True, slots=True)
class Allowed:
    """The request may go on; `rule` is the one that says so: ``ROLE/RULE@BINDING``."""

    rule: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The request may not go on; `rule` names what refused it, `message` says what it takes."""

    rule: str
    message: str


class Authority:
    """All roles and bindings at one moment.

    Parameters
    ----------
    roles, bindings
        As they are stored; the built-in ones are taken from `decisions.roles` in any case.
    stages
        Of the environments, by name.
    """

    def __init__(
        self,
        roles: Iterable[Role] = (),
        bindings: Iterable[RoleBinding] = (),
        stages: Mapping[str, str] | None = None,
    ) -> None:
        own_roles = [r for r in roles if r.metadata.name not in BUILT_IN_ROLE_NAMES]
        own_bindings = [b for b in bindings if b.metadata.name not in BUILT_IN_BINDING_NAMES]
        self._stages = dict(stages or {})
        # Admin comes last, so that a refusal proposes it only when nothing less would do.
        self._roles = {r.metadata.name: r for r in (*own_roles, *BUILT_IN_ROLES)}
        self._bindings = (*BUILT_IN_BINDINGS, *own_bindings)
        self._bound: dict[frozenset[str], CedarPolicies] = {}
        self._decided: dict[tuple[frozenset[str], Access], tuple[bool, str]] = {}

    def policies(self, groups: frozenset[str]) -> CedarPolicies:
        """Return the policies that can matter to members of `groups`, compiled."""
        found = self._bound.get(groups)
        if found is None:
            if len(self._bound) >= _MOST_COMPILED:
                self._bound.clear()
            # What others may do is left out: a decision costs as much as one's own roles have
            # rules, however many roles there are.
            found = self._bound[groups] = CedarPolicies(self._bind(groups))
        return found

    @cached_property
    def _unbound(self) -> CedarPolicies:
        """The same rules as if everybody had them: what would allow that which is refused?"""
        return CedarPolicies(
            _policy(rule, f"{name}/{rule.name}")
            for name, role in self._roles.items()
            for rule in role.spec.rules
        )

    def authorize(self, subject: Subject, access: Access) -> Allowed | Refused:
        """Decide whether `subject` may have `access`."""
        key = frozenset(subject.groups), access
        decided = self._decided.get(key)
        if decided is None:
            if len(self._decided) >= _MOST_REMEMBERED:
                self._decided.clear()
            answer = self.policies(key[0]).ask(self._request(key[0], access))
            forbidden = ONLY_ADMIN_GRANTS in answer.reasons
            denied = ONLY_ADMIN_GRANTS if forbidden else DEFAULT_DENY
            rule = answer.reasons[0] if answer.allowed else denied
            decided = self._decided[key] = answer.allowed, rule
        allowed, rule = decided
        if allowed:
            return Allowed(rule)
        lacks = self._lacks(subject, access)
        return Refused(rule, f"{subject.name!r} may not {access} (rule {rule}): {lacks}")

    def bindings_of(self, subject: Subject) -> Sequence[RoleBinding]:
        """Return what gives `subject` roles."""
        return self._binding(frozenset(subject.groups))

    def _binding(self, groups: frozenset[str]) -> Sequence[RoleBinding]:
        return [b for b in self._bindings if not groups.isdisjoint(b.spec.groups)]

    def is_limited_to_models(self, subject: Subject) -> bool:
        """Whether some of what `subject` may do depends on the model."""
        return any(map(model_of_group, subject.groups)) or any(
            _names_models(binding) for binding in self.bindings_of(subject)
        )

    def _request(self, groups: Iterable[str], access: Access) -> CedarRequest:
        return CedarRequest(
            groups=tuple(sorted(groups)),
            verb=access.verb,
            kind=access.kind,
            environment=access.environment,
            stage=self._stages.get(access.environment or ""),
            model=access.model,
            labels=access.labels,
            somewhere=access.somewhere,
        )

    def _bind(self, groups: frozenset[str]) -> Iterable[CedarPolicy]:
        admins: set[str] = set()
        for binding in self._binding(groups):
            spec, role = binding.spec, self._roles.get(binding.spec.role)
            if role is None:  # it went while the binding was made; nobody has what does not exist
                continue
            if spec.role == "admin" and not is_limited(binding):
                admins.update(spec.groups)
            for rule in role.spec.rules:
                name = f"{spec.role}/{rule.name}@{binding.metadata.name}"
                yield _policy(rule, name, binding=binding)
        yield from _training_policies(groups)
        yield CedarPolicy(
            ONLY_ADMIN_GRANTS,
            verbs=_GRANTING_VERBS,
            kinds=_GRANTING_KINDS,
            effect="forbid",
            unless_groups=tuple(sorted(admins)),
        )

    def _lacks(self, subject: Subject, access: Access) -> str:
        """Say what `subject` would need for an access that it does not have."""
        granting: dict[str, str] = {}
        for reason in self._unbound.ask(self._request((), access)).reasons:
            role, _, rule = reason.partition("/")
            granting.setdefault(role, rule)
        if not granting:
            return "no role has that"
        wanted = min(granting, key=list(self._roles).index)
        if _is_granting(access):
            wanted = "admin"
        needed = f"that takes role {wanted} (rule {granting[wanted]})"
        own = self.bindings_of(subject)
        limited = next((b for b in own if b.spec.role in granting), None)
        if limited is not None and not _is_granting(access):
            return f"binding {limited.metadata.name} of role {limited.spec.role} is only for " + (
                _limits(limited)
            )
        if not own:
            groups = ", ".join(subject.groups)
            which = f"no role is bound to its groups ({groups})" if groups else "it has no group"
            return f"{which}, and {needed}"
        return needed


def model_of(resource: Resource[Any, Any]) -> str | None:
    """Return the model that a resource is about; None when it is about none, or several."""
    match resource:
        case Model():
            return resource.metadata.name
        case ModelVersion() | AliasMove() | ModelDeployment():
            return resource.spec.model
        case (
            Approval()
            | StageResult()
            | Contract()
            | TrafficPolicy()
            | TrainingTrigger()
            | TrainingRun()
        ):
            return resource.spec.model
        case Promotion() | Replica():
            return resource.spec.revision.model
        case Rollout():
            return resource.spec.candidate.model
        case GateRun():
            return resource.spec.candidate.revision.model
    return None


def labels_of(model: Model | None) -> Pairs:
    """Return the labels of a model as `Access` has them; none of one that does not exist."""
    return tuple(sorted(model.metadata.labels.items())) if model is not None else ()


def _training_policies(groups: frozenset[str]) -> Iterable[CedarPolicy]:
    """Return what the tokens of trainings may do: a group of theirs stands for one model."""
    for group in sorted(groups):
        model = model_of_group(group)
        if model is None:
            continue
        for rule in (*TRAINING_RULES, TRAINING_REGISTERS):
            yield CedarPolicy(
                f"training/{rule.name}@training",
                groups=(group,),
                verbs=tuple(rule.verbs),
                kinds=tuple(rule.kinds),
                models=(model,) if rule is TRAINING_REGISTERS else (),
            )


def _policy(rule: RoleRule, id: str, *, binding: RoleBinding | None = None) -> CedarPolicy:
    spec = binding.spec if binding is not None else None
    return CedarPolicy(
        id,
        groups=spec.groups if spec is not None else None,
        verbs=() if "*" in rule.verbs else rule.verbs,
        kinds=() if "*" in rule.kinds else rule.kinds,
        stages=rule.stages,
        environments=spec.environments if spec is not None else (),
        models=spec.models.names if spec is not None else (),
        labels=tuple(sorted(spec.models.labels.items())) if spec is not None else (),
    )


def is_limited(binding: RoleBinding) -> bool:
    """Whether a binding gives its role only in some environments or for some models."""
    return bool(binding.spec.environments) or _names_models(binding)


def _names_models(binding: RoleBinding) -> bool:
    models = binding.spec.models
    return bool(models.names or models.labels)


def _limits(binding: RoleBinding) -> str:
    spec = binding.spec
    environments = f"environments {', '.join(spec.environments)}" if spec.environments else ""
    models = ", ".join([*spec.models.names, *(f"{k}={v}" for k, v in spec.models.labels.items())])
    return " and ".join(part for part in (environments, f"models {models}" * bool(models)) if part)


def _is_granting(access: Access) -> bool:
    return access.verb in _GRANTING_VERBS and access.kind in _GRANTING_KINDS
