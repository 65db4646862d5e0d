"""When pipelines run by themselves: each cause once, nothing old, nothing of the schedule lost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.gate_runs import make_run
from modelplane.decisions.gate_triggers import (
    CHAMPION,
    NEWEST,
    arrived_at,
    causes_of_contract,
    causes_of_data,
    causes_of_push,
    causes_of_schedule,
    due_at,
    is_settled,
    next_at,
    settled_schedule,
    switch_triggers,
)
from modelplane.resources.contract import Contract, ContractSpec
from modelplane.resources.dataset import DatasetVersion, DatasetVersionSpec
from modelplane.resources.gate_run import GateRun
from modelplane.resources.meta import Condition, Metadata
from modelplane.resources.model import Model, ModelVersion
from modelplane.resources.revision import Artifact
from modelplane.resources.validation_pipeline import Triggers, ValidationPipeline
from tests.decisions.gate_worlds import ANA, NOW, digest_of, pipeline, served, stage, version

HOUR = timedelta(hours=1)
FRAUD = Model(metadata=Metadata(name="fraud", labels={"tier": "1"}))
OTHER = Model(metadata=Metadata(name="other"))


def triggered(since: datetime = NOW, **triggers: Any) -> ValidationPipeline:
    made = pipeline(stage("one"), triggers=Triggers.model_validate(triggers))
    return made.with_(metadata=made.metadata.with_(updated_at=since))


def pushed(at: datetime, **spec: Any) -> ModelVersion:
    artifact = Artifact(format="skops", digest=digest_of("a"))
    made = version(artifact=artifact, number=1, **spec)
    return made.with_(metadata=made.metadata.with_(created_at=at, uid="v-uid"))


def test_a_push_is_a_cause_from_the_moment_the_trigger_was_switched_on() -> None:
    on = triggered(onModelPush=True)
    assert not causes_of_push(on, pushed(NOW - HOUR), FRAUD)
    (cause,) = causes_of_push(on, pushed(NOW + HOUR), FRAUD)
    assert (cause.model, cause.version, cause.trigger) == ("fraud", "1.0.0", "push")
    assert not causes_of_push(triggered(onContract=True), pushed(NOW + HOUR), FRAUD)


def test_editing_a_pipeline_neither_forgets_causes_nor_makes_old_ones_new() -> None:
    on = switch_triggers(triggered(onModelPush=True))
    edited = on.with_(metadata=on.metadata.with_(updated_at=NOW + 5 * HOUR))
    assert causes_of_push(edited, pushed(NOW + HOUR), FRAUD)
    assert switch_triggers(edited) == edited
    off = on.with_spec(triggers=Triggers())
    assert switch_triggers(off).status.since == {}


def test_a_version_counts_when_its_files_are_here() -> None:
    without = version(number=1, source="s3://elsewhere")
    assert arrived_at(without) is None
    fetched = pushed(NOW - HOUR).with_status(
        conditions=(
            Condition(
                type="ArtifactReady", status="True", reason="Fetched", last_transition_time=NOW
            ),
        )
    )
    assert arrived_at(fetched) == NOW
    assert causes_of_push(triggered(onModelPush=True), fetched, FRAUD)
    assert arrived_at(fetched.with_status(deleted_at=NOW)) is None


def test_only_models_that_are_meant() -> None:
    on = triggered(onModelPush=True)
    on = on.with_spec(models=on.spec.models.with_(labels={"tier": "1"}))
    assert causes_of_push(on, pushed(NOW + HOUR), FRAUD)
    assert not causes_of_push(on, pushed(NOW + HOUR), FRAUD.with_(metadata=OTHER.metadata))


def test_new_data_concerns_the_champions_of_all_models() -> None:
    spec = DatasetVersionSpec(dataset="test", version="2", number=2, digest="sha256:2")
    data = DatasetVersion(metadata=Metadata(name="test@2", created_at=NOW + HOUR), spec=spec)
    causes = causes_of_data(triggered(onDataset=["test"]), data, [FRAUD, OTHER])
    assert [(c.model, c.version) for c in causes] == [("fraud", CHAMPION), ("other", CHAMPION)]
    assert not causes_of_data(triggered(onDataset=["else"]), data, [FRAUD])


def test_a_contract_concerns_the_champion_and_the_newest_version() -> None:
    spec = ContractSpec(consumer="shop", consumer_version="1", model="fraud", pact={})
    contract = Contract(metadata=Metadata(name="shop.fraud@1", created_at=NOW), spec=spec)
    causes = causes_of_contract(triggered(onContract=True), contract, FRAUD)
    assert [c.version for c in causes] == [CHAMPION, NEWEST]


def test_what_was_missed_of_the_schedule_is_made_up_for_once() -> None:
    daily = triggered(schedule="0 3 * * *")
    assert due_at(daily, NOW + HOUR) is None
    late = NOW + timedelta(days=10)
    due = due_at(daily, late)
    assert due == datetime(2026, 1, 15, 3, 0, tzinfo=UTC)
    assert [c.model for c in causes_of_schedule(daily, [FRAUD, OTHER], late)] == ["fraud", "other"]
    settled = settled_schedule(daily, due)
    assert due_at(settled, late) is None
    assert next_at(settled, late) == datetime(2026, 1, 16, 3, 0, tzinfo=UTC)


@pytest.mark.parametrize("second", [0.0, 0.000001, 0.5, 59.0])
def test_the_very_minute_of_the_schedule_counts(second: float) -> None:
    minutely = triggered(schedule="30 10 * * *")
    moment = datetime(2026, 1, 5, 10, 30, tzinfo=UTC)
    assert due_at(minutely, moment + timedelta(seconds=second)) == moment
    assert due_at(minutely, moment - timedelta(seconds=1)) is None


@given(
    step_s=st.floats(1, 10_000),
    schedule=st.sampled_from(["*/5 * * * *", "0 3 * * *", "7 * * * 1", "0 0 1 * *"]),
)
def test_however_often_one_looks_each_due_moment_is_acted_on_at_most_once(
    step_s: float, schedule: str
) -> None:
    watched, now, acted = triggered(schedule=schedule), NOW, list[datetime]()
    for _ in range(30):
        now += timedelta(seconds=step_s)
        due = due_at(watched, now)
        if due is not None:
            assert NOW < due <= now
            acted.append(due)
            watched = settled_schedule(watched, due)
        coming = next_at(watched, now)
        assert coming is not None
        assert coming > now
    assert acted == sorted(set(acted))


def test_a_cause_is_settled_by_its_own_run_or_by_one_of_the_same_revision_begun_since() -> None:
    (cause,) = causes_of_push(triggered(onModelPush=True), pushed(NOW + HOUR), FRAUD)
    candidate = served()
    run = _run(NOW + 2 * HOUR)
    assert is_settled(cause, candidate, [run])
    assert not is_settled(cause, candidate, [_run(NOW)])
    assert not is_settled(cause, candidate, [run.with_spec(cancelled=True)])
    own = run.with_(metadata=run.metadata.with_(labels={"cause": cause.label}))
    assert is_settled(cause, served("9.9.9", "others"), [own.with_spec(cancelled=True)])
    assert not is_settled(cause, candidate, [])


def _run(at: datetime) -> GateRun:
    made = make_run(
        pipeline(stage("one")), served(), None, number=1, trigger="promotion", subject=ANA
    )
    return made.with_(metadata=made.metadata.with_(created_at=at))
