"""Ends approvals whose time is over, and those of promotions that are over.

Answers come through the API, new approvals from the promotion's controller; here is only what
happens when nobody does anything. The promotion's controller sees the change and follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from modelplane.controllers.loop import Fence
from modelplane.decisions.approval_answers import expire, void
from modelplane.decisions.notifications import approval_event
from modelplane.ports.clock import Clock
from modelplane.ports.outbox import add_notifications
from modelplane.ports.store import Store, Transaction
from modelplane.resources.approval import Approval
from modelplane.resources.meta import Resource, ResourceKey, Subject
from modelplane.resources.notification import EventType
from modelplane.resources.promotion import FINISHED_PROMOTION, Promotion

SUBJECT = Subject(name="system:approvals")


class ApprovalController:
    """Reconciles the open approvals of one Promotion at a time."""

    name = "approvals"
    kinds: Sequence[type[Resource[Any, Any]]] = (Approval, Promotion)

    def __init__(self, store: Store, fence: Fence, clock: Clock) -> None:
        self._store = store
        self._fence = fence
        self._clock = clock
        # Promotions with open approvals: those that are over are many, and ask nothing more.
        self._asking: set[ResourceKey] = set()

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """The promotion: an open approval's own, or one that is over and has open approvals."""
        environment = resource.metadata.environment
        if isinstance(resource, Approval) and resource.status.phase == "Pending":
            key = ResourceKey("Promotion", environment, resource.spec.promotion)
            self._asking.add(key)
            yield key
        elif isinstance(resource, Promotion) and resource.status.phase in FINISHED_PROMOTION:
            yield from {resource.key} & self._asking

    async def reconcile(self, key: ResourceKey) -> float | None:
        """End what is to end; return when the next one expires."""
        prefix = f"{key.name}."
        approvals, _ = await self._store.list(Approval, key.environment, prefix=prefix)
        pending = [
            a for a in approvals if a.status.phase == "Pending" and a.spec.promotion == key.name
        ]
        if not pending:
            self._asking.discard(key)
            return None
        promotion = await self._store.find(Promotion, key.name, key.environment)
        now = self._clock.now()
        transaction = Transaction(SUBJECT, fence=self._fence.lease)
        left_s = []
        for approval in pending:
            is_over = promotion is None or promotion.status.phase in FINISHED_PROMOTION
            ended: Approval | None
            event: EventType
            if is_over or promotion is None:
                phase = promotion.status.phase if promotion is not None else "gone"
                ended, event = void(approval, f"the promotion is {phase}", now), "approval.void"
            else:
                ended, event = expire(approval, now), "approval.expired"
            if ended is None:
                left_s.append((approval.spec.expires_at - now).total_seconds())
                continue
            transaction.update(ended, event)
            await add_notifications(self._store, transaction, approval_event(ended, event, now))
        if transaction:
            await self._store.commit(transaction)
        return min(left_s, default=None)
