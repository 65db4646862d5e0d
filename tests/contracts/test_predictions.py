"""What every store of predictions promises."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelplane.ports.predictions import (
    Label,
    Predictions,
    StoredSketch,
    Tally,
)
from modelplane.testing.clock import ManualClock
from modelplane.testing.predictions import InMemoryPredictions
from tests.contracts.predictions import CANDIDATE, FRAUD, SHADOW, STABLE, prediction, sqlite_store


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[Predictions]:
    if request.param == "memory":
        yield InMemoryPredictions(clock, max_waiting=3)
        return
    async with sqlite_store(clock, max_waiting=3) as made:
        yield made


async def test_what_was_kept_comes_back_oldest_first(
    store: Predictions, clock: ManualClock
) -> None:
    now = clock.now()
    inputs = {
        "amount": 12.5,
        "count": 3,
        "country": "de",
        "vip": True,
        "items": [1, 2],
        "gone": None,
    }
    first = prediction("r-2", at=now, inputs=inputs, outputs={"y": [0.1, 0.9]})
    second = prediction("r-1", at=now + timedelta(seconds=1), inputs={"amount": 7.0}, outputs={})
    assert await store.add([second, first]) == 2
    window: dict[str, Any] = {"since": now, "until": now + timedelta(minutes=1)}
    assert await store.rows(*FRAUD, **window, limit=10) == [first, second]
    assert await store.rows(*FRAUD, **window, limit=1) == [first]
    assert await store.rows("staging", "fraud", **window, limit=10) == []


async def test_a_page_that_comes_again_changes_nothing(
    store: Predictions, clock: ManualClock
) -> None:
    page = [prediction("r-1", row, at=clock.now()) for row in range(3)]
    assert await store.add([*page, page[0]]) == 3
    assert await store.add(page) == 0
    assert [tally.predictions for tally in await store.totals(*FRAUD)] == [3]


async def test_a_label_joins_and_the_first_one_stands(
    store: Predictions, clock: ManualClock
) -> None:
    await store.add([prediction("r-1", at=clock.now())])
    assert await store.label(*FRAUD, [Label("r-1", label=0)]) == ["joined"]
    again = [Label("r-1", label=0.0), Label("r-1", label=1)]
    assert await store.label(*FRAUD, again) == ["known", "contradicts"]
    (outcome,) = await store.outcomes(*FRAUD)
    assert (outcome.place, outcome.predicted, outcome.label) == (STABLE, 1, 0)
    assert (outcome.score, outcome.reward, outcome.parts) == (0.75, None, ("a=b",))


async def test_one_batch_meets_itself(store: Predictions, clock: ManualClock) -> None:
    await store.add([prediction("r-1", at=clock.now())])
    batch = [
        Label("r-1", label=1),
        Label("r-1", label=1),
        Label("r-1", label=0),
        Label("x", label=1),
    ]
    assert await store.label(*FRAUD, batch) == ["joined", "known", "contradicts", "waiting"]


async def test_a_label_that_comes_first_waits_for_its_prediction(
    store: Predictions, clock: ManualClock
) -> None:
    assert await store.label(*FRAUD, [Label("r-1", row=1, label="yes")]) == ["waiting"]
    assert await store.outcomes(*FRAUD) == []
    await store.add([prediction("r-1", row, at=clock.now()) for row in range(2)])
    (outcome,) = await store.outcomes(*FRAUD)
    assert outcome.label == "yes"
    assert await store.label(*FRAUD, [Label("r-1", row=1, label="no")]) == ["contradicts"]


async def test_labels_of_one_deployment_are_not_anothers(
    store: Predictions, clock: ManualClock
) -> None:
    await store.add([prediction("r-1", at=clock.now())])
    assert await store.label("staging", "fraud", [Label("r-1", label=0)]) == ["waiting"]
    assert await store.label("production", "churn", [Label("r-1", label=0)]) == ["waiting"]
    assert await store.outcomes(*FRAUD) == []


async def test_a_reward_after_the_label_is_told_alone(
    store: Predictions, clock: ManualClock
) -> None:
    await store.add([prediction("r-1", at=clock.now())])
    await store.label(*FRAUD, [Label("r-1", label=1)])
    assert await store.label(*FRAUD, [Label("r-1", label=1, reward=2.5)]) == ["joined"]
    told = [(o.label, o.reward) for o in await store.outcomes(*FRAUD)]
    assert told == [(1, None), (None, 2.5)]
    (said,) = await store.said(*FRAUD, [prediction("r-1", at=clock.now())])
    assert said == (1, 2.5)
    (tally,) = await store.totals(*FRAUD)
    assert (tally.predictions, tally.labelled, tally.rewarded) == (1, 1, 1)


async def test_a_key_names_rows_too(store: Predictions, clock: ManualClock) -> None:
    rows = [
        prediction("r-1", row, at=clock.now(), key=f"order-{row}", key_row=0, predicted=row)
        for row in range(3)
    ]
    await store.add(rows)
    assert await store.label(*FRAUD, [Label("order-2", label=9)]) == ["joined"]
    (outcome,) = await store.outcomes(*FRAUD)
    assert (outcome.predicted, outcome.label) == (2, 9)
    assert await store.label(*FRAUD, [Label("r-1", row=2, label=8)]) == ["contradicts"]
    assert await store.label(*FRAUD, [Label("r-1", row=2, label=9)]) == ["known"]


async def test_the_shadow_of_a_request_gets_the_same_label_and_they_are_a_pair(
    store: Predictions, clock: ManualClock
) -> None:
    at = clock.now()
    await store.add([prediction("r-1", at=at), prediction("r-2", at=at)])
    await store.label(*FRAUD, [Label("r-1", label=1), Label("r-2", label=0)])
    await store.add([prediction("r-1", place=SHADOW, at=at, predicted=0)])
    told = [(o.place, o.label, o.pair) for o in await store.outcomes(*FRAUD)]
    assert told == [(STABLE, 1, "r-1/0"), (STABLE, 0, ""), (SHADOW, 1, "r-1/0")]


async def test_outcomes_are_read_on_from_a_sequence(store: Predictions, clock: ManualClock) -> None:
    await store.add([prediction(f"r-{n}", at=clock.now(), predicted=n) for n in range(5)])
    await store.label(*FRAUD, [Label(f"r-{n}", label=1) for n in range(5)])
    first = await store.outcomes(*FRAUD, limit=2)
    rest = await store.outcomes(*FRAUD, after=first[-1].sequence)
    assert [o.predicted for o in [*first, *rest]] == [0, 1, 2, 3, 4]
    later = clock.now() + timedelta(seconds=1)
    assert await store.outcomes(*FRAUD, since=later) == []
    assert len(await store.outcomes(*FRAUD, since=clock.now())) == 5
    sequences = [o.sequence for o in [*first, *rest]]
    assert sequences == sorted(set(sequences))


async def test_only_so_many_labels_wait(store: Predictions, clock: ManualClock) -> None:
    labels = [Label(f"x-{n}", label=1) for n in range(5)]
    fates = await store.label(*FRAUD, labels)
    assert fates == ["waiting", "waiting", "waiting", "no_room", "no_room"]
    await store.add([prediction("x-0", at=clock.now())])
    assert await store.label(*FRAUD, labels[3:]) == ["waiting", "no_room"]


async def test_labels_that_wait_are_forgotten_after_the_horizon(
    store: Predictions, clock: ManualClock
) -> None:
    await store.label(*FRAUD, [Label("r-1", label=1)])
    clock.step(3600)
    await store.label(*FRAUD, [Label("r-2", label=1)])
    assert await store.forget_waiting(*FRAUD, clock.now() - timedelta(minutes=1)) == 1
    await store.add([prediction(f"r-{n}", at=clock.now()) for n in (1, 2)])
    assert len(await store.outcomes(*FRAUD)) == 1


async def test_tallies_count_what_is_due_to_the_microsecond(
    store: Predictions, clock: ManualClock
) -> None:
    start = clock.now() + timedelta(seconds=17.5)
    times = [start + timedelta(seconds=10 * n) for n in range(30)]
    await store.add([prediction(f"r-{n}", at=at) for n, at in enumerate(times)])
    await store.label(*FRAUD, [Label(f"r-{n}", label=1) for n in range(0, 30, 3)])
    await store.label(*FRAUD, [Label("r-1", reward=2)])
    clock.step(300)
    (tally,) = await store.tallies(*FRAUD, since=times[2], horizon_s=97.5)
    due = [n for n in range(2, 30) if times[n] < clock.now() - timedelta(seconds=97.5)]
    assert tally == Tally(
        STABLE,
        predictions=28,
        labelled=len(range(3, 30, 3)),
        rewarded=0,
        due=len(due),
        due_labelled=sum(n % 3 == 0 for n in due),
    )
    assert await store.tallies(*FRAUD, since=times[-1] + timedelta(seconds=1), horizon_s=1) == []


async def test_what_was_lost_before_it_came_is_counted(
    store: Predictions, clock: ManualClock
) -> None:
    await store.add_dropped(STABLE, 7)
    await store.add_dropped(CANDIDATE, 2)
    found = await store.tallies(*FRAUD, since=clock.now() - timedelta(minutes=5), horizon_s=1)
    assert {(t.place, t.dropped, t.predictions) for t in found} == {
        (STABLE, 7, 0),
        (CANDIDATE, 2, 0),
    }


async def test_retention_takes_everything_of_the_past_and_nothing_else(
    store: Predictions, clock: ManualClock
) -> None:
    old, cut = clock.now(), clock.now() + timedelta(seconds=90)
    await store.add([prediction("old", at=old), prediction("new", at=cut)])
    await store.label(*FRAUD, [Label("old", label=1), Label("new", label=1)])
    sketches = [StoredSketch(STABLE, at, "y", {"n": 1}) for at in (old, cut)]
    await store.put_sketches(sketches)
    clock.step(95)
    assert await store.expire(*FRAUD, cut) == 1
    assert await store.expire(*FRAUD, cut) == 0
    window: dict[str, Any] = {"since": old, "until": cut + timedelta(days=1)}
    assert [row.request_id for row in await store.rows(*FRAUD, **window, limit=9)] == ["new"]
    assert len(await store.outcomes(*FRAUD)) == 1
    assert await store.sketches(*FRAUD, **window) == sketches[1:]
    (tally,) = await store.tallies(*FRAUD, since=old, horizon_s=1)
    assert (tally.predictions, tally.labelled) == (1, 1)
    (total,) = await store.totals(*FRAUD)
    assert total.predictions == 2
    late = [Label("old", label=1, at=old), Label("old", label=1)]
    assert await store.label(*FRAUD, late) == ["too_late", "waiting"]
    other = ("staging", "fraud")
    assert await store.deployments() == [FRAUD]
    assert await store.expire(*other, cut) == 0


async def test_a_sketch_takes_the_place_of_the_one_before(
    store: Predictions, clock: ManualClock
) -> None:
    minute = clock.now()
    await store.put_sketches([StoredSketch(STABLE, minute, "x", {"n": 1})])
    newer = StoredSketch(STABLE, minute, "x", {"n": 2, "bins": [1, 2]})
    await store.put_sketches([newer, StoredSketch(CANDIDATE, minute, "x", {"n": 5})])
    found = await store.sketches(*FRAUD, since=minute, until=minute + timedelta(minutes=1))
    assert newer in found
    assert len(found) == 2


_NAMES = st.sampled_from(["a", "b", "c"])
_PLACES = st.sampled_from([STABLE, CANDIDATE, SHADOW])
_ADDS = st.builds(
    lambda name, row, place, key, second: ("add", name, row, place, key, second),
    _NAMES, st.integers(0, 1), _PLACES, st.sampled_from(["", "a", "k"]), st.integers(0, 200),
)  # fmt: skip
_LABELS = st.builds(
    lambda name, row, label, reward: ("label", name, row, label, reward),
    st.sampled_from(["a", "b", "c", "k"]),
    st.integers(0, 1),
    st.sampled_from([None, 0, 1]),
    st.sampled_from([None, 1.0, 2.0]),
).filter(lambda op: op[3] is not None or op[4] is not None)
_OTHERS = st.one_of(
    st.builds(lambda second: ("expire", second), st.integers(0, 150)),
    st.just(("flush",)),
    st.just(("forget",)),
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.one_of(_ADDS, _LABELS, _LABELS, _OTHERS), max_size=25))
async def test_both_stores_agree_about_every_history(ops: list[Any]) -> None:
    clock = ManualClock()
    start = clock.now()
    memory = InMemoryPredictions(clock, max_waiting=3)
    async with sqlite_store(clock, max_waiting=3) as store:
        for op in ops:
            clock.step(7)
            if op[0] == "flush":
                await store.flush()
                continue
            answers = [await _do(memory, op, start), await _do(store, op, start)]
            assert answers[0] == answers[1], op
        assert await _everything(memory, start) == await _everything(store, start)


async def _do(store: Predictions, op: Any, start: datetime) -> Any:
    if op[0] == "add":
        _, name, row, place, key, second = op
        at = start + timedelta(seconds=second)
        made = prediction(name, row, place=place, at=at, key=key, inputs={"s": second})
        return await store.add([made])
    if op[0] == "label":
        return await store.label(*FRAUD, [Label(op[1], op[2], op[3], op[4])])
    if op[0] == "expire":
        return await store.expire(*FRAUD, start + timedelta(seconds=op[1]))
    return await store.forget_waiting(*FRAUD, start + timedelta(seconds=60))


async def _everything(store: Predictions, start: datetime) -> Any:
    window: dict[str, Any] = {"since": start, "until": start + timedelta(days=1)}
    rows = await store.rows(*FRAUD, **window, limit=99)
    tallies = await store.tallies(*FRAUD, since=start + timedelta(seconds=30), horizon_s=40)
    totals = await store.totals(*FRAUD)
    return (
        {(row.request_id, row.row, row.place): row for row in rows},
        {
            str((o.place, o.label, o.reward, o.pair, o.predicted_at))
            for o in await store.outcomes(*FRAUD)
        },
        {tally.place: tally for tally in tallies},
        {tally.place: tally for tally in totals if any((tally.predictions, tally.dropped))},
    )
