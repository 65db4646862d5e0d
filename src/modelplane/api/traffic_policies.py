"""Traffic policies: posted, applied, deleted.

``POST /traffic-policies`` takes the flat form that people post as well as the canonical one, and
tries again what ended; ``PUT`` and ``DELETE`` come from `applying`. Loads what
`decisions.traffic_policies` needs, commits what it returns. Holds no rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Query, Request
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.committing import commit
from modelplane.api.deployments import Applied, load_environment, load_version
from modelplane.api.routes import Routes
from modelplane.decisions.admission import Asked
from modelplane.decisions.traffic_policies import (
    DEPLOYMENT_LABEL,
    PolicyAdmission,
    PolicySituation,
    admit_policy,
    choose_policy_deployment,
    end_lanes,
    lanes_of,
    versions_of,
)
from modelplane.errors import FieldError, InvalidResource
from modelplane.ports.situations import was_in_staging
from modelplane.ports.store import Store, Transaction
from modelplane.resources.environment import Environment
from modelplane.resources.manifest import read_document
from modelplane.resources.meta import API_VERSION, DEFAULT_ENVIRONMENT
from modelplane.resources.model import ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.policy_shapes import written_path
from modelplane.resources.promotion import Promotion
from modelplane.resources.rollout import Rollout
from modelplane.resources.traffic_policy import TrafficPolicy

_EXAMPLE = {
    "model_name": "fraud",
    "version": "2.0.0",
    "traffic_rule": {"canary": {"percentage": 10, "predicate": "user.region == 'west'"}},
    "monitoring_hooks": ["latency_alert>95th"],
}


def add_traffic_policy_routes(routes: Routes) -> None:
    """Add the route that takes policies without a name in the path."""

    async def post(
        request: Request,
        environment: Annotated[str | None, Query(description="Where, if not in the body.")] = None,
        dry_run: Annotated[
            bool, Query(alias="dryRun", description="Only say what would happen.")
        ] = False,
        reason: Annotated[str, Query(max_length=2000, description="For the audit log.")] = "",
    ) -> Response:
        """Give a version its share of the traffic, whose and watched for what."""
        context = context_of(request)
        subject = await context.admit_somewhere(request, "apply", TrafficPolicy.__name__)
        data = await context.read_object(request)
        asked = Asked(subject, context.dependencies.clock.now(), reason)
        try:
            declared = _read(data, environment)
            applied = await apply_policy(context, declared, asked, dry_run=dry_run, explicit=True)
        except InvalidResource as error:
            fields = [FieldError(written_path(f.path, data), f.message) for f in error.fields]
            raise InvalidResource(error.message, fields, hint=error.hint) from None
        response = applied.response()
        response.status_code = 201 if applied.result == "created" and not dry_run else 200
        return response

    schema = {"type": "object", "example": _EXAMPLE}
    routes.add(
        "POST",
        f"/{TrafficPolicy.plural}",
        post,
        tag=TrafficPolicy.__name__,
        operation_id="postTrafficPolicy",
        summary="Give a version its share of a deployment's traffic",
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}
        },
    )


def _read(data: Mapping[str, Any], environment: str | None) -> TrafficPolicy:
    """Return the policy in a body, which may leave its kind out."""
    head = {"kind": TrafficPolicy.__name__, "apiVersion": API_VERSION} if "kind" not in data else {}
    declared = read_document({**head, **data})
    if not isinstance(declared, TrafficPolicy):
        message = f"is {declared.kind}; this path takes {TrafficPolicy.__name__}"
        raise InvalidResource("not a traffic policy", [FieldError("kind", message)])
    place = declared.metadata.environment
    if environment is None or environment == place:
        return declared
    if _names_environment(data):
        message = f"is {place!r}; the query says {environment[:80]!r}"
        raise InvalidResource(
            f"TrafficPolicy {declared.metadata.name} is not valid",
            [FieldError("metadata.environment", message)],
        )
    return declared.with_(metadata=declared.metadata.with_(environment=environment))


def _names_environment(data: Mapping[str, Any]) -> bool:
    places = [data, data.get("metadata"), data.get("spec")]
    return any(
        isinstance(place, dict) and not {"environment", "namespace"}.isdisjoint(place)
        for place in places
    )


async def apply_policy(
    context: Context,
    declared: TrafficPolicy,
    asked: Asked,
    *,
    dry_run: bool,
    explicit: bool = False,
) -> Applied:
    """Make `declared` what is declared; see `decisions.traffic_policies.admit_policy`.

    Raises `Forbidden` unless who asks may apply policies and promote there: a policy is both.
    """
    place = declared.metadata.environment or DEFAULT_ENVIRONMENT

    async def prepare() -> tuple[Transaction, PolicyAdmission]:
        environment = await load_environment(context.store, place)
        deployments, _ = await context.store.list(ModelDeployment, place)
        deployment = choose_policy_deployment(declared, deployments)
        model = deployment.spec.model
        await context.allow(asked.subject, "apply", TrafficPolicy.__name__, place, model=model)
        await context.allow(asked.subject, "promote", ModelDeployment.__name__, place, model=model)
        situation = await _load_situation(context, declared, environment, deployment)
        admission = admit_policy(declared, situation, asked, explicit=explicit)
        return _write(admission, situation, asked), admission

    if dry_run:
        _, admission = await prepare()
        written: tuple[Any, ...] = ()
    else:
        admission, committed = await commit(context.store, prepare)
        written = tuple(committed)
    policy = next((r for r in written if isinstance(r, TrafficPolicy)), admission.policy)
    promotion = next((r for r in written if isinstance(r, Promotion)), None)
    if promotion is None and admission.promotions:
        promotion = admission.promotions[0]
    return Applied(admission.result, policy, promotion, admission.warnings)


async def end_policy(
    store: Store, transaction: Transaction, policy: TrafficPolicy, asked: Asked
) -> None:
    """Add to `transaction` what ends all that a policy has under way; it is to be deleted."""
    name, place = policy.spec.deployment, policy.metadata.environment
    deployment = await store.find(ModelDeployment, name, place) if name else None
    if deployment is None:
        return
    running = await _running(store, deployment)
    why = f"traffic policy {policy.metadata.name} was deleted by {asked.subject.name}"
    left, ended = end_lanes(deployment, lanes_of(policy), running, why=why, now=asked.now)
    if left != deployment:
        transaction.update(left, "deployment.lanes")
    for rollout in ended:
        transaction.update(rollout, "rollback")


def _write(admission: PolicyAdmission, situation: PolicySituation, asked: Asked) -> Transaction:
    transaction = Transaction(asked.subject, asked.reason)
    if situation.existing is None:
        transaction.create(admission.policy, "apply")
    elif admission.policy != situation.existing:
        transaction.update(admission.policy, "apply")
    if admission.deployment != situation.deployment:
        transaction.update(admission.deployment, "traffic-policy")
    for promotion in admission.promotions:
        transaction.create(promotion, "request")
    for rollout in admission.ended:
        transaction.update(rollout, "rollback")
    return transaction


async def _load_situation(
    context: Context,
    declared: TrafficPolicy,
    environment: Environment,
    deployment: ModelDeployment,
) -> PolicySituation:
    store, model = context.store, deployment.spec.model
    place, name = deployment.metadata.environment, deployment.metadata.name
    versions = {
        written: await load_version(store, model, written) for written in versions_of(declared)
    }
    stable = deployment.status.stable
    serving = None
    if stable is not None:
        serving = await store.find(ModelVersion, f"{model}@{stable.version}")
    policies, _ = await store.list(TrafficPolicy, place, labels={DEPLOYMENT_LABEL: name})
    own = declared.metadata.name
    lanes = {lane: entry.promotion for lane, entry in deployment.status.lanes.items()}
    lanes[""] = deployment.status.promotion or ""
    found = {
        lane: await store.find(Promotion, promotion, place)
        for lane, promotion in lanes.items()
        if promotion
    }
    staged = [v.metadata.name for v in versions.values() if await was_in_staging(store, v)]
    return PolicySituation(
        environment,
        deployment,
        versions,
        serving=serving,
        existing=await store.find(TrafficPolicy, own, place),
        others=[policy for policy in policies if policy.metadata.name != own],
        latest={lane: promotion for lane, promotion in found.items() if promotion is not None},
        running=await _running(store, deployment),
        was_in_staging=frozenset(staged),
        own_key=context.dependencies.stage_place.public_key,
    )


async def _running(store: Store, deployment: ModelDeployment) -> list[Rollout]:
    """Return the unfinished rollouts of a deployment's traffic policies."""
    place = deployment.metadata.environment
    names = [entry.rollout for entry in deployment.status.lanes.values()]
    found = [await store.find(Rollout, name, place) for name in names if name]
    return [rollout for rollout in found if rollout is not None and not rollout.finished]
