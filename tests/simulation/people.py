"""What people do to a simulated plane, through the functions that the API calls.

The seed chooses; what the API would refuse is refused here too, and changes nothing.
"""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

from modelplane.api.access import Context
from modelplane.api.applying import delete
from modelplane.api.deployments import ask_of_rollout, promote, undo
from modelplane.api.traffic_policies import apply_policy
from modelplane.decisions.admission import Asked
from modelplane.decisions.rollout_requests import RolloutVerb
from modelplane.errors import Conflict, InvalidResource, NotFound
from modelplane.ports.store import Transaction
from modelplane.resources.manifest import read_document
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.model import ModelVersion, ModelVersionSpec
from modelplane.resources.rollout import Rollout
from modelplane.resources.strategy import (
    AllAtOnceStrategy,
    BlueGreenStrategy,
    CanaryStrategy,
    Holdback,
    RollingStrategy,
    ShadowStrategy,
    Strategy,
)
from modelplane.resources.traffic_policy import TrafficPolicy
from tests.controllers.plane import ANA, Plane, revision

VERSIONS = [f"{number}.0.0" for number in range(1, 61)]
POLICIES = ["west", "east", "everybody", "test"]
PREDICATES = ["", "user.region == 'west'", "user.region == 'east'"]
VERBS: list[RolloutVerb] = ["pause", "resume", "promote", "rollback"]
HOLDBACK = Holdback.model_validate({"percentage": 5, "for": 30})
STRATEGIES = [
    Strategy(canary=CanaryStrategy(min_bake_s=5)),
    Strategy(canary=CanaryStrategy(steps=(10.0, 40.0), min_bake_s=0)),
    Strategy(canary=CanaryStrategy(steps=(20.0, 80.0), min_bake_s=0, holdback=HOLDBACK)),
    Strategy(all_at_once=AllAtOnceStrategy()),
    Strategy(rolling=RollingStrategy()),
    Strategy(blue_green=BlueGreenStrategy(keep_warm_s=60)),
    Strategy(blue_green=BlueGreenStrategy(keep_warm_s=300, preview_s=10)),
    Strategy(shadow=ShadowStrategy(duration_s=20, min_compared=10)),
]


def record(version: str) -> ModelVersion:
    """Return the record of a version that nobody has to load."""
    artifact = revision(version).artifact
    spec = ModelVersionSpec(model="delay", version=version, artifact=artifact)
    return ModelVersion(metadata=Metadata(name=f"delay@{version}"), spec=spec)


class People:
    """Everybody who may do everything, and does it at random."""

    def __init__(self, seed: random.Random) -> None:
        self.random = seed
        self.versions = 0

    async def begin(self, plane: Plane) -> None:
        """Register all versions and deploy the first."""
        await plane.declare(STRATEGIES[0], replicas=2)
        transaction = Transaction(ANA)
        for version in VERSIONS:
            transaction.create(record(version))
        await plane.store.commit(transaction)
        await self.promote(plane)

    async def promote(self, plane: Plane) -> None:
        """Ask for a new version; sometimes for one that a policy may have live."""
        version = self._new_version() if self.random.random() < 0.8 else self._old_version()
        await self._try(promote(_context(plane), "delay", {"version": version}, *_where(plane)))

    async def undo(self, plane: Plane) -> None:
        """Go back to what served before."""
        _, asked = _where(plane)
        await self._try(undo(_context(plane), "delay", "production", asked))

    async def ask(self, plane: Plane) -> None:
        """Pause, resume, promote or roll back one of the running rollouts."""
        running = [r for r in (await plane.store.list(Rollout))[0] if not r.finished]
        if not running:
            return
        name, verb = self.random.choice(running).metadata.name, self.random.choice(VERBS)
        _, asked = _where(plane)
        await self._try(ask_of_rollout(_context(plane), name, "production", verb, asked))

    async def edit(self, plane: Plane) -> None:
        """Change strategy and number of replicas in place."""
        changed = (await plane.deployment()).with_spec(
            strategy=self.random.choice(STRATEGIES), replicas=self.random.choice([1, 2, 3])
        )
        transaction = Transaction(ANA)
        transaction.update(changed)
        await plane.store.commit(transaction)

    async def apply_policy(self, plane: Plane) -> None:
        """Apply a policy, or another one of its name."""
        body: dict[str, Any] = {"name": self.random.choice(POLICIES), "model_name": "delay"}
        rule = self._rule()
        if "ab" not in rule:
            roll = self.random.random()
            body["version"] = self._new_version() if roll < 0.7 else self._old_version()
        declared = read_document({**body, "traffic_rule": rule})
        assert isinstance(declared, TrafficPolicy)
        _, asked = _where(plane)
        explicit = self.random.random() < 0.5
        await self._try(
            apply_policy(_context(plane), declared, asked, dry_run=False, explicit=explicit)
        )

    async def delete_policy(self, plane: Plane) -> None:
        """Delete a policy, whatever it has under way."""
        policies, _ = await plane.store.list(TrafficPolicy)
        if policies:
            _, asked = _where(plane)
            key = self.random.choice(policies).key
            await self._try(delete(_context(plane), TrafficPolicy, key, asked))

    async def delete_version(self, plane: Plane) -> None:
        """Delete a version that nothing uses."""
        _, asked = _where(plane)
        key = record(self._old_version()).key
        await self._try(delete(_context(plane), ModelVersion, key, asked))

    def _rule(self) -> dict[str, Any]:
        predicate = self.random.choice(PREDICATES)
        kind = self.random.choice(["canary", "canary", "holdback", "ab", "shadow", "blueGreen"])
        if kind == "ab":
            arms = [
                {"version": self._new_version(), "percentage": self.random.choice([5, 10, 20])}
                for _ in range(self.random.randint(1, 3))
            ]
            return {"ab": {"arms": arms, "predicate": predicate, "duration": 40}}
        if kind == "shadow":
            part = {"percentage": 30, "predicate": predicate, "duration": 10, "minCompared": 0}
            return {"shadow": part}
        if kind == "blueGreen":
            return {"blueGreen": {"keepWarm": 60}}
        share = self.random.choice([5, 10, 30, 60])
        part = {"steps": [share / 2, share], "predicate": predicate, "minBake": 0}
        if kind == "holdback":
            part["holdback"] = {"percentage": 10, "for": 20}
        return {"canary": part}

    def _new_version(self) -> str:
        self.versions += 1
        return VERSIONS[min(self.versions, len(VERSIONS)) - 1]

    def _old_version(self) -> str:
        return VERSIONS[self.random.randrange(min(max(self.versions, 1), len(VERSIONS)))]

    async def _try(self, wish: Any) -> None:
        try:
            await wish
        except (Conflict, InvalidResource, NotFound):
            return


def _where(plane: Plane) -> tuple[str, Asked]:
    return "production", Asked(Subject(name="ana", groups=("admin",)), plane.clock.now(), "so")


def _context(plane: Plane) -> Context:
    """Return what the API's functions need: the store, the clock, and leave to do anything."""

    async def allow(*_: object, **__: object) -> None:
        return None

    place = SimpleNamespace(public_key="")
    dependencies = SimpleNamespace(store=plane.store, clock=plane.clock, stage_place=place)
    return cast(Context, SimpleNamespace(store=plane.store, dependencies=dependencies, allow=allow))
