"""What gateways counted during a rollout, kept so that other settings can be tried on it. Pure.

Written by `controllers.analysis` in the same transaction as the evidence, in chunks under names
of their own; read by `decisions.analysis_replay`. The evidence itself cannot be replayed: it
depends on the settings it was gathered under.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from modelplane.decisions.analysis_inputs import (
    LabelCounts,
    Numbers,
    Outcomes,
    Tick,
    VersionCounts,
)
from modelplane.errors import InvalidResource

CHUNK_TICKS = 10
"""A chunk that holds so many is closed; the open one is written anew with each tick."""

KEPT_ROLLOUTS = 20
"""Of one deployment; the recording of the one before these is removed."""

_FORMAT = 3
_READABLE = (1, 2, 3)
"""In the first format there were no slices and no compared answers, in the second no labels."""


def chunk_name(rollout_uid: str, index: int) -> str:
    """Return what a chunk is stored under, beside the evidence of its rollout."""
    return f"{rollout_uid}.recording.{index}"


@dataclass(slots=True)
class Recording:
    """The open chunk of one running rollout.

    Attributes
    ----------
    index
        Of the open chunk.
    ticks
        What is in it.
    """

    index: int = 0
    ticks: list[Tick] = field(default_factory=list)

    def add(self, ticks: Sequence[Tick]) -> dict[str, Any]:
        """Add ticks, and return what to store under the open chunk's name."""
        if len(self.ticks) >= CHUNK_TICKS:
            self.index += 1
            self.ticks = []
        self.ticks.extend(ticks)
        return {"format": _FORMAT, "ticks": encode_ticks(self.ticks)}


def read_chunk(stored: Mapping[str, Any]) -> tuple[Tick, ...]:
    """Return the ticks of a stored chunk.

    Raises
    ------
    InvalidResource
        A later release wrote it.
    """
    if stored.get("format") not in _READABLE:
        raise InvalidResource(f"a recording has format {stored.get('format')!r}")
    return decode_ticks(stored["ticks"])


def encode_ticks(ticks: Sequence[Tick]) -> str:
    """Return ticks as short text; `decode_ticks` reads them back exactly."""
    rows = [
        [
            tick.proxy,
            tick.boot_id,
            tick.sequence,
            tick.at.isoformat(),
            tick.step_id,
            tick.seconds,
            _pack(tick.stable),
            _pack(tick.candidate),
            *([_pack_labels(tick.labels)] if tick.labels is not None else []),
        ]
        for tick in ticks
    ]
    text = json.dumps(rows, separators=(",", ":")).encode()
    return base64.b85encode(zlib.compress(text, 1)).decode()


def decode_ticks(text: str) -> tuple[Tick, ...]:
    """Return the ticks in `text`."""
    rows = json.loads(zlib.decompress(base64.b85decode(text)))
    return tuple(
        Tick(
            proxy=proxy,
            boot_id=boot_id,
            sequence=sequence,
            at=datetime.fromisoformat(at),
            step_id=step_id,
            seconds=seconds,
            stable=_unpack(stable),
            candidate=_unpack(candidate),
            labels=_unpack_labels(labels[0]) if labels else None,
        )
        for proxy, boot_id, sequence, at, step_id, seconds, stable, candidate, *labels in rows
    )


def _pack(counts: VersionCounts) -> list[Any]:
    return [
        counts.requests,
        counts.failures,
        counts.client_failures,
        [[lower, count] for lower, count in counts.latency.items()],
        _pack_outcomes(counts.replicas),
        _pack_outcomes(counts.outcomes),
        _pack_outcomes(counts.slices),
        [counts.compared.trials, counts.compared.failures],
    ]


def _unpack(packed: Sequence[Any]) -> VersionCounts:
    requests, failures, client_failures, latency, replicas, outcomes, *later = packed
    slices, compared = later or ({}, (0, 0))
    return VersionCounts(
        requests=requests,
        failures=failures,
        client_failures=client_failures,
        latency=dict(latency),
        replicas=_unpack_outcomes(replicas),
        outcomes=_unpack_outcomes(outcomes),
        slices=_unpack_outcomes(slices),
        compared=Outcomes(*compared),
    )


def _pack_outcomes(outcomes: Mapping[str, Outcomes]) -> dict[str, list[int]]:
    return {name: [found.trials, found.failures] for name, found in outcomes.items()}


def _unpack_outcomes(packed: Mapping[str, Sequence[int]]) -> dict[str, Outcomes]:
    return {name: Outcomes(trials, failures) for name, (trials, failures) in packed.items()}


def _pack_labels(labels: LabelCounts) -> list[Any]:
    numbers = {
        name: [one.earlier, one.stable, one.candidate, one.pairs]
        for name, one in labels.numbers.items()
    }
    return [labels.predicted_at.isoformat(), _pack_outcomes(labels.earlier), numbers]


def _unpack_labels(packed: Sequence[Any]) -> LabelCounts:
    predicted_at, earlier, numbers = packed
    return LabelCounts(
        datetime.fromisoformat(predicted_at),
        earlier=_unpack_outcomes(earlier),
        numbers={
            name: Numbers(
                earlier=tuple(before),
                stable=tuple(stable),
                candidate=tuple(candidate),
                pairs=tuple((ours, theirs) for ours, theirs in pairs),
            )
            for name, (before, stable, candidate, pairs) in numbers.items()
        },
    )
