"""Killed at any moment, the store opens again with everything it acknowledged."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from modelplane.ports.store import Change
from modelplane.resources.model import Model
from tests.store.stores import creation, model, open_store, transaction

pytestmark = pytest.mark.slow

SEED = 20260105
ROUNDS = 5


async def write_until_killed(folder: Path) -> None:
    """Create, change and delete models for ever; print what was acknowledged. Runs in a child."""
    async with open_store(folder) as store:
        _, start = await store.list(Model)

        async def work(worker: int) -> None:
            for count in range(1_000_000):
                name = f"m{start}-{worker}-{count}"
                (made,) = await store.commit(creation(model(name)))
                print(f"put {name} {made.metadata.resource_version}", flush=True)
                change = transaction()
                if count % 3 == 0:
                    change.delete(made)
                    await store.commit(change)
                    print(f"gone {name} 0", flush=True)
                elif count % 3 == 1:
                    change.update(made.with_spec(description="changed"))
                    change.put_evidence(name, {"sequence": count})
                    (changed,) = await store.commit(change)
                    print(f"put {name} {changed.metadata.resource_version}", flush=True)

        await asyncio.gather(*(work(worker) for worker in range(6)))


def run_and_kill(folder: Path, delay_s: float) -> dict[str, tuple[str, int]]:
    """Let a child write for a while, kill it, and return what it was told, by name."""
    root = Path(__file__).resolve().parents[2]
    log = folder / "acknowledged"
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.store.test_crash", str(folder)], stdout=output, cwd=root
        )
        try:
            until = time.monotonic() + 60
            while log.stat().st_size == 0 and time.monotonic() < until:
                assert child.poll() is None, "the child ended by itself"
                time.sleep(0.01)
            time.sleep(delay_s)
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
    lines = log.read_text().splitlines(keepends=True)
    whole = [line.split() for line in lines if line.endswith("\n")]
    return {name: (what, int(version)) for what, name, version in whole}


@pytest.mark.slow
async def test_nothing_acknowledged_is_lost_and_the_chain_holds() -> None:
    delays = random.Random(SEED)
    with tempfile.TemporaryDirectory(prefix="mp-crash-", dir="/tmp") as folder:
        known: dict[str, tuple[str, int]] = {}
        for _ in range(ROUNDS):
            told = await asyncio.to_thread(run_and_kill, Path(folder), delays.uniform(0.0, 0.4))
            assert told
            known.update(told)
            await check(Path(folder), known)


async def check(folder: Path, known: dict[str, tuple[str, int]]) -> None:
    async with open_store(folder) as store:
        models, version = await store.list(Model)
        stored = {one.metadata.name: one.metadata.resource_version for one in models}
        for name, (what, at) in known.items():
            if what == "gone":
                assert name not in stored
            elif name in stored:
                assert stored[name] >= at
            else:  # deleted without the answer having arrived
                records = [
                    record for record in await store.audit(limit=100_000) if record.name == name
                ]
                assert records[-1].action == "delete"
        report = await store.verify_audit()
        assert report.ok, report.faults
        changes: list[Change] = []
        watch = store.watch(0)
        while not changes or changes[-1].resource_version < version:
            changes.append(await anext(watch))
        versions = [change.resource_version for change in changes]
        assert versions == list(range(1, version + 1)), "a gap or a double in the change log"
        records = list(await store.audit(limit=100_000))
        assert [record.resource_version for record in records] == versions
        assert len(records) == report.records


if __name__ == "__main__":
    asyncio.run(write_until_killed(Path(sys.argv[1])))
