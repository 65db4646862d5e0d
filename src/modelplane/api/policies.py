"""Policies: checked when applied, tried on one version, replayed over past promotions.

``POST /policies:test`` and ``POST /policies:replay`` change nothing. Thin:
`decisions.promotion_guards` and `decisions.policy_replay` decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from fastapi import Request
from pydantic import Field
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.answers import AnyResource, part_response
from modelplane.api.bodies import parse_part
from modelplane.api.deployments import find_version, load_environment
from modelplane.api.routes import Routes
from modelplane.client.policies import PolicyTrial
from modelplane.decisions.admission import Asked, compute_revision, make_promotion
from modelplane.decisions.approvals import check_approval_policy
from modelplane.decisions.policies import (
    check_pipeline_change,
    check_pipeline_unused,
    check_policy,
    names_for_approval,
)
from modelplane.decisions.policy_replay import Past, PolicyReplay, replay_policies
from modelplane.decisions.promotion_guards import Passage, judge_passage
from modelplane.decisions.publishing import NoDeployment, choose_deployment
from modelplane.errors import FieldError, InvalidResource
from modelplane.ports.past_promotions import PastPromotions
from modelplane.ports.promotion_guards import (
    Policies,
    load_guards,
    load_policies,
    load_surroundings,
)
from modelplane.ports.store import Store
from modelplane.resources.approval import ApprovalPolicy
from modelplane.resources.environment import Environment
from modelplane.resources.manifest import read_document
from modelplane.resources.meta import Metadata, Name, Part, Subject
from modelplane.resources.model import ModelVersion
from modelplane.resources.model_deployment import ModelDeployment, ModelDeploymentSpec
from modelplane.resources.promotion import Promotion
from modelplane.resources.promotion_policy import PromotionPolicy
from modelplane.resources.token import Token
from modelplane.resources.validation_pipeline import ValidationPipeline

MAX_DOCUMENTS = 100
MAX_PROMOTIONS = 5000
"""The newest so many are replayed."""


class ReplayRequest(Part):
    """Which policies to replay over which promotions."""

    documents: tuple[dict[str, Any], ...] = Field(default=(), max_length=MAX_DOCUMENTS)
    since: datetime | None = None


class TrialRequest(Part):
    """Which version to try policies on, and where."""

    version: str = Field(description="``MODEL@VERSION``.")
    environment: Name
    deployment: Name | None = None
    documents: tuple[dict[str, Any], ...] = Field(default=(), max_length=MAX_DOCUMENTS)


def add_policy_routes(routes: Routes) -> None:
    """Add the two routes."""

    async def test(request: Request) -> Response:
        """Say what would be decided of a version in an environment now, and why."""
        context = context_of(request)
        subject = await context.admit(request, "list", "Promotion")
        wanted = parse_part(TrialRequest, await context.read_object(request))
        return part_response(await _try(context, wanted, subject))

    async def replay(request: Request) -> Response:
        """Say what the policies would have decided of each past promotion."""
        context = context_of(request)
        await context.admit(request, "list", "Promotion")
        wanted = parse_part(ReplayRequest, await context.read_object(request))
        return part_response(await _replay(context.store, wanted))

    for name, endpoint, fields, required, summary in (
        ("test", test, TrialRequest, ["version", "environment"], "Try policies on a version"),
        ("replay", replay, ReplayRequest, [], "Replay policies over past promotions"),
    ):
        schema = fields.model_json_schema(by_alias=True) | {"required": required}
        routes.add(
            "POST",
            f"/policies:{name}",
            endpoint,
            tag="PromotionPolicy",
            operation_id=f"{name}Policies",
            summary=summary,
            openapi_extra={
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": schema}},
                }
            },
        )


async def check_policies(store: Store, declared: AnyResource) -> None:
    """Refuse a policy that refers to what is not there, a pipeline that would break a policy."""
    if isinstance(declared, PromotionPolicy):
        check_policy(declared, await load_surroundings(store))
    elif isinstance(declared, ApprovalPolicy):
        check_approval_policy(declared, names_for_approval(await load_surroundings(store)))
    elif isinstance(declared, ValidationPipeline):
        applied = await load_policies(store)
        around = await load_surroundings(store)
        check_pipeline_change(declared, (*applied.promotion, *applied.approval), around)


async def check_unused(store: Store, resource: AnyResource) -> None:
    """Refuse to delete a pipeline that a policy requires."""
    if isinstance(resource, ValidationPipeline):
        policies, _ = await store.list(PromotionPolicy)
        check_pipeline_unused(resource.metadata.name, policies)


async def _propose(store: Store, documents: Sequence[dict[str, Any]]) -> Policies:
    """Return the applied policies with those in `documents` in their place, checked."""
    applied = await load_policies(store)
    promotion = {policy.metadata.name: policy for policy in applied.promotion}
    approval = {policy.metadata.name: policy for policy in applied.approval}
    for place, document in enumerate(documents):
        proposed = read_document(document)
        if isinstance(proposed, PromotionPolicy):
            promotion[proposed.metadata.name] = proposed
        elif isinstance(proposed, ApprovalPolicy):
            approval[proposed.metadata.name] = proposed
        else:
            message = f"is a {proposed.kind}; give PromotionPolicy and ApprovalPolicy"
            raise InvalidResource(
                "the body is not valid", [FieldError(f"documents[{place}]", message)]
            )
        await check_policies(store, proposed)
    return Policies(tuple(promotion.values()), tuple(approval.values()))


async def _replay(store: Store, wanted: ReplayRequest) -> PolicyReplay:
    policies = await _propose(store, wanted.documents)
    promotions = [p for p in (await store.list(Promotion))[0] if _is_since(p, wanted.since)]
    promotions.sort(key=lambda p: (str(p.metadata.created_at), p.metadata.name))
    past = PastPromotions(store, policies)
    await past.open()
    guarded = [
        Past(promotion, guards)
        for promotion in promotions[-MAX_PROMOTIONS:]
        if (guards := await past.guards(promotion)) is not None
    ]
    groups = {token.metadata.name: token.spec.groups for token in (await store.list(Token))[0]}
    return await asyncio.to_thread(replay_policies, guarded, groups)


def _is_since(promotion: Promotion, since: datetime | None) -> bool:
    made = promotion.metadata.created_at
    moment = since.astimezone() if since is not None else None
    return moment is None or (made is not None and made >= moment)


async def _try(context: Context, wanted: TrialRequest, subject: Subject) -> PolicyTrial:
    store, now = context.store, context.dependencies.clock.now()
    policies = await _propose(store, wanted.documents)
    environment = await load_environment(store, wanted.environment, path="environment")
    version = await find_version(store, wanted.version)
    spec = await _spec_of(store, version, environment, wanted.deployment)
    deployment = ModelDeployment(
        metadata=Metadata(name="trial", environment=wanted.environment), spec=spec
    )
    revision = compute_revision(spec, version)
    asked = Asked(subject, now)
    promotion = make_promotion(deployment, revision, asked, requested_version=version.spec.version)
    promotion = promotion.with_(metadata=promotion.metadata.with_(created_at=now))
    guards = await load_guards(store, promotion, policies)
    return _describe(version, environment, judge_passage(promotion, guards, now))


async def _spec_of(
    store: Store, version: ModelVersion, environment: Environment, deployment: str | None
) -> ModelDeploymentSpec:
    """Return what a promotion there would start from; the defaults where nothing is declared."""
    environments, _ = await store.list(Environment)
    deployments, _ = await store.list(ModelDeployment)
    model = version.spec.model
    try:
        source = choose_deployment(model, environment, environments, deployments, wanted=deployment)
    except NoDeployment:
        return ModelDeploymentSpec(model=model, version=version.spec.version)
    return source.spec.with_(version=version.spec.version)


def _describe(version: ModelVersion, environment: Environment, passage: Passage) -> PolicyTrial:
    place = environment.metadata.name
    asked = tuple(f"{place}/{approval.spec.policy}" for approval in passage.create)
    carried = tuple(name for name in passage.approvals if not _is_new(name, passage))
    return PolicyTrial(
        model=version.spec.model,
        version=version.spec.version,
        environment=place,
        phase=passage.phase or "Frozen",
        reason=passage.reason,
        message=passage.message,
        policies=passage.policies,
        gates=passage.gates,
        approvals=carried + asked,
    )


def _is_new(name: str, passage: Passage) -> bool:
    new = {f"{a.metadata.environment}/{a.metadata.name}" for a in passage.create}
    return name in new
