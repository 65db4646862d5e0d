"""Records with each contract which versions of the model keep it.

Level-triggered over the results of checks `contract`: reads one result and writes what is new in
it, in one fenced transaction. Verifies nothing (stages do) and decides nothing
(`decisions.contracts`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from modelplane.controllers.loop import Fence
from modelplane.decisions.contracts import add_verdict, read_verdicts
from modelplane.ports.store import Store, Transaction
from modelplane.resources.contract import Contract
from modelplane.resources.gate_run import StageResult
from modelplane.resources.meta import Resource, ResourceKey, Subject

SUBJECT = Subject(name="system:contracts")


class ContractController:
    """Reconciles the status of contracts with what stages found."""

    name = "contracts"
    kinds: Sequence[type[Resource[Any, Any]]] = (StageResult,)

    def __init__(self, store: Store, fence: Fence) -> None:
        self._store = store
        self._fence = fence

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """The result itself, when it is of a check of contracts."""
        if isinstance(resource, StageResult) and resource.spec.check == "contract":
            yield resource.key

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Record what one result says; a result that is gone says nothing."""
        result = await self._store.find(StageResult, key.name)
        if result is None:
            return None
        reason = f"verified by {result.spec.run}"
        transaction = Transaction(SUBJECT, reason, fence=self._fence.lease)
        for verdict in read_verdicts(result):
            contract = await self._store.find(Contract, verdict.contract)
            if contract is None:
                continue
            verified = add_verdict(contract, verdict)
            if verified != contract:
                transaction.update(verified, "verify")
        if transaction:
            await self._store.commit(transaction)
        return None
