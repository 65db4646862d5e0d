"""Makes the evidence of each promotion that is over, and stores it with the artifacts.

The bundle is made at once, while everything it rests on is there and the log since the request
is short. What evidence is: `decisions.evidence`.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from modelplane.client.artifacts import digest_tree, tar_stream
from modelplane.controllers.loop import Fence
from modelplane.errors import TransientError
from modelplane.ports.blobs import Blobs
from modelplane.ports.clock import Clock
from modelplane.ports.evidence import Sign, SignedHeadSource, build_bundle
from modelplane.ports.store import Store, Transaction
from modelplane.resources.meta import Resource, ResourceKey, Subject
from modelplane.resources.promotion import FINISHED_PROMOTION, Promotion

SUBJECT = Subject(name="system:evidence")
FILE_NAME = "evidence.json"
_RECENT = timedelta(days=7)
"""Of promotions that ended before, as an older release left them, evidence is made on request."""


class EvidenceController:
    """Reconciles one finished Promotion at a time."""

    name = "evidence"
    kinds: Sequence[type[Resource[Any, Any]]] = (Promotion,)

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        fence: Fence,
        clock: Clock,
        *,
        signed_head: SignedHeadSource,
        sign: Sign,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._fence = fence
        self._clock = clock
        self._signed_head = signed_head
        self._sign = sign

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """A promotion that is over and has no evidence yet."""
        if isinstance(resource, Promotion) and _is_due(resource):
            yield resource.key

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Make the bundle, store it, and say where it is."""
        promotion = await self._store.find(Promotion, key.name, key.environment)
        if promotion is None or not _is_due(promotion):
            return None
        now = self._clock.now()
        finished_at = promotion.status.finished_at
        if finished_at is not None and now - finished_at > _RECENT:
            return None
        try:
            bundle = await build_bundle(
                self._store, promotion, self._signed_head, self._sign, now=now
            )
        except TransientError as error:
            return error.retry_after_s
        digest = await self._keep(to_json(bundle.to_dict(), indent=1))
        transaction = Transaction(SUBJECT, fence=self._fence.lease)
        transaction.update(promotion.with_status(evidence=digest), "promotion.evidence")
        await self._store.commit(transaction)
        return None

    async def _keep(self, content: bytes) -> str:
        with tempfile.TemporaryDirectory(prefix="mp-evidence-") as folder:
            file = Path(folder) / FILE_NAME
            await asyncio.to_thread(file.write_bytes, content)
            digest = digest_tree(file).digest
            await self._blobs.put(_pieces(tar_stream(file)), digest)
        return digest


def _is_due(promotion: Promotion) -> bool:
    return promotion.status.phase in FINISHED_PROMOTION and promotion.status.evidence is None


async def _pieces(stream: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in stream:
        yield piece
