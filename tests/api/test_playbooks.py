"""Playbooks over the API: who may write which, runs by hand, answers."""

from __future__ import annotations

from typing import Any

import pytest

from modelplane.ports.store import Transaction
from modelplane.resources.alerting import Alert
from modelplane.resources.playbook import PlaybookRun, StepStatus
from tests.api.world import SYSTEM, World

LABELS = {"alertname": "ReplicaDown", "environment": "production", "deployment": "fraud"}
RESTART: dict[str, Any] = {"name": "restart", "restartReplica": {}}


def manifest(*steps: dict[str, Any], **spec: Any) -> dict[str, Any]:
    fields = {"matchers": ['alertname="ReplicaDown"'], "steps": list(steps or (RESTART,)), **spec}
    return {"metadata": {"name": "repair"}, "spec": fields}


async def put(world: World, *resources: Any) -> None:
    transaction = Transaction(SYSTEM)
    for resource in resources:
        transaction.put(resource, "test")
    await world.store.commit(transaction)


async def join(world: World, name: str, *groups: str) -> str:
    """Return the secret of a new token; the roles of the built-in groups are bound to them."""
    for group in groups:
        if group in {"operator", "approver"}:
            binding = {"metadata": {"name": group}, "spec": {"role": group, "groups": [group]}}
            await world.ok("PUT", f"/role-bindings/{group}", binding)
    made = await world.ok("POST", f"/tokens/{name}:create", {"groups": list(groups)})
    secret: str = made["secret"]
    return secret


async def fire(world: World, name: str = "ReplicaDown-1") -> None:
    document = {
        "metadata": {"name": name},
        "spec": {
            "alert": "ReplicaDown", "source": "modelplane", "labels": LABELS, "fingerprint": "1",
        },
        "status": {"phase": "Firing", "episode": 1},
    }  # fmt: skip
    await put(world, Alert.model_validate(document))


async def test_an_operator_writes_only_what_the_steps_allow_it(world: World) -> None:
    oda = await join(world, "oda", "operator")
    path = "/playbooks/repair"
    allowed = await world.call("PUT", path, manifest(), token=oda)
    assert allowed.status_code in {200, 201}, allowed.text
    command = {"name": "collect", "runCommand": {"command": ["sh"]}}
    for step, words in (
        (command, "step collect: 'oda' may not apply Job"),
        ({"name": "more", "scale": {}}, "step more: 'oda' may not apply ModelDeployment"),
    ):
        refused = await world.call("PUT", path, manifest(RESTART, step), token=oda)
        assert refused.status_code == 403
        assert words in refused.text


async def test_a_matcher_that_fixes_the_environment_narrows_the_right(world: World) -> None:
    role = {
        "metadata": {"name": "stager"},
        "spec": {
            "description": "Repairs staging.",
            "rules": [
                {"name": "write", "verbs": ["apply", "run"], "kinds": ["Playbook"]},
                {"name": "run", "verbs": ["apply"], "kinds": ["Job"], "stages": ["staging"]},
            ],
        },
    }
    await world.ok("PUT", "/roles/stager", role)
    binding = {"metadata": {"name": "stagers"}, "spec": {"role": "stager", "groups": ["stagers"]}}
    await world.ok("PUT", "/role-bindings/stagers", binding)
    sue = await join(world, "sue", "stagers")
    command = {"name": "collect", "runCommand": {"command": ["sh"]}}
    anywhere = await world.call("PUT", "/playbooks/repair", manifest(command), token=sue)
    assert anywhere.status_code == 403
    matchers = ['alertname="ReplicaDown"', 'environment="staging"']
    staging = await world.call(
        "PUT", "/playbooks/repair", manifest(command, matchers=matchers), token=sue
    )
    assert staging.status_code in {200, 201}, staging.text


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (manifest(matchers=['severity=~".*"']), "every alert"),
        (manifest(matchers=['alertname=~".+"', 'severity!="info"']), "every alert"),
        (manifest(matchers=['alertname!=""']), "every alert"),
        (manifest({**RESTART, "scale": {}}), "exactly one"),
        (
            manifest({"name": "ask", "askPerson": {"question": "{{ .Labels.x }}?"}}),
            "spec.steps[0].askPerson.question",
        ),
        (manifest(verify={"expr": "up == {{ $lables.x }}"}), "spec.verify.expr"),
        (manifest({"name": "see", "waitFor": {"expr": "up == =="}}), "line 1, column"),
    ],
)
async def test_what_could_never_work_is_refused(
    world: World, document: dict[str, Any], words: str
) -> None:
    refused = await world.call("PUT", "/playbooks/repair", document)
    assert refused.status_code == 422
    assert words in refused.text


async def test_an_expression_that_needs_a_prometheus_is_warned_of(world: World) -> None:
    document = manifest(verify={"expr": 'node_load1{host="{{ $labels.host }}"} < 2'})
    applied = await world.ok("PUT", "/playbooks/repair", document)
    (warning,) = applied["warnings"]
    assert warning.startswith("spec.verify.expr: ")


async def test_a_run_by_hand_takes_the_alert_that_fires(world: World) -> None:
    await world.ok("PUT", "/playbooks/repair", manifest())
    await fire(world)
    run = await world.ok("POST", "/playbooks/repair:run", {"reason": "at once"})
    assert (run["spec"]["alert"], run["spec"]["subject"]) == ("ReplicaDown-1", "admin")
    assert (await world.store.get(Alert, "ReplicaDown-1")).status.run == "repair-1"
    again = await world.call("POST", "/playbooks/repair:run", {})
    assert again.status_code == 409
    assert "repair-1 is under way" in again.text
    await world.ok("POST", "/playbooks/repair:run", {"dryRun": True})


async def test_a_run_by_hand_says_when_it_is_not_clear_about_what(world: World) -> None:
    await world.ok("PUT", "/playbooks/repair", manifest())
    await fire(world)
    await fire(world, "ReplicaDown-2")
    unclear = await world.call("POST", "/playbooks/repair:run", {})
    assert unclear.status_code == 422
    assert "ReplicaDown-1, ReplicaDown-2" in unclear.text
    both = {"alert": "ReplicaDown-1", "labels": {"deployment": "fraud"}}
    assert (await world.call("POST", "/playbooks/repair:run", both)).status_code == 422
    unknown = await world.call("POST", "/playbooks/repair:run", {"alert": "nothing"})
    assert unknown.status_code == 404
    labels = {"environment": "staging", "deployment": "fraud"}
    run = await world.ok("POST", "/playbooks/repair:run", {"labels": labels})
    assert run["spec"]["labels"] == {"alertname": "ReplicaDown", **labels}
    number = await world.call("POST", "/playbooks/repair:run", {"labels": {"deployment": 1}})
    assert number.status_code == 422


async def ask(world: World, **question: Any) -> None:
    """Have a run wait for an answer."""
    step = {"name": "ask", "askPerson": {"question": "Restart it?", **question}}
    await world.ok("PUT", "/playbooks/repair", manifest(step))
    await fire(world)
    await world.ok("POST", "/playbooks/repair:run", {})
    run = await world.store.get(PlaybookRun, "repair-1")
    state = StepStatus(name="ask", phase="Running")
    await put(world, run.with_status(phase="Running", steps=(state,)))


async def test_who_answers_is_recorded_and_answers_once(world: World) -> None:
    await ask(world)
    path = "/playbook-runs/repair-1:answer"
    bare = await world.call("POST", path, {"step": "ask", "agrees": False})
    assert bare.status_code == 422
    assert "reason" in bare.text
    answered = await world.ok("POST", path, {"step": "ask", "agrees": True, "reason": "go"})
    (answer,) = answered["status"]["answers"]
    assert (answer["subject"], answer["agrees"], answer["reason"]) == ("admin", True, "go")
    await world.ok("POST", path, {"step": "ask", "agrees": True})
    other = await world.call("POST", path, {"step": "ask", "agrees": False, "reason": "no"})
    assert other.status_code == 409
    missing = await world.call("POST", path, {"step": "restart", "agrees": True})
    assert missing.status_code == 422


async def test_only_those_who_are_named_may_answer(world: World) -> None:
    await ask(world, approvers=["risk"])
    path, body = "/playbook-runs/repair-1:answer", {"step": "ask", "agrees": True}
    refused = await world.call("POST", path, body)
    assert refused.status_code == 403
    assert "that is for risk" in refused.text
    rita = await join(world, "rita", "approver", "risk")
    answered = await world.call("POST", path, body, token=rita)
    assert answered.status_code == 200, answered.text


async def test_an_approver_answers_no_question_that_names_nobody(world: World) -> None:
    await ask(world)
    rita = await join(world, "rita", "approver")
    body = {"step": "ask", "agrees": True}
    refused = await world.call("POST", "/playbook-runs/repair-1:answer", body, token=rita)
    assert refused.status_code == 403
    assert "who may run playbooks" in refused.text


async def test_a_run_is_cancelled_once(world: World) -> None:
    await ask(world)
    cancelled = await world.ok("POST", "/playbook-runs/repair-1:cancel", {"reason": "enough"})
    assert cancelled["spec"]["cancelled"] is True
    run = await world.store.get(PlaybookRun, "repair-1")
    await put(world, run.with_status(phase="Cancelled"))
    again = await world.call("POST", "/playbook-runs/repair-1:cancel", {})
    assert again.status_code == 409


async def test_a_playbook_is_run_by_hand_only_about_what_its_matchers_hold_for(
    world: World,
) -> None:
    """Its author needed rights there, and nowhere else."""
    matchers = ['alertname="ReplicaDown"', 'environment="staging"']
    await world.ok("PUT", "/playbooks/repair", manifest(matchers=matchers))
    await fire(world)  # in production
    for about in ({"labels": {"environment": "production"}}, {"alert": "ReplicaDown-1"}):
        refused = await world.call("POST", "/playbooks/repair:run", {**about, "dryRun": True})
        assert refused.status_code == 422, refused.text
        assert 'environment=\\"staging\\" does not hold' in refused.text
    run = await world.ok("POST", "/playbooks/repair:run", {"labels": {"deployment": "fraud"}})
    assert run["spec"]["labels"]["environment"] == "staging"


async def test_a_label_that_is_none_is_refused(world: World) -> None:
    await world.ok("PUT", "/playbooks/repair", manifest())
    refused = await world.call("POST", "/playbooks/repair:run", {"labels": {"not one": "x"}})
    assert refused.status_code == 422, refused.text
    assert refused.json()["fields"][0]["path"] == "labels.not one"


async def test_runs_by_hand_do_not_pile_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelplane.decisions.playbook_runs.KEPT_RUNS", 2)
    await world.ok("PUT", "/playbooks/repair", manifest())
    for number in range(1, 5):
        body = {"dryRun": True, "labels": {"deployment": "fraud"}}
        await world.ok("POST", "/playbooks/repair:run", body)
        run = await world.store.get(PlaybookRun, f"repair-{number}")
        await put(world, run.with_status(phase="Succeeded"))
    names = [run.metadata.name for run in (await world.store.list(PlaybookRun))[0]]
    assert names == ["repair-2", "repair-3", "repair-4"]
