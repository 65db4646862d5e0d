"""Replay of analysis settings over recorded rollouts: ``POST /analysis:replay``. Changes nothing.

Thin: `decisions.analysis_replay` judges.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime

from fastapi import Request
from starlette.responses import Response

from modelplane.api.access import context_of
from modelplane.api.answers import part_response
from modelplane.api.bodies import parse_part
from modelplane.api.routes import Routes
from modelplane.decisions.analysis import Tick
from modelplane.decisions.analysis_replay import RecordedRollout, judge_truth, replay_all
from modelplane.decisions.recordings import chunk_name, read_chunk
from modelplane.ports.store import Store
from modelplane.resources.meta import Part
from modelplane.resources.rollout import Rollout
from modelplane.resources.strategy import Analysis

MAX_ROLLOUTS = 200
"""The newest so many recordings are judged anew."""


class AnalysisReplayRequest(Part):
    """Which settings to try, on which rollouts."""

    analysis: Analysis
    environment: str | None = None
    deployment: str | None = None
    since: datetime | None = None


def add_analysis_replay_routes(routes: Routes) -> None:
    """Add the route."""

    async def replay(request: Request) -> Response:
        """Say what the settings would have said of each recorded rollout."""
        context = context_of(request)
        await context.admit(request, "list", "Rollout")
        wanted = parse_part(AnalysisReplayRequest, await context.read_object(request))
        recorded = await load_recorded(context.store, wanted)
        return part_response(await asyncio.to_thread(replay_all, recorded, wanted.analysis))

    schema = {"type": "object", "required": ["analysis"]}
    routes.add(
        "POST",
        "/analysis:replay",
        replay,
        tag="Rollout",
        operation_id="replayAnalysis",
        summary="Try analysis settings on recorded rollouts",
        openapi_extra={
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}
        },
    )


async def load_recorded(store: Store, wanted: AnalysisReplayRequest) -> list[RecordedRollout]:
    """Return the newest finished rollouts that have a recording, oldest first."""
    rollouts, _ = await store.list(Rollout, wanted.environment)
    chosen = [r for r in rollouts if _is_meant(r, wanted)]
    chosen.sort(key=lambda r: str(r.status.finished_at), reverse=True)
    recorded = []
    for rollout in chosen[:MAX_ROLLOUTS]:
        ticks = await _load_ticks(store, rollout.metadata.uid)
        if not ticks:
            continue
        truth = judge_truth(rollout, _next_own(rollout, rollouts))
        recorded.append(RecordedRollout(rollout, truth, tuple(ticks)))
    return recorded[::-1]


def _is_meant(rollout: Rollout, wanted: AnalysisReplayRequest) -> bool:
    finished_at = rollout.status.finished_at
    return (
        rollout.finished
        and wanted.deployment in {None, rollout.spec.deployment}
        and finished_at is not None
        and (wanted.since is None or finished_at >= wanted.since)
    )


def _next_own(rollout: Rollout, rollouts: Sequence[Rollout]) -> Rollout | None:
    """Return the deployment's own next rollout: those of traffic policies undo nothing."""
    place = (rollout.metadata.environment, rollout.spec.deployment)
    later = [
        other
        for other in rollouts
        if (other.metadata.environment, other.spec.deployment) == place
        and other.spec.ordinal > rollout.spec.ordinal
        and not other.spec.lane
    ]
    return min(later, key=lambda other: other.spec.ordinal, default=None)


async def _load_ticks(store: Store, uid: str) -> Sequence[Tick]:
    stored = (await store.evidence([uid])).get(uid) or {}
    names = [chunk_name(uid, index) for index in range(int(stored.get("chunks", 0)))]
    chunks = await store.evidence(names) if names else {}
    ticks = [tick for name in names if name in chunks for tick in read_chunk(chunks[name])]
    return sorted(ticks, key=lambda tick: (tick.at, tick.proxy, tick.sequence))
