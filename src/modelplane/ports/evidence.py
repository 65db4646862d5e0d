"""Gathers what a promotion rests on into one bundle; used by the API and the controller.

What counts as evidence and how it is checked is in `decisions.evidence`. Reads only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from modelplane.decisions.audit_chain import AuditRecord, SignedHead
from modelplane.decisions.evidence import MAX_SEGMENT, Bundle, make_bundle, signed_text
from modelplane.errors import Conflict, TransientError
from modelplane.ports.store import AnyResource, Store
from modelplane.resources.approval import Approval, ApprovalPolicy
from modelplane.resources.dataset import DatasetVersion
from modelplane.resources.environment import Environment
from modelplane.resources.gate_run import GateRun, StageResult
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.promotion import FINISHED_PROMOTION, Promotion
from modelplane.resources.promotion_policy import PromotionPolicy
from modelplane.resources.rollout import Rollout

_PAGE = 1000
_STORIES = (Promotion, Rollout, Approval, GateRun)
"""Kinds of which every record is taken: they tell what happened. Of others only the newest."""

SignedHeadSource = Callable[[], Awaitable[Mapping[str, Any] | None]]
"""Returns the signed head of the audit log with `publicKey`, as `ApiDependencies.signed_head`."""

Sign = Callable[[bytes], str]
"""Signs with the audit log's key; hex."""

R = TypeVar("R", bound=AnyResource)


async def build_bundle(
    store: Store, promotion: Promotion, signed_head: SignedHeadSource, sign: Sign, *, now: datetime
) -> Bundle:
    """Return the signed bundle of a finished promotion.

    Raises
    ------
    Conflict
        It is not over yet.
    TransientError
        The signed head is not there yet: try again in a moment.
    """
    if promotion.status.phase not in FINISHED_PROMOTION:
        raise Conflict(
            f"{promotion.key} is not over yet: it is {promotion.status.phase}",
            hint="its evidence is made when it is over",
        )
    resources = await _gather(store, promotion)
    own = [record for resource in resources for record in await _records_of(store, resource)]
    given = await signed_head()
    if given is None:
        raise TransientError("the audit log has no signed head yet")
    head = SignedHead.model_validate({k: v for k, v in given.items() if k != "publicKey"})
    if any(record.sequence > head.sequence for record in own):
        raise TransientError("the newest audit records are not signed yet")
    first = min(r.sequence for r in own if (r.kind, r.uid) == ("Promotion", promotion.metadata.uid))
    between = await _between(store, first, head.sequence)
    bundle = make_bundle(promotion.key, resources, own, between, head, now=now)
    bundle = bundle.with_(public_key=given["publicKey"])
    return bundle.with_(signature=sign(signed_text(bundle)))


async def _gather(store: Store, promotion: Promotion) -> list[AnyResource]:
    """Return everything that `promotion` rests on and that is still there."""
    place, status, revision = promotion.metadata.environment, promotion.status, promotion.spec
    version = await store.find(
        ModelVersion, f"{revision.revision.model}@{revision.revision.version}"
    )
    found: list[AnyResource | None] = [
        promotion,
        await store.find(Environment, place or ""),
        version,
        await store.find(Model, revision.revision.model),
        await store.find(Rollout, status.rollout, place) if status.rollout else None,
    ]
    for gate in status.gates:
        found.append(await store.find(GateRun, gate.run))
        found.extend([await store.find(StageResult, name) for name in gate.results])
    for name in status.approvals:
        where, _, approval = name.rpartition("/")
        found.append(await store.find(Approval, approval, where or place))
    for outcome in status.policies:
        kind = PromotionPolicy if outcome.kind == "PromotionPolicy" else ApprovalPolicy
        found.append(await store.find(kind, outcome.name))
    for data in version.spec.datasets if version else ():
        if data.version is not None:
            found.append(await store.find(DatasetVersion, f"{data.name}@{data.version}"))
    unique = {resource.key: resource for resource in found if resource is not None}
    return list(unique.values())


async def _records_of(store: Store, resource: AnyResource) -> list[AuditRecord]:
    """Return the records of this very resource: all that tell a story, or the newest.

    What was written after the resource was read is not part of what it was.
    """
    metadata = resource.metadata
    read = partial(
        store.audit, kind=resource.kind, name=metadata.name, environment=metadata.environment
    )
    if not isinstance(resource, _STORIES):
        newest = await read(last=_PAGE)
        return [r for r in newest if r.resource_version == metadata.resource_version]
    found: list[AuditRecord] = []
    after = 0
    while page := await read(after, _PAGE):
        found += [r for r in page if r.uid == metadata.uid]
        after = page[-1].sequence
    return [r for r in found if r.resource_version <= metadata.resource_version]


async def _between(store: Store, first: int, last: int) -> Sequence[AuditRecord] | None:
    """Return the log from `first` to `last`; None when that is too much for a bundle."""
    if last - first >= MAX_SEGMENT:
        return None
    records: list[AuditRecord] = []
    after = first - 1
    while after < last:
        page = await store.audit(after, min(_PAGE, last - after))
        if not page:
            break
        records += page
        after = page[-1].sequence
    return records
