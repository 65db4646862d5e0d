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
from modelplane.adapters.predictions.sqlite import SqlitePredictions
from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.controllers.alias_guards import AliasGuardController
from modelplane.controllers.analysis import AnalysisController
from modelplane.controllers.automatic import AutomaticController
from modelplane.controllers.contracts import ContractController
from modelplane.controllers.drift import DriftController
from modelplane.controllers.evidence import EvidenceController
from modelplane.controllers.gate_triggers import TriggerController
from modelplane.controllers.gates import GateController
from modelplane.controllers.loop import ControllerLoop, Fence, Reconciler
from modelplane.controllers.notifications import WORKERS
from modelplane.controllers.placement import PlacementController
from modelplane.controllers.playbooks import WORKERS as PLAYBOOK_WORKERS
from modelplane.controllers.prediction_retention import PredictionRetention
from modelplane.controllers.promotion import PromotionController
from modelplane.controllers.rollout import RolloutController
from modelplane.controllers.serving import ServingController
from modelplane.controllers.traffic import TrafficController
from modelplane.controllers.traffic_policies import TrafficPolicyController
from modelplane.controllers.training_runs import WORKERS as TRAINING_WORKERS
from modelplane.decisions.gate_keys import StagePlace
from modelplane.decisions.telemetry_series import TelemetrySeries
from modelplane.ports.blobs import Blobs
from modelplane.ports.metrics import Metrics
from modelplane.ports.quality import QualityBook
from modelplane.settings import Settings
from modelplane.wiring.alerting import AlertingControllers, make_alerting_controllers
from modelplane.wiring.artifacts import prepare_artifacts
from modelplane.wiring.auditing import AuditProof
from modelplane.wiring.gates import find_place
from modelplane.wiring.measuring import Measuring, make_measuring
from modelplane.wiring.notifying import ApprovalControllers, make_approval_controllers
from modelplane.wiring.registries import SourceControllers, make_source_controllers
from modelplane.wiring.repairing import RepairControllers, make_repair_controllers
from modelplane.wiring.training import TrainingControllers, make_training_controllers

_FETCHES = 4


@dataclass(frozen=True, slots=True)
class Parts:
    """What the API and the controllers of one control plane share."""

    store: SqliteStore
    predictions: SqlitePredictions
    quality: QualityBook
    metrics: Metrics
    blobs: Blobs
    fence: Fence
    proof: AuditProof
    watching: SourceControllers
    approving: ApprovalControllers
    alerting: AlertingControllers
    measuring: Measuring
    repairing: RepairControllers
    place: StagePlace
    api_url: str


def make_parts(settings: Settings, store: SqliteStore, predictions: SqlitePredictions) -> Parts:
    """Return the parts around the open stores of a prepared state directory."""
    blobs, fence, clock = prepare_artifacts(settings), Fence(), SystemClock()
    watching = make_source_controllers(settings, store, blobs, fence, clock)
    alerting = make_alerting_controllers(settings, store, fence, clock, secret=watching.secret)
    telemetry = TelemetrySeries()
    measuring = make_measuring(
        store,
        fence,
        clock,
        telemetry,
        prometheus=alerting.prometheus,
        public_url=settings.public_url or settings.api_url,
    )
    measuring.count_predictions(predictions)
    quality = QualityBook(predictions, clock)
    measuring.measure_quality(quality)
    return Parts(
        store=store,
        predictions=predictions,
        quality=quality,
        metrics=MetricsRing(telemetry.add),
        blobs=blobs,
        fence=fence,
        proof=AuditProof(store, settings.paths),
        watching=watching,
        approving=make_approval_controllers(settings, store, fence, clock, secret=watching.secret),
        alerting=alerting,
        measuring=measuring,
        repairing=make_repair_controllers(
            settings, store, fence, clock, querier=measuring.querier, secret=watching.secret
        ),
        place=find_place(settings.paths.signing / "key.pub"),
        api_url=settings.public_url or settings.api_url,
    )


async def run_controllers(parts: Parts) -> None:
    """Reconcile, analyse and watch, for ever."""
    store, fence, clock = parts.store, parts.fence, SystemClock()
    watching, approving = parts.watching, parts.approving
    training = make_training_controllers(
        store,
        fence,
        clock,
        secret=watching.secret,
        source=parts.api_url,
        wake=lambda key: loop.wake(training.triggers.name, key),
    )
    loop = ControllerLoop(
        store,
        _reconcilers(parts, training),
        fence=fence,
        holder=f"{socket.gethostname()}-{os.getpid()}",
        clock=clock,
        # One large download, or one receiver that hangs, holds up no other.
        workers={
            watching.artifacts.name: _FETCHES,
            approving.notifications.name: WORKERS,
            training.runs.name: TRAINING_WORKERS,
            parts.repairing.runs.name: PLAYBOOK_WORKERS,
        },
    )
    analysis = AnalysisController(
        store,
        parts.metrics,
        fence,
        clock,
        wake=lambda key: loop.wake("rollout", key),
        predictions=parts.predictions,
    )
    parts.alerting.start(loop)
    retention = PredictionRetention(store, parts.predictions, clock)
    drift = DriftController(
        store, parts.predictions, fence, clock, wake=lambda key: loop.wake("rollout", key)
    )
    parts.predictions.listeners.append(drift.note)
    parts.measuring.measuring.add_source("drift", drift.samples)
    async with asyncio.TaskGroup() as group:
        group.create_task(parts.predictions.run(), name="prediction-files")
        group.create_task(retention.run(), name="prediction-retention")
        group.create_task(loop.run(), name="controllers")
        if parts.alerting.rules is not None:
            group.create_task(parts.alerting.rules.run(), name="prometheus")
        for name, run in parts.measuring.runs():
            group.create_task(run, name=name)
        group.create_task(analysis.run(), name="analysis")
        group.create_task(drift.run(), name="drift")
        group.create_task(watching.sources.run(), name="sources")
        group.create_task(training.run(), name="training")


def _reconcilers(parts: Parts, training: TrainingControllers) -> list[Reconciler]:
    """Return what the loop runs, in the order in which one leads to the next."""
    store, fence, clock, place = parts.store, parts.fence, SystemClock(), parts.place
    watching, approving, proof = parts.watching, parts.approving, parts.proof
    return [
        PromotionController(store, fence, clock),
        AutomaticController(store, fence, clock, own_key=place.public_key),
        GateController(store, fence, clock, place, parts.predictions),
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
        training.triggers,
        training.runs,
        parts.measuring.notices,
        *parts.repairing.reconcilers,
        *parts.alerting.reconcilers,
    ]
