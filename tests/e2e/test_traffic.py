"""Two traffic policies at once, with real parts: each user where the rules say, none lost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections import Counter, defaultdict
from typing import Any

import aiohttp
import pytest

from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.traffic_policy import TrafficPolicy
from tests.e2e.conftest import Modelplane, wait_for
from tests.e2e.load import REQUEST

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

REGIONS = ("west", "east", "north")
USERS = 150


def policy(region: str, version: str, percentage: float) -> dict[str, Any]:
    """One that stays as it is until somebody changes it."""
    canary = {
        "percentage": percentage,
        "predicate": f"user.region == '{region}'",
        "min_bake": "1h",
        "analysis": {"metrics": [{"name": "latency", "margin": 5}]},
    }
    return {
        "name": region,
        "model_name": "test",
        "version": version,
        "traffic_rule": {"canary": canary},
        "monitoring_hooks": ["error_alert>20%", "drift_detection/enabled"],
    }


class Regions:
    """Steady load of users in three regions; who was answered by which version."""

    def __init__(self, url: str, rate_per_s: float) -> None:
        self._url = url
        self._gap_s = 1 / rate_per_s
        self._sent = 0
        self.failures: list[str] = []
        self.seen: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)

    async def __aenter__(self) -> Regions:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20))
        self._pacer = asyncio.create_task(self._pace())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pacer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._pacer
        await self._session.close()

    async def _pace(self) -> None:
        for number in itertools.count():
            user, region = f"user-{number % USERS}", REGIONS[number % len(REGIONS)]
            await self._send(user, region)
            self._sent = number + 1
            await asyncio.sleep(self._gap_s)

    async def _send(self, user: str, region: str) -> None:
        headers = {"x-user-id": user, "x-user-region": region}
        try:
            async with self._session.post(self._url, json=REQUEST, headers=headers) as response:
                text = await response.text()
                if response.status != 200:
                    self.failures.append(f"{response.status} {text[:200]}")
                version = response.headers.get("x-modelplane-assigned", "")
                self.seen[user, region][version] += 1
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self.failures.append(repr(error)[:300])

    async def look_anew(self) -> None:
        """Forget what was seen until now, and wait until every user was answered again."""
        already_sent = self._sent + 1  # one at a time: it may be an answer of before
        async with asyncio.timeout(60):
            while self._sent < already_sent:  # noqa: ASYNC110 - the pacer tells nobody
                await asyncio.sleep(0.01)
            self.seen.clear()
            while len(self.seen) < USERS:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def versions(self, region: str) -> set[str]:
        return {v for (_, of), counts in self.seen.items() if of == region for v in counts}

    def users_on(self, version: str) -> set[str]:
        return {user for (user, _), counts in self.seen.items() if version in counts}


def check_report(plane: Modelplane) -> None:
    """What people are shown is what happens."""
    report = json.loads(plane.cli("traffic", "show", "test", "-o", "json").stdout)
    assert {v["version"]: v["role"] for v in report["versions"]} == {
        "1.0.0": "stable",
        "2.0.0": "candidate",
        "3.0.0": "candidate",
    }
    candidate = next(v for v in report["versions"] if v["version"] == "2.0.0")
    assert candidate["rollout"]["policy"] == "west"
    assert candidate["counts"]["requests"] > 0
    assert sum(rule["sharePct"] for rule in candidate["rules"]) == 20


async def test_two_policies_live_at_once_and_one_is_deleted_without_a_lost_request(
    modelplane: Modelplane,
) -> None:
    await asyncio.to_thread(modelplane.serve)
    client = modelplane.client
    for version in ("2.0.0", "3.0.0"):
        await asyncio.to_thread(modelplane.push, version)

    def all_live() -> bool:
        found = client.list(TrafficPolicy).items
        report = client.traffic_report("test")
        in_force = report.gateway.generation == report.gateway.accepted_generation
        at = {p.metadata.name: p.status.message for p in found}
        return in_force and at == {"west": "at 20 %", "east": "at 50 %"}

    async with Regions(f"{modelplane.url}/test/infer", rate_per_s=150) as load:
        for region, version, share in (("west", "2.0.0", 20), ("east", "3.0.0", 50)):
            posted = await asyncio.to_thread(
                client.post_traffic_policy, policy(region, version, share)
            )
            assert posted.promotion is not None
        await asyncio.to_thread(wait_for, "both policies", all_live)
        await load.look_anew()
        await asyncio.sleep(2)
        assert load.versions("west") == {"1.0.0", "2.0.0"}
        assert load.versions("east") == {"1.0.0", "3.0.0"}
        assert load.versions("north") == {"1.0.0"}
        assert all(len(counts) == 1 for counts in load.seen.values()), "users stay where they are"
        of_each = USERS / len(REGIONS)
        assert 0 < len(load.users_on("2.0.0")) / of_each < 0.5
        assert 0.15 < len(load.users_on("3.0.0")) / of_each < 0.85
        before = load.users_on("3.0.0")

        await asyncio.to_thread(check_report, modelplane)
        await asyncio.to_thread(modelplane.cli, "traffic", "delete", "west")

        def west_is_gone() -> bool:
            lanes = client.get(ModelDeployment, "test", "production").status.lanes
            report = client.traffic_report("test")
            in_force = report.gateway.generation == report.gateway.accepted_generation
            return in_force and set(lanes) == {"east/3.0.0"} and len(report.rules) == 2

        await asyncio.to_thread(wait_for, "the end of west", west_is_gone)
        await load.look_anew()
        await asyncio.sleep(2)
        assert load.versions("west") == {"1.0.0"}
        assert load.versions("east") == {"1.0.0", "3.0.0"}
        assert load.users_on("3.0.0") <= before, "nobody is moved by what others do"
    assert load.failures == []
    listed = await asyncio.to_thread(modelplane.cli, "traffic", "list")
    assert "east" in listed.stdout
    assert "drift_detection/enabled (waiting)" in listed.stdout
