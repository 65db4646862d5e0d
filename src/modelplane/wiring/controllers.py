"""The reconcilers of the control plane, and what they and the API share.

Called by `wiring.control_plane`. A new reconciler is one line in `run_controllers`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass

from modelplane.adapters.clock import SystemClock
from modelplane.adapters.metrics.ring import MetricsRing
from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.controllers.alias_guards import AliasGuardController
from modelplane.controllers.analysis import AnalysisController
from modelplane.controllers.automatic import AutomaticController
from modelplane.controllers.contracts import ContractController
from modelplane.controllers.evidence import EvidenceController
from modelplane.controllers.gate_triggers import TriggerController
from modelplane.controllers.gates import GateController
from modelplane.controllers.loop import ControllerLoop, Fence
from modelplane.controllers.notifications import WORKERS
from modelplane.controllers.placement import PlacementController
from modelplane.controllers.promotion import PromotionController
from modelplane.controllers.rollout import RolloutController
from modelplane.controllers.serving import ServingController
from modelplane.controllers.traffic import TrafficController
from modelplane.controllers.traffic_policies import TrafficPolicyController
from modelplane.decisions.gate_keys import StagePlace
from modelplane.ports.blobs import Blobs
from modelplane.ports.metrics import Metrics
from modelplane.settings import Settings
from modelplane.wiring.artifacts import prepare_artifacts
from modelplane.wiring.auditing import AuditProof
from modelplane.wiring.gates import find_place
from modelplane.wiring.notifying import ApprovalControllers, make_approval_controllers
from modelplane.wiring.registries import SourceControllers, make_source_controllers

_FETCHES = 4


@dataclass(frozen=True, slots=True)
class Parts:
    """What the API and the controllers of one control plane share."""

    store: SqliteStore
    metrics: Metrics
    blobs: Blobs
    fence: Fence
    proof: AuditProof
    watching: SourceControllers
    approving: ApprovalControllers
    place: StagePlace


def make_parts(settings: Settings, store: SqliteStore) -> Parts:
    """Return the parts around the open store of a prepared state directory."""
    blobs, fence, clock = prepare_artifacts(settings), Fence(), SystemClock()
    watching = make_source_controllers(settings, store, blobs, fence, clock)
    return Parts(
        store=store,
        metrics=MetricsRing(),
        blobs=blobs,
        fence=fence,
        proof=AuditProof(store, settings.paths),
        watching=watching,
        approving=make_approval_controllers(settings, store, fence, clock, secret=watching.secret),
        place=find_place(settings.paths.signing / "key.pub"),
    )


async def run_controllers(parts: Parts) -> None:
    """Reconcile, analyse and watch, for ever."""
    store, fence, clock, place = parts.store, parts.fence, SystemClock(), parts.place
    watching, approving, proof = parts.watching, parts.approving, parts.proof
    loop = ControllerLoop(
        store,
        [
            PromotionController(store, fence, clock),
            AutomaticController(store, fence, clock, own_key=place.public_key),
            GateController(store, fence, clock, place),
            TriggerController(store, fence, clock),
            RolloutController(store, fence, clock),
            PlacementController(store, fence, clock, own_key=place.public_key),
            TrafficController(store, fence),
            TrafficPolicyController(store, fence, clock),
            ContractController(store, fence),
            ServingController(store, fence, clock),
            AliasGuardController(store, fence, clock),
            EvidenceController(
                store, parts.blobs, fence, clock, signed_head=proof.signed_head, sign=proof.sign
            ),
            watching.sources,
            watching.artifacts,
            approving.approvals,
            approving.notifications,
        ],
        fence=fence,
        holder=f"{socket.gethostname()}-{os.getpid()}",
        clock=clock,
        # One large download, or one receiver that hangs, holds up no other.
        workers={watching.artifacts.name: _FETCHES, approving.notifications.name: WORKERS},
    )
    analysis = AnalysisController(
        store, parts.metrics, fence, clock, wake=lambda key: loop.wake("rollout", key)
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(loop.run(), name="controllers")
        group.create_task(analysis.run(), name="analysis")
        group.create_task(watching.sources.run(), name="sources")
