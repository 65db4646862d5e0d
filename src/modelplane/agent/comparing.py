"""Answers of shadows, compared with stable's: read from the model servers once a second.

Run by `agent.Agent`; `telemetry.Telemetry` takes what is new and sends it with the counts. Only
what a split in force mirrors is asked for, and only replicas of this node are. Reading is by the
servers' own sockets, which no gateway routes to. What cannot be read or paired costs comparisons
and never a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import structlog

from modelplane.agent.gateways import Gateways
from modelplane.agent.node import Node
from modelplane.agent.replicas import Replicas
from modelplane.decisions.agent_routing import cluster_name, split_cluster_name
from modelplane.decisions.comparison import Comparison, KeptAnswer, Pairs, Side, keeps_answers
from modelplane.decisions.routing import count_key, split_count_key
from modelplane.ports.servers import AnswerPage
from modelplane.resources.replica import Replica
from modelplane.resources.telemetry import VariantSample
from modelplane.resources.traffic_split import DEFAULT_RULE, SplitVariant, TrafficSplit

log = structlog.get_logger(__name__)

Comparisons = Mapping[str, Comparison]
"""By `count_key` of the shadow's cluster and the routing rule."""

_AT_ONCE = 4
_PAGES = 4
_LOG_INTERVAL_S = 10.0


@dataclass(slots=True)
class _Shadow:
    """One shadow that is compared, by environment and cluster."""

    stable: str
    tolerance: float
    pairs: Pairs = field(default_factory=Pairs)
    told_at_s: float = float("-inf")


@dataclass(frozen=True, slots=True)
class _Reading:
    """What is asked of one replica for the shadow of a cluster."""

    environment: str
    cluster: str
    side: Side
    replica: Replica


class Comparer:
    """Compares what stable and the shadows of this node answered to the same requests."""

    def __init__(self, node: Node, replicas: Replicas, gateways: Gateways) -> None:
        self._node = node
        self._replicas = replicas
        self._gateways = gateways
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._shadows: dict[tuple[str, str], _Shadow] = {}
        self._read_up_to: dict[str, int] = {}
        self._silent: set[str] = set()
        self._news: dict[str, dict[str, Comparison]] = {}

    async def run(self) -> None:
        """Read and compare again and again, for ever."""
        while True:
            await self._node.clock.sleep(self._node.options.telemetry_interval_s)
            try:
                await self.tick()
            except Exception:
                # What shadows answer must not end what serves everybody else.
                log.exception("comparison_failed")

    async def tick(self) -> None:
        """Read each server once, and compare what came."""
        splits = {
            environment: [split for split in gateway.accepted.values() if _mirrors(split)]
            for environment, gateway in self._gateways.running.items()
        }
        self._follow(splits)
        readings = list(self._readings(splits))
        uids = {reading.replica.metadata.uid for reading in readings}
        self._read_up_to = {uid: self._read_up_to.get(uid, 0) for uid in uids}
        self._silent &= uids
        replicas = {reading.replica.metadata.uid: reading.replica for reading in readings}
        answers = dict(
            zip(replicas, await asyncio.gather(*map(self._read, replicas.values())), strict=True)
        )
        for reading in readings:
            await self._compare(reading, answers[reading.replica.metadata.uid])

    def take(self, environment: str) -> Comparisons:
        """Return what was compared in an environment since this was last called."""
        return self._news.pop(environment, {})

    def _follow(self, splits: Mapping[str, Iterable[TrafficSplit]]) -> None:
        """Keep what waits for shadows that still run against the same stable; forget the rest."""
        followed: dict[tuple[str, str], _Shadow] = {}
        for environment, of_environment in splits.items():
            for split in of_environment:
                for cluster, tolerance in _mirrors(split).items():
                    key, stable = (environment, cluster), _stable(split).revision
                    known = self._shadows.get(key)
                    if known is None or known.stable != stable:
                        known = _Shadow(stable, tolerance)
                    known.tolerance = tolerance
                    followed[key] = known
        self._shadows = followed

    def _readings(self, splits: Mapping[str, Iterable[TrafficSplit]]) -> Iterator[_Reading]:
        ready = {
            (one.metadata.environment or "", one.metadata.name): one
            for one in self._replicas.ready()
        }
        for environment, of_environment in splits.items():
            for split in of_environment:
                for cluster in _mirrors(split):
                    sides: tuple[tuple[Side, SplitVariant], ...] = (
                        ("stable", _stable(split)),
                        ("shadow", _variant(split, cluster)),
                    )
                    for side, variant in sides:
                        for endpoint in variant.endpoints:
                            replica = ready.get((environment, endpoint.replica))
                            if replica is not None:
                                yield _Reading(environment, cluster, side, replica)

    async def _read(self, replica: Replica) -> list[KeptAnswer]:
        """Return what a replica kept since it was last asked; nothing when it cannot be had."""
        uid, found = replica.metadata.uid, list[KeptAnswer]()
        if not keeps_answers(replica.spec.revision.artifact.format):
            self._tell_silent(replica)
            return found
        async with self._free:
            for _ in range(_PAGES):
                page = await self._page(uid)
                if page is None:
                    self._tell_silent(replica)
                    break
                self._silent.discard(uid)
                self._read_up_to[uid] = page.next
                found += page.answers
                if not page.more:
                    break
        return found

    async def _page(self, uid: str) -> AnswerPage | None:
        try:
            return await self._node.servers.read_answers(
                self._node.socket(uid), self._read_up_to[uid]
            )
        except Exception:
            log.exception("answers_not_read", uid=uid)
            return None

    def _tell_silent(self, replica: Replica) -> None:
        if replica.metadata.uid not in self._silent:
            self._silent.add(replica.metadata.uid)
            format_ = replica.spec.revision.artifact.format
            log.warning("answers_not_comparable", replica=str(replica.key), format=format_)

    async def _compare(self, reading: _Reading, answers: list[KeptAnswer]) -> None:
        shadow = self._shadows[reading.environment, reading.cluster]
        now_s = self._node.clock.monotonic_s()
        # Not on the event loop: answers may be large.
        found = await asyncio.to_thread(
            shadow.pairs.add, reading.side, answers, tolerance=shadow.tolerance, now_s=now_s
        )
        news = self._news.setdefault(reading.environment, {})
        for rule, comparison in found.items():
            key = count_key(reading.cluster, rule)
            news[key] = news.get(key, Comparison()).plus(comparison)
            if comparison.different and now_s - shadow.told_at_s >= _LOG_INTERVAL_S:
                shadow.told_at_s = now_s
                log.info(
                    "answers_differ",
                    environment=reading.environment,
                    cluster=reading.cluster,
                    compared=comparison.compared,
                    different=comparison.different,
                    examples=comparison.examples,
                )


def add_comparisons(
    samples: Iterable[VariantSample], comparisons: Comparisons
) -> tuple[VariantSample, ...]:
    """Return the samples of an interval with what was compared in it."""
    left = dict(comparisons)
    result = []
    for sample in samples:
        key = count_key(
            cluster_name(sample.deployment, sample.revision), sample.rule or DEFAULT_RULE
        )
        result.append(_with(sample, left.pop(key, None)))
    for key, comparison in left.items():
        cluster, rule = split_count_key(key)
        deployment, revision = split_cluster_name(cluster)
        sample = VariantSample(
            deployment=deployment,
            revision=revision,
            rule="" if rule == DEFAULT_RULE else rule,
            requests=0,
            failures=0,
        )
        result.append(_with(sample, comparison))
    return tuple(result)


def _with(sample: VariantSample, comparison: Comparison | None) -> VariantSample:
    if comparison is None:
        return sample
    return sample.with_(
        compared=comparison.compared,
        different=comparison.different,
        examples=comparison.examples,
    )


def _mirrors(split: TrafficSplit) -> dict[str, float]:
    """Return the shadows that get copies: their clusters, and the tolerance of each."""
    deployment = split.spec.deployment
    return {
        cluster_name(deployment, mirror.revision): mirror.tolerance
        for rule in split.spec.rules
        for mirror in rule.mirrors
    }


def _stable(split: TrafficSplit) -> SplitVariant:
    return next(variant for variant in split.spec.variants if variant.role == "stable")


def _variant(split: TrafficSplit, cluster: str) -> SplitVariant:
    _, revision = split_cluster_name(cluster)
    return next(v for v in split.spec.variants if v.revision.startswith(revision))
