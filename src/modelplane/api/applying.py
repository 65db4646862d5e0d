"""Apply, delete and report: what a change of one resource does, kind by kind.

Called by `kinds`. Loads what the decisions need, commits what they return.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from modelplane.api.access import Context
from modelplane.api.answers import AnyResource
from modelplane.api.bodies import parse_part
from modelplane.api.committing import commit
from modelplane.api.deployments import Applied, apply_deployment, load_environment
from modelplane.api.granting import (
    check_binding_applied,
    check_binding_deleted,
    check_role_deleted,
)
from modelplane.api.playbooks import allow_playbook, check_playbook
from modelplane.api.policies import check_policies, check_unused
from modelplane.api.traffic_policies import apply_policy, end_policy
from modelplane.api.training import allow_trigger
from modelplane.decisions.admission import Asked, Result, admit_plain
from modelplane.decisions.alert_rules import recorded_names, warn_of_rules
from modelplane.decisions.aliases import Mover, drop_version
from modelplane.decisions.authorization import model_of
from modelplane.decisions.playbook_checks import warn_of_expressions
from modelplane.decisions.registration import bury_version
from modelplane.decisions.role_checks import check_role
from modelplane.decisions.signatures import check_keys
from modelplane.decisions.strategy_checks import check_environment_strategy
from modelplane.decisions.whole_state import (
    check_environment,
    check_environment_unused,
    check_job_change,
    check_model_unused,
)
from modelplane.errors import Conflict, FieldError, InvalidResource
from modelplane.ports.models import load_model
from modelplane.ports.store import Store, Transaction
from modelplane.resources.alerting import AlertRules, Silence
from modelplane.resources.environment import Environment
from modelplane.resources.job import Job
from modelplane.resources.manifest import read_document
from modelplane.resources.meta import API_VERSION, Part, ResourceKey, Subject
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.playbook import Playbook
from modelplane.resources.promotion import Promotion
from modelplane.resources.promotion_policy import PromotionPolicy
from modelplane.resources.role import Role, RoleBinding
from modelplane.resources.traffic_policy import TrafficPolicy
from modelplane.resources.training import TrainingTrigger


def read_declared(
    data: dict[str, Any], kind: type[AnyResource], name: str, environment: str | None
) -> AnyResource:
    """Return the resource in the body of a PUT; the path and the query may complete it.

    Raises
    ------
    InvalidResource
        It is not valid, or contradicts the path or the query.
    """
    metadata = data.get("metadata", {})
    if isinstance(metadata, dict):
        completed = {"name": name, **metadata}
        spec = data.get("spec")
        elsewhere = {"environment", "namespace"} & completed.keys() or (
            isinstance(spec, dict) and "environment" in spec
        )
        if environment is not None and not elsewhere:
            completed["environment"] = environment
        data = {"apiVersion": API_VERSION, "kind": kind.__name__, **data, "metadata": completed}
    declared = read_document(data)
    faults = []
    if type(declared) is not kind:
        faults.append(FieldError("kind", f"is {declared.kind}; the path says {kind.__name__}"))
    if declared.metadata.name != name:
        message = f"is {declared.metadata.name!r}; the path says {name[:80]!r}"
        faults.append(FieldError("metadata.name", message))
    if "@" in name:
        faults.append(FieldError("metadata.name", "only versions of models have '@' in names"))
    if environment is not None and declared.metadata.environment not in {environment, None}:
        message = f"is {declared.metadata.environment!r}; the query says {environment[:80]!r}"
        faults.append(FieldError("metadata.environment", message))
    if faults:
        raise InvalidResource(f"{kind.__name__} {name[:80]} is not valid", faults)
    return declared


async def allow_apply(context: Context, subject: Subject, declared: AnyResource) -> None:
    """Raise `Forbidden` unless `subject` may write what is declared over what there is."""
    kind, key = declared.kind, declared.key
    if isinstance(declared, TrafficPolicy) and declared.spec.model is None:
        return  # its deployment says which model it is about, and then it is asked
    existing = await context.store.find(type(declared), key.name, key.environment)
    about = {model_of(resource) for resource in (declared, existing) if resource is not None}
    for model in about:
        await context.allow(subject, "apply", kind, key.environment, model=model)
    if isinstance(declared, Playbook):
        await allow_playbook(context, subject, declared)
    if isinstance(declared, TrainingTrigger):
        await allow_trigger(context, subject, declared)
    if isinstance(declared, Model) and isinstance(existing, Model):
        kept = existing.metadata.labels.items() & declared.metadata.labels.items()
        if len(kept) < len(existing.metadata.labels):
            # Labels choose the policies of a model: taking one away could lift a policy.
            await context.allow(subject, "apply", PromotionPolicy.__name__)


async def apply(context: Context, declared: AnyResource, asked: Asked, *, dry_run: bool) -> Applied:
    """Make `declared` what is declared, or say what that would do."""
    if isinstance(declared, ModelDeployment):
        return await apply_deployment(context, declared, asked, dry_run=dry_run)
    if isinstance(declared, TrafficPolicy):
        return await apply_policy(context, declared, asked, dry_run=dry_run)

    if isinstance(declared, Silence) and not declared.spec.created_by:
        declared = declared.with_spec(created_by=asked.subject.name)
    warnings = await _warn(context, declared)

    async def prepare() -> tuple[Transaction, tuple[Result, AnyResource]]:
        key = declared.key
        existing = await context.store.find(type(declared), key.name, key.environment)
        await _check(context.store, declared, existing, asked.now)
        result, merged = admit_plain(declared, existing)
        if existing is None and isinstance(merged, Model):
            before = await load_model(context.store, key.name)
            merged = merged.with_status(moves=before.status.moves)
        transaction = Transaction(asked.subject, asked.reason)
        if result == "created":
            transaction.create(merged, "apply")
        elif result == "changed":
            transaction.update(merged, "apply")
        return transaction, (result, merged)

    if dry_run:
        _, (result, merged) = await prepare()
        return Applied(result, merged, warnings=warnings)
    (result, merged), written = await commit(context.store, prepare)
    return Applied(result, written[0] if written else merged, warnings=warnings)


async def _warn(context: Context, declared: AnyResource) -> tuple[str, ...]:
    is_asked = isinstance(declared, AlertRules | Playbook)
    if not (is_asked and context.dependencies.evaluates_rules):
        return ()
    rules, _ = await context.store.list(AlertRules)
    if isinstance(declared, Playbook):
        check_playbook(declared)
        return warn_of_expressions(declared.spec, recorded_names([one.spec for one in rules]))
    others = [one.spec for one in rules if one.metadata.name != declared.metadata.name]
    return warn_of_rules(declared.spec, others)


async def _check(
    store: Store, declared: AnyResource, existing: AnyResource | None, now: datetime
) -> None:
    if declared.metadata.environment is not None:
        await load_environment(store, declared.metadata.environment)
    if isinstance(declared, Environment):
        check_environment(declared, (await store.list(Environment))[0])
        check_keys(declared)
        check_environment_strategy(declared)
    if isinstance(declared, Job) and isinstance(existing, Job):
        check_job_change(declared, existing)
    if isinstance(declared, Role):
        check_role(declared)
    if isinstance(declared, Playbook):
        check_playbook(declared)
    if isinstance(declared, RoleBinding):
        await check_binding_applied(store, declared, now)
    await check_policies(store, declared)


async def delete(
    context: Context, kind: type[AnyResource], key: ResourceKey, asked: Asked
) -> AnyResource:
    """Delete a resource, unless something needs it; return it as it was last.

    A version becomes a tombstone. What hangs on a deployment is removed by the controllers.
    """
    store = context.store

    async def prepare() -> tuple[Transaction, AnyResource]:
        resource: AnyResource = await store.get(kind, key.name, key.environment)
        transaction = Transaction(asked.subject, asked.reason)
        if isinstance(resource, ModelVersion):
            deployments, _ = await store.list(ModelDeployment)
            promotions, _ = await store.list(Promotion)
            buried = bury_version(resource, deployments, promotions, asked.now)
            if buried != resource:
                transaction.update(buried, "delete")
                await _drop_aliases(store, transaction, buried, asked)
            return transaction, buried
        if isinstance(resource, Environment):
            deployments, _ = await store.list(ModelDeployment)
            check_environment_unused(resource, deployments, (await store.list(TrafficPolicy))[0])
        await check_unused(store, resource)
        if isinstance(resource, TrafficPolicy):
            await end_policy(store, transaction, resource, asked)
        if isinstance(resource, Role):
            await check_role_deleted(store, resource)
        if isinstance(resource, RoleBinding):
            await check_binding_deleted(store, resource, asked.now)
        if isinstance(resource, Model):
            versions, _ = await store.list(ModelVersion, prefix=f"{key.name}@")
            check_model_unused(resource, versions)
        transaction.delete(resource)
        return transaction, resource

    resource, written = await commit(store, prepare)
    return next((r for r in written if r.key == key), resource)


async def _drop_aliases(
    store: Store, transaction: Transaction, version: ModelVersion, asked: Asked
) -> None:
    model = await store.find(Model, version.spec.model)
    if model is not None:
        mover = Mover(asked.subject.name, asked.now, asked.reason or "the version was deleted")
        for changed in drop_version(model, version.spec.version, mover).written:
            transaction.put(changed, "alias")


async def report_status(
    context: Context,
    kind: type[AnyResource],
    key: ResourceKey,
    body: dict[str, Any],
    asked: Asked,
) -> AnyResource:
    """Replace the status of a resource by the one in `body`.

    The body is the resource, or of it only `status` and what should be checked: with
    `metadata.uid` the report is for that very resource and not for one of its name made later;
    with `metadata.resourceVersion` for what it was then.

    Raises
    ------
    Conflict
        The resource is another one, or has changed.
    """
    status_part: type[Part] = kind.model_fields["status"].annotation  # type: ignore[assignment]
    if "status" not in body:
        raise InvalidResource("the body is not valid", [FieldError("status", "required")])
    status = parse_part(status_part, body["status"], path="status")
    metadata = body.get("metadata")
    known = metadata if isinstance(metadata, dict) else {}

    async def prepare() -> tuple[Transaction, AnyResource]:
        resource: AnyResource = await context.store.get(kind, key.name, key.environment)
        _check_same(resource, known)
        changed = resource.with_(status=status)
        transaction = Transaction(asked.subject)
        if changed != resource:
            transaction.update(changed, "report")
        return transaction, changed

    resource, written = await commit(context.store, prepare)
    return written[0] if written else resource


_CHECKED: tuple[tuple[str, Callable[[AnyResource], object]], ...] = (
    ("uid", lambda resource: resource.metadata.uid),
    ("resourceVersion", lambda resource: resource.metadata.resource_version),
)


def _check_same(resource: AnyResource, known: dict[str, Any]) -> None:
    for name, read in _CHECKED:
        if known.get(name) and known[name] != read(resource):
            raise Conflict(
                f"{resource.key}: {name} is {read(resource)}, the report is for "
                f"{str(known[name])[:80]}",
                hint="read it again",
            )
