"""Training over HTTP: who starts it, what its token may do, and what a version says of it."""

from __future__ import annotations

from typing import Any

import pytest

from modelplane.api.identity import make_token
from modelplane.decisions.training_names import token_name
from modelplane.ports.store import Transaction
from modelplane.resources.meta import Metadata
from modelplane.resources.role import RoleBinding, RoleBindingSpec
from modelplane.resources.token import Token
from modelplane.resources.training import TrainingRun
from tests.api.world import ADMIN, AGENT, READER, SYSTEM, World, digest_of

TRIGGER = {"model": "fraud", "run": {"command": {"command": ["train"]}}}
JOB = "staging/retrain-1.training"


async def start(world: World, **fields: Any) -> TrainingRun:
    """Declare a trigger, start a run, and say that its Job runs."""
    await world.ok("PUT", "/training-triggers/retrain", {"spec": TRIGGER})
    await world.ok("POST", "/training-triggers/retrain:start", {"reason": "new labels"})
    run = await world.store.get(TrainingRun, "retrain-1")
    transaction = Transaction(SYSTEM)
    transaction.update(run.with_spec(**fields).with_status(phase="Running", job=JOB))
    await world.store.commit(transaction)
    return await world.store.get(TrainingRun, "retrain-1")


async def token_of(world: World) -> str:
    answer = await world.call("POST", "/training-runs/retrain-1:token", {"job": JOB}, token=AGENT)
    assert answer.status_code == 201, answer.text
    secret: str = answer.json()["secret"]
    return secret


async def statuses(world: World, token: str, calls: list[tuple[str, str, Any]]) -> list[int]:
    return [(await world.call(*call, token=token)).status_code for call in calls]


async def test_a_person_starts_a_run_and_no_second_one_beside_it(world: World) -> None:
    run = await start(world)
    assert (run.spec.cause, run.spec.subject, run.spec.detail) == ("hand", "admin", "new labels")
    again = await world.call("POST", "/training-triggers/retrain:start", {})
    assert again.status_code == 409
    assert "retrain-1 is under way" in again.json()["detail"]
    shown = await world.ok("GET", "/training-triggers/retrain")
    assert shown["status"]["lastRun"] == "retrain-1"


async def test_a_run_is_cancelled_once_and_not_after_its_end(world: World) -> None:
    await start(world)
    first = await world.ok("POST", "/training-runs/retrain-1:cancel", {})
    second = await world.ok("POST", "/training-runs/retrain-1:cancel", {})
    assert (first["result"], second["result"]) == ("changed", "unchanged")
    run = await world.store.get(TrainingRun, "retrain-1")
    transaction = Transaction(SYSTEM)
    transaction.update(run.with_status(phase="Succeeded"))
    await world.store.commit(transaction)
    late = await world.call("POST", "/training-runs/retrain-1:cancel", {})
    assert late.status_code == 409


async def test_who_may_start_and_cancel(world: World) -> None:
    binding = RoleBinding(
        metadata=Metadata(name="devs"), spec=RoleBindingSpec(role="developer", groups=("devs",))
    )
    transaction = Transaction(SYSTEM)
    transaction.create(binding)
    transaction.create(make_token("dora", ("devs",), "secret-of-dora"))
    await world.store.commit(transaction)
    await world.ok("PUT", "/training-triggers/retrain", {"spec": TRIGGER})
    starting: list[tuple[str, str, Any]] = [("POST", "/training-triggers/retrain:start", {})]
    declaring: list[tuple[str, str, Any]] = [("PUT", "/training-triggers/own", {"spec": TRIGGER})]
    assert await statuses(world, READER, starting + declaring) == [403, 403]
    assert await statuses(world, AGENT, starting) == [403]
    assert await statuses(world, "secret-of-dora", starting) == [200]
    # A trigger runs any command on the agents' machines: declaring one is not for everybody.
    assert await statuses(world, "secret-of-dora", declaring) == [403]


async def test_only_the_agent_that_runs_the_job_gets_the_token(world: World) -> None:
    await start(world)
    path = "/training-runs/retrain-1:token"
    assert await statuses(world, ADMIN, [("POST", path, {"job": JOB})]) == [403]
    assert await statuses(world, AGENT, [("POST", path, {"job": "staging/other"})]) == [409]
    first = await token_of(world)
    second = await token_of(world)
    reading = [("GET", "/models", None)]
    assert await statuses(world, first, reading) == [401], "a new one takes its place"
    assert await statuses(world, second, reading) == [200]
    stored = await world.store.get(Token, token_name("retrain-1"))
    assert stored.spec.expires_at is not None
    assert second not in stored.model_dump_json()
    run = await world.store.get(TrainingRun, "retrain-1")
    assert run.status.token == token_name("retrain-1")


async def test_somebody_elses_token_is_not_taken_over(world: World) -> None:
    await start(world)
    transaction = Transaction(SYSTEM)
    transaction.create(make_token(token_name("retrain-1"), ("admin",), "secret-of-eve"))
    await world.store.commit(transaction)
    call = ("POST", "/training-runs/retrain-1:token", {"job": JOB})
    assert await statuses(world, AGENT, [call]) == [409]


async def test_a_token_registers_versions_of_its_model_and_data_and_does_nothing_else(
    world: World,
) -> None:
    await start(world)
    await world.push("churn", "1.0.0")
    pushed = await world.push("fraud", "1.0.0")
    secret = await token_of(world)
    artifact = {"format": "skops", "digest": pushed["resource"]["spec"]["artifact"]["digest"]}
    own = {"model": "fraud", "version": "1.1.0", "artifact": artifact}
    other = {"model": "churn", "version": "1.1.0", "artifact": artifact}
    data = {"data": {"name": "payments", "digest": digest_of("may")}}
    allowed: list[tuple[str, str, Any]] = [
        ("POST", "/model-versions", own),
        ("POST", "/dataset-versions", data),
        ("GET", "/model-versions/fraud@1.1.0", None),
        ("GET", "/dataset-versions", None),
    ]
    refused: list[tuple[str, str, Any]] = [
        ("POST", "/model-versions", other),
        ("POST", "/model-versions/fraud@1.0.0:alias", {"alias": "best"}),
        ("POST", "/training-triggers/retrain:start", {}),
        ("POST", "/training-runs/retrain-1:cancel", {}),
        ("POST", "/training-runs/retrain-1:token", {"job": JOB}),
        ("PUT", "/training-triggers/own", {"spec": TRIGGER}),
        ("PUT", "/jobs/j", {"spec": {"command": ["x"]}, "metadata": {"environment": "staging"}}),
        ("POST", "/tokens/eve:create", {"groups": ["admin"]}),
        ("GET", "/tokens", None),
        ("GET", "/audit", None),
        ("DELETE", "/model-versions/fraud@1.0.0", None),
    ]
    done = await statuses(world, secret, allowed)
    assert max(done) < 300, done
    assert set(await statuses(world, secret, refused)) == {403}
    version = await world.ok("GET", "/model-versions/fraud@1.1.0")
    assert version["spec"]["training"]["trainingRun"] == "retrain-1"
    assert version["spec"]["author"] == token_name("retrain-1")


async def test_a_version_is_linked_to_its_run_and_to_the_data_that_caused_it(
    world: World,
) -> None:
    reference = {"name": "payments", "digest": digest_of("may"), "rows": 7}
    await world.ok("POST", "/dataset-versions", {"data": reference})
    await start(world, data={"dataset": "payments", "version": "1"})
    await world.push("fraud", "1.0.0", training={"trainingRun": "retrain-1"})
    version = await world.ok("GET", "/model-versions/fraud@1.0.0")
    (data,) = version["spec"]["datasets"]
    assert (data["name"], data["version"], data["digest"]) == ("payments", "1", digest_of("may"))
    again = await world.push("fraud", "1.0.0", training={"trainingRun": "retrain-1"})
    assert (again["result"], again["warnings"]) == ("unchanged", [])
    lineage = await world.ok("GET", "/lineage", of="run/retrain-1")
    edges = {(edge["source"], edge["target"]) for edge in lineage["edges"]}
    assert edges == {
        ("dataset/payments@1", "run/retrain-1"),
        ("run/retrain-1", "version/fraud@1.0.0"),
    }


async def test_a_version_names_no_run_of_another_model_nor_one_that_is_not_there(
    world: World,
) -> None:
    await start(world)
    pushed = await world.push("fraud", "1.0.0")
    digest = pushed["resource"]["spec"]["artifact"]["digest"]
    for model, run in (("churn", "retrain-1"), ("fraud", "retrain-9")):
        body = {
            "model": model,
            "version": "2.0.0",
            "artifact": {"format": "skops", "digest": digest},
            "training": {"trainingRun": run},
        }
        answer = await world.call("POST", "/model-versions", body)
        assert answer.status_code == 422, answer.text
        assert answer.json()["fields"][0]["path"] == "training.trainingRun"


async def test_a_trigger_is_written_only_by_who_may_do_what_its_runs_do(world: World) -> None:
    def rule(name: str, verb: str, *kinds: str) -> dict[str, Any]:
        return {"name": name, "verbs": [verb], "kinds": list(kinds)}

    async def may(*rules: dict[str, Any]) -> str:
        spec = {"description": "Trains.", "rules": list(rules)}
        await world.ok("PUT", "/roles/trainer", {"metadata": {"name": "trainer"}, "spec": spec})
        answer = await world.call("PUT", "/training-triggers/own", {"spec": way}, token=tara)
        return "" if answer.status_code == 200 else answer.json()["detail"]

    binding = {"metadata": {"name": "trainers"}, "spec": {"role": "trainer", "groups": ["t"]}}
    own, version = rule("own", "apply", "TrainingTrigger"), rule("push", "apply", "ModelVersion")
    spec = {"description": "Trains.", "rules": [own]}
    await world.ok("PUT", "/roles/trainer", {"metadata": {"name": "trainer"}, "spec": spec})
    await world.ok("PUT", "/role-bindings/trainers", binding)
    tara = (await world.ok("POST", "/tokens/tara:create", {"groups": ["t"]}))["secret"]
    way = TRIGGER
    assert "may not apply ModelVersion" in await may(own)
    assert "may not apply Job in staging" in await may(own, version)
    assert await may(own, version, rule("run", "apply", "Job")) == ""
    way = {"model": "fraud", "run": {"http": {"url": "https://trainer.test/", "secret": "x"}}}
    assert "may not apply NotificationChannel" in await may(own, version)


@pytest.mark.parametrize(
    "spec",
    [
        {**TRIGGER, "on": {"data": [{"uri": "s3://key:s3cret@bucket/x"}]}},
        {"model": "fraud", "run": {"mlflow": {"uri": "https://ana:s3cret@git.test/x.git"}}},
    ],
)
async def test_credentials_in_an_address_are_refused_and_not_repeated(
    world: World, spec: dict[str, Any]
) -> None:
    answer = await world.call("PUT", "/training-triggers/own", {"spec": spec})
    assert (answer.status_code, "s3cret" in answer.text) == (422, False), answer.text
