"""Records with each contract which versions of the model keep it.

Level-triggered over runs of pipelines: reads what their checks `contract` found, which may be a
result that another run made of the same files, and writes what is new in one fenced transaction.
Verifies nothing (stages do) and decides nothing (`decisions.contracts`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from modelplane.controllers.loop import Fence
from modelplane.decisions.contracts import (
    add_verdict,
    read_verdicts,
    results_on_contracts,
)
from modelplane.ports.store import Store, Transaction
from modelplane.resources.contract import Contract
from modelplane.resources.gate_run import GateRun, StageResult
from modelplane.resources.meta import Resource, ResourceKey, Subject

SUBJECT = Subject(name="system:contracts")


class ContractController:
    """Reconciles the status of contracts with what stages found."""

    name = "contracts"
    kinds: Sequence[type[Resource[Any, Any]]] = (GateRun,)

    def __init__(self, store: Store, fence: Fence) -> None:
        self._store = store
        self._fence = fence

    def keys(self, resource: Resource[Any, Any]) -> Iterable[ResourceKey]:
        """The run itself, once a check of contracts has a result."""
        if isinstance(resource, GateRun) and results_on_contracts(resource):
            yield resource.key

    async def reconcile(self, key: ResourceKey) -> float | None:
        """Record what one run says; a run that is gone says nothing."""
        run = await self._store.find(GateRun, key.name)
        if run is None:
            return None
        contracts: dict[str, Contract] = {}
        verified: dict[str, Contract] = {}
        for name in results_on_contracts(run):
            result = await self._store.find(StageResult, name)
            version = run.spec.candidate.revision.version
            for verdict in read_verdicts(result, version) if result is not None else ():
                contract = verified.get(verdict.contract) or await self._store.find(
                    Contract, verdict.contract
                )
                if contract is not None:
                    contracts.setdefault(verdict.contract, contract)
                    verified[verdict.contract] = add_verdict(contract, verdict)
        transaction = Transaction(SUBJECT, f"verified by {key.name}", fence=self._fence.lease)
        for name, after in verified.items():
            if after != contracts[name]:
                transaction.update(after, "verify")
        if transaction:
            await self._store.commit(transaction)
        return None
