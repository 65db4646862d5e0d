"""Promotion policies: which ones guard a promotion, what they may say, and what they say of it.

Called by the API when policies and pipelines are applied or deleted, and by `promotion_guards`
and `policy_replay`. Pure. What cannot be evaluated is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from modelplane.decisions.aliases import check_alias
from modelplane.decisions.approvals import check_approval_policy
from modelplane.decisions.facts import FactNames, Facts, fact_names
from modelplane.decisions.freezes import load_zone
from modelplane.decisions.gate_runs import digest_json
from modelplane.errors import Conflict, FieldError, InvalidResource
from modelplane.expressions.cel import (
    Condition,
    ExpressionFault,
    compile_condition,
    describe_values,
    evaluate,
    identifier,
    names_in,
)
from modelplane.resources.approval import ApprovalPolicy
from modelplane.resources.fields import suggest
from modelplane.resources.model import Model
from modelplane.resources.promotion import PolicyOutcome
from modelplane.resources.promotion_policy import PolicyCondition, PromotionPolicy
from modelplane.resources.validation_pipeline import ValidationPipeline


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What policies may refer to.

    Attributes
    ----------
    pipelines
        By name, all there are.
    datasets
        Names of the registered ones.
    environments
        Names.
    """

    pipelines: Mapping[str, ValidationPipeline] = field(default_factory=dict)
    datasets: Collection[str] = ()
    environments: Collection[str] = ()


def digest_policy(policy: PromotionPolicy) -> str:
    """Return the SHA-256 of a policy's spec, hex: what outcomes name it by."""
    return digest_json(policy.spec.to_dict())


def matching_policies(
    policies: Iterable[PromotionPolicy], environment: str, model: Model
) -> tuple[PromotionPolicy, ...]:
    """Return the policies that guard `model` in `environment`, by name."""
    name, labels = model.metadata.name, model.metadata.labels
    found = [
        policy
        for policy in policies
        if environment in policy.spec.environments and policy.spec.models.matches(name, labels)
    ]
    return tuple(sorted(found, key=lambda policy: policy.metadata.name))


def names_for(policy: PromotionPolicy, around: Surroundings) -> FactNames:
    """Return the names that the conditions of `policy` may use: its own pipelines measure."""
    own = [around.pipelines[name] for name in policy.spec.pipelines if name in around.pipelines]
    return fact_names(own, around.datasets)


def names_for_approval(around: Surroundings) -> FactNames:
    """Return the names that conditions of approval policies may use: any pipeline measures."""
    return fact_names(around.pipelines.values(), around.datasets, of_several=True)


def check_policy(policy: PromotionPolicy, around: Surroundings) -> None:
    """Check what a policy refers to.

    Raises
    ------
    InvalidResource
        An unknown environment, pipeline, name or time zone, or an expression that is not true
        or false; with every fault and its place.
    """
    faults = [
        FieldError(
            f"spec.environments[{place}]", _unknown("environment", name, around.environments)
        )
        for place, name in enumerate(policy.spec.environments)
        if name not in around.environments
    ]
    faults += [*_check_references(policy, around), *_check_conditions(policy, around)]
    if faults:
        raise InvalidResource(f"PromotionPolicy {policy.metadata.name} is not valid", faults)


def check_pipeline_change(
    declared: ValidationPipeline,
    policies: Iterable[PromotionPolicy | ApprovalPolicy],
    around: Surroundings,
) -> None:
    """Raise `InvalidResource` when a policy's condition would no longer make sense.

    Parameters
    ----------
    declared
        The pipeline as it is to be.
    policies
        All there are.
    around
        As it is now.
    """
    name = declared.metadata.name
    if name not in around.pipelines:
        return
    changed = replace(around, pipelines={**around.pipelines, name: declared})
    faults = []
    for policy in policies:
        before = {str(fault) for fault in _faults_of(policy, around)}
        for fault in _faults_of(policy, changed):
            if str(fault) not in before:
                text = f"{policy.kind} {policy.metadata.name} needs it: {fault}"
                faults.append(FieldError("spec.stages", text))
    if faults:
        raise InvalidResource(
            f"ValidationPipeline {name} would break a policy",
            faults,
            hint="change the policy first",
        )


def check_pipeline_unused(name: str, policies: Iterable[PromotionPolicy]) -> None:
    """Raise `Conflict` while a policy requires the pipeline."""
    users = sorted(p.metadata.name for p in policies if name in p.spec.pipelines)
    if users:
        raise Conflict(
            f"pipeline {name} is required by PromotionPolicy {', '.join(users)}",
            hint="take it out of the policy first",
        )


def judge_conditions(conditions: Sequence[PolicyCondition], facts: Facts) -> str | None:
    """Return why a condition is not true of `facts`, the first one; None when all are."""
    for condition in conditions:
        compiled = compile_condition(condition.expression, facts.names.types)
        if not isinstance(compiled, Condition):
            return f"{condition.expression}: {compiled[0].message}"
        verdict = evaluate(compiled, facts.values)
        if not verdict.holds:
            said = f"{condition.message}: " if condition.message else ""
            values = describe_values(compiled, facts.values)
            why = verdict.reason if verdict.reason and "not known" not in values else ""
            told = "; ".join(part for part in (values, why) if part)
            return f"{said}{condition.expression} is not true" + (f" ({told})" if told else "")
    return None


def judge_policy(policy: PromotionPolicy, facts: Facts) -> PolicyOutcome:
    """Return what a policy says once its pipelines have passed."""
    against = judge_conditions(policy.spec.conditions, facts)
    if against is not None:
        return outcome_of(policy, "refused", against)
    return outcome_of(policy, "allowed")


def outcome_of(policy: PromotionPolicy, outcome: str, message: str = "") -> PolicyOutcome:
    """Return the record of what `policy` said."""
    return PolicyOutcome.model_validate(
        {
            "kind": policy.kind,
            "name": policy.metadata.name,
            "digest": digest_policy(policy),
            "outcome": outcome,
            "message": message,
        }
    )


def mentions(policies: Iterable[PromotionPolicy | ApprovalPolicy], prefix: str) -> bool:
    """Whether a condition of `policies` uses a name that begins with `prefix`."""
    return any(
        name.startswith(prefix)
        for policy in policies
        for condition in policy.spec.conditions
        for name in names_in(condition.expression)
    )


def _check_references(policy: PromotionPolicy, around: Surroundings) -> list[FieldError]:
    faults = [
        FieldError(f"spec.pipelines[{place}]", _unknown("pipeline", name, around.pipelines))
        for place, name in enumerate(policy.spec.pipelines)
        if name not in around.pipelines
    ]
    for place, window in enumerate(policy.spec.freezes):
        if load_zone(window.timezone) is None:
            message = f"no time zone {window.timezone[:80]!r}; write it like Europe/Berlin"
            faults.append(FieldError(f"spec.freezes[{place}].timezone", message))
    for place, alias in enumerate(policy.spec.aliases):
        try:
            check_alias(alias)
        except InvalidResource as error:
            faults.append(FieldError(f"spec.aliases[{place}]", error.fields[0].message))
    return faults


def _check_conditions(policy: PromotionPolicy, around: Surroundings) -> list[FieldError]:
    names = names_for(policy, around)
    faults = []
    for place, condition in enumerate(policy.spec.conditions):
        compiled = compile_condition(condition.expression, names.types)
        if isinstance(compiled, Condition):
            continue
        for fault in compiled:
            message = _describe_fault(fault, policy, names)
            faults.append(FieldError(f"spec.conditions[{place}].expression", message))
    return faults


def _faults_of(
    policy: PromotionPolicy | ApprovalPolicy, around: Surroundings
) -> Sequence[FieldError]:
    if isinstance(policy, PromotionPolicy):
        return _check_conditions(policy, around)
    try:
        check_approval_policy(policy, names_for_approval(around))
    except InvalidResource as error:
        return error.fields
    return ()


def _describe_fault(fault: ExpressionFault, policy: PromotionPolicy, names: FactNames) -> str:
    """Say of a metric which ones are measured, of anything else what the compiler says."""
    prefix, _, metric = fault.name.partition(".")
    if prefix != "metrics" or not metric:
        return str(fault)
    where = f"line {fault.line}, column {fault.column}: "
    return where + _describe_unmeasured(metric, policy, names)


def _describe_unmeasured(metric: str, policy: PromotionPolicy, names: FactNames) -> str:
    by = next((s for name, s in names.measured.items() if identifier(name) == metric), ())
    if len(by) > 1:
        ways = [f"stages.{identifier(stage)}.{metric}" for stage in by]
        return f"several stages measure {metric!r}; write one of {', '.join(ways)}"
    if not policy.spec.pipelines:
        return (
            f"{metric!r} is measured by no stage: the policy requires no pipeline; name one in "
            f"spec.pipelines, or use what the author claimed: version.metrics.{metric}"
        )
    known = ", ".join(sorted(map(identifier, names.measured))) or "nothing"
    hint = f"; {suggest(metric, names.measured)}" if names.measured else ""
    short = hint if "did you mean" in hint else ""
    return f"no stage of its pipelines measures {metric!r}{short}; they measure: {known}"


def _unknown(what: str, name: str, known: Collection[str]) -> str:
    there = ", ".join(sorted(known)) or "none"
    return f"unknown {what} {name[:80]!r}; there are: {there}"
