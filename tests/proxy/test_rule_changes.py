"""Two hundred changes of who gets what, under load: policies and versions come, grow and go."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from modelplane.decisions.agent_routing import plan_route
from modelplane.decisions.routing import RoutePlan
from modelplane.decisions.traffic import decide_split
from modelplane.resources.replica import Replica
from modelplane.resources.revision import Revision
from modelplane.resources.rollout import Rollout
from modelplane.resources.strategy import Strategy
from modelplane.resources.traffic_split import TrafficSplit
from tests.decisions.worlds import V1, deployment, metadata, replica, revision, rollout
from tests.proxy.gateway import Gateway, gateway
from tests.proxy.load import load

CHANGES = 200
LIVE = 3
PREDICATES = ("", "user.region == 'west'", "user.region == 'east' || user.plan == 'pro'")
VERSIONS = tuple(revision(f"{n}.0.0") for n in range(2, 8))


@dataclass
class Course:
    """A deployment whose policies change at random, as the control plane would see it."""

    rng: random.Random
    addresses: dict[str, str]
    running: list[Rollout] = field(default_factory=list)
    split: TrafficSplit | None = None
    generation: int = 0
    ordinal: int = 1

    def change(self) -> RoutePlan:
        """Change one thing and return the plan that follows from it."""
        ways = [self._grow, self._aim]
        ways += [self._add] * (len(self.running) < LIVE) + [self._end] * bool(self.running)
        self.rng.choice(ways)()
        return self.plan()

    def plan(self) -> RoutePlan:
        spec = decide_split(deployment(), self.running, self._fleet(), self.split)
        assert spec is not None
        self.generation += 1
        self.split = TrafficSplit(metadata=metadata("delay", generation=self.generation), spec=spec)
        return plan_route(self.split)

    def _fleet(self) -> tuple[Replica, ...]:
        live = [V1, *(r.spec.candidate for r in self.running)]
        return tuple(replica(of).with_status(address=self.addresses[of.version]) for of in live)

    def _add(self) -> None:
        live = {r.spec.candidate.version for r in self.running}
        chosen = self.rng.choice([v for v in VERSIONS if v.version not in live])
        self.ordinal += 1
        made = rollout(weight_pct=1.0, candidate=chosen, ordinal=self.ordinal)
        named = made.with_(metadata=metadata(f"delay-{self.ordinal}", uid=f"{self.ordinal:08}"))
        self.running.append(named.with_status(strategy=self._strategy()))

    def _end(self) -> None:
        self.running.remove(self.rng.choice(self.running))

    def _grow(self) -> None:
        for place, one in enumerate(self.running):
            weight_pct = min(33.0, one.status.weight_pct + self.rng.uniform(0, 8))
            self.running[place] = one.with_status(weight_pct=weight_pct)

    def _aim(self) -> None:
        if self.running:
            place = self.rng.randrange(len(self.running))
            self.running[place] = self.running[place].with_status(strategy=self._strategy())

    def _strategy(self) -> Strategy:
        predicate = self.rng.choice(PREDICATES)
        return Strategy.model_validate({"canary": {"predicate": predicate}})


async def _start(running: Gateway) -> dict[str, str]:
    versions: tuple[Revision, ...] = (V1, *VERSIONS)
    upstreams = [await running.upstream(f"v{version.version}") for version in versions]
    return {v.version: u.address for v, u in zip(versions, upstreams, strict=True)}


@pytest.mark.slow
async def test_no_request_is_lost_while_rules_policies_and_versions_change() -> None:
    async with gateway() as running:
        course = Course(random.Random(5), await _start(running))
        assert (await running.publish(course.plan())).accepted
        async with load(running.config.port, "delay", connections=16, pause_s=0.02) as answers:
            await answers.grow(200)
            for number in range(CHANGES):
                ack = await running.publish(course.change())
                assert ack.accepted, f"change {number}: {ack.message}"
                await answers.grow(20)
            await answers.grow(200)
        assert answers.failures == 0, answers.problems
        assert answers.total >= CHANGES * 20
        assert len(answers.assigned) > LIVE, "many versions were met"
