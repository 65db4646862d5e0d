"""Roles at the door: bindings decide, models and environments limit, grants stay with admin."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from modelplane.decisions.roles import BUILT_IN_ROLES
from modelplane.ports.store import Transaction
from modelplane.resources.role import Role, RoleBinding
from modelplane.wiring.state import ensure_roles
from tests.api.world import ADMIN, AGENT, READER, SYSTEM, World


async def make_member(world: World, name: str, *groups: str) -> str:
    """Make a token and return its secret."""
    made = await world.ok("POST", f"/tokens/{name}:create", {"groups": list(groups)})
    secret: str = made["secret"]
    return secret


async def bind(world: World, name: str, role: str, *groups: str, **limits: Any) -> None:
    spec = {"role": role, "groups": list(groups), **limits}
    await world.ok("PUT", f"/role-bindings/{name}", {"spec": spec})


async def status(world: World, token: str, method: str, path: str, body: Any = None,
                 **query: Any) -> int:  # fmt: skip
    return (await world.call(method, path, body, token=token, **query)).status_code


async def detail(world: World, token: str, method: str, path: str, body: Any = None,
                 **query: Any) -> str:  # fmt: skip
    response = await world.call(method, path, body, token=token, **query)
    assert response.status_code in {403, 409}, response.text
    text: str = response.json()["detail"]
    return text


async def served(world: World, model: str = "fraud", *places: str) -> None:
    """Have a model with two versions, deployed."""
    await world.push(model, "1.0.0")
    await world.push(model, "1.1.0")
    for place in places or ("staging", "production"):
        await world.deploy(model, place, model=model, version="1.0.0")


async def test_a_token_in_no_bound_group_may_do_nothing_and_is_told_so(world: World) -> None:
    made = await world.ok("POST", "/tokens/ann:create", {"groups": ["others"]})
    (warning,) = made["warnings"]
    assert "ann may do nothing yet" in warning
    for method, path in (("GET", "/models"), ("GET", "/roles"), ("PUT", "/models/x")):
        says = await detail(world, made["secret"], method, path, {} if method == "PUT" else None)
        assert "no role is bound to its groups (others)" in says
    assert (await world.ok("POST", "/tokens/bob:create", {"groups": ["admin"]}))["warnings"] == []


async def test_a_binding_takes_effect_at_once_and_so_does_its_end(world: World) -> None:
    ann = await make_member(world, "ann", "risk")
    assert await status(world, ann, "GET", "/models") == 403
    await bind(world, "risk", "developer", "risk")
    assert await status(world, ann, "GET", "/models") == 200
    assert await status(world, ann, "GET", "/audit") == 403
    await bind(world, "risk", "auditor", "risk")
    assert await status(world, ann, "GET", "/audit") == 200
    await world.ok("DELETE", "/role-bindings/risk")
    assert await status(world, ann, "GET", "/models") == 403


async def test_a_developer_deploys_to_staging_and_asks_for_production(world: World) -> None:
    await bind(world, "developer", "developer", "devs")
    ann = await make_member(world, "ann", "devs")
    await served(world)
    body = {"spec": {"model": "fraud", "version": "1.1.0"}}
    path = "/model-deployments/fraud"
    assert await status(world, ann, "PUT", path, body, environment="staging") == 200
    assert "apply ModelDeployment in production" in await detail(world, ann, "PUT", path, body)
    hidden = {**body, "metadata": {"environment": "production"}}
    assert await status(world, ann, "PUT", path, hidden) == 403
    assert await status(world, ann, "DELETE", path) == 403
    assert await status(world, ann, "POST", f"{path}:pause", {}) == 403
    assert await status(world, ann, "POST", f"{path}:undo", {}) == 403
    promoted = await world.call(
        "POST", f"{path}:promote", {"version": "1.1.0", "to": "production"}, token=ann
    )
    assert promoted.status_code == 200
    assert promoted.json()["promotion"]["spec"]["subject"]["name"] == "ann"


async def test_where_a_promotion_leads_is_what_counts(world: World) -> None:
    rule = {"name": "ask", "verbs": ["promote"], "kinds": ["ModelDeployment"],
            "stages": ["staging"]}  # fmt: skip
    await world.ok("PUT", "/roles/stager", {"spec": {"rules": [rule]}})
    await bind(world, "stagers", "stager", "stagers")
    ann = await make_member(world, "ann", "stagers")
    await served(world)
    path = "/model-deployments/fraud:promote"
    version = {"version": "1.1.0"}
    assert await status(world, ann, "POST", path, version) == 403
    assert await status(world, ann, "POST", path, version, environment="production") == 403
    query = {"environment": "staging"}
    into = {**version, "to": "production"}
    assert await status(world, ann, "POST", path, into, **query) == 403
    assert await status(world, ann, "PUT", "/v1/models",
                        {"id": "fraud@1.1.0", "status": "production"}) == 403  # fmt: skip
    assert await status(world, ann, "POST", path, {**version, "to": "staging"}) == 200


async def test_an_operator_steers_everywhere_and_writes_nothing(world: World) -> None:
    await bind(world, "operator", "operator", "ops")
    olga = await make_member(world, "olga", "ops")
    await served(world)
    path = "/model-deployments/fraud"
    assert await status(world, olga, "POST", f"{path}:undo", {}) != 403
    assert await status(world, olga, "POST", f"{path}:pause", {}) != 403
    assert await status(world, olga, "POST", f"{path}:promote-rollout", {}) != 403
    assert await status(world, olga, "POST", "/rollouts/r:rollback", {}) == 404
    assert await status(world, olga, "POST", f"{path}:promote", {"version": "1.1.0"}) == 403
    assert await status(world, olga, "PUT", "/models/fraud", {}) == 403
    assert await status(world, olga, "GET", "/audit") == 200


async def test_mlflows_stages_and_the_publishing_endpoint_take_the_right_to_promote(
    world: World,
) -> None:
    rule = {"name": "label", "verbs": ["act", "get", "list"], "kinds": ["ModelVersion"]}
    await world.ok("PUT", "/roles/labeller", {"spec": {"rules": [rule]}})
    await bind(world, "labellers", "labeller", "labellers")
    ann = await make_member(world, "ann", "labellers")
    await served(world)

    async def move(stage: str, token: str) -> int:
        answer = await world.http.post(
            "/api/2.0/mlflow/model-versions/transition-stage",
            json={"name": "fraud", "version": "2", "stage": stage},
            headers={"authorization": f"Bearer {token}"},
        )
        return answer.status_code

    assert await move("Staging", ann) == 200
    assert await move("Production", ann) == 403
    await bind(world, "developers", "developer", "labellers")
    assert await move("Production", ann) == 200


class TestLimitsToModels:
    async def test_by_name(self, world: World) -> None:
        await served(world, "fraud")
        await served(world, "churn")
        await bind(world, "risk", "developer", "risk", models={"names": ["fraud"]})
        ann = await make_member(world, "ann", "risk")
        for path in ("/models/{}", "/model-versions/{}@1.0.0", "/model-deployments/{}"):
            assert await status(world, ann, "GET", path.format("fraud")) == 200, path
            assert await status(world, ann, "GET", path.format("churn")) == 403, path
        assert await status(world, ann, "GET", "/models") == 403
        ask = {"version": "1.1.0"}
        assert await status(world, ann, "POST", "/model-deployments/fraud:promote", ask) == 200
        assert await status(world, ann, "POST", "/model-deployments/churn:promote", ask) == 403
        publish = {"id": "churn@1.1.0", "status": "production"}
        assert await status(world, ann, "PUT", "/v1/models", publish) == 403

    async def test_a_push_is_about_the_model_in_its_body(self, world: World) -> None:
        await bind(world, "risk", "developer", "risk", models={"names": ["fraud"]})
        ann = await make_member(world, "ann", "risk")
        for model, expected in (("churn", 403), ("fraud", 422)):
            body = {"model": model, "version": "1.0.0"}
            assert await status(world, ann, "POST", "/model-versions", body) == expected

    async def test_a_contract_is_about_its_provider(self, world: World) -> None:
        await served(world, "fraud")
        await served(world, "churn")
        await bind(world, "risk", "developer", "risk", models={"names": ["fraud"]})
        ann = await make_member(world, "ann", "risk")
        for model, expected in (("churn", 403), ("fraud", 200)):
            asked = {
                "description": "a payment",
                "request": {"method": "post", "path": f"/v2/models/{model}/infer", "body": {}},
                "response": {"status": 200, "body": {"outputs": []}},
            }
            pact = {
                "consumer": {"name": "web"},
                "provider": {"name": model},
                "interactions": [asked],
                "metadata": {"pactSpecification": {"version": "3.0.0"}},
            }
            body = {"pact": pact, "consumerVersion": "1.0.0"}
            answer = await world.call("POST", "/contracts", body, token=ann)
            assert answer.status_code == expected, answer.text

    async def test_a_deployment_of_another_model_cannot_be_taken_over(self, world: World) -> None:
        await served(world, "fraud")
        await served(world, "churn")
        await bind(world, "risk", "developer", "risk", models={"names": ["fraud"]})
        ann = await make_member(world, "ann", "risk")
        body = {"spec": {"model": "fraud", "version": "1.0.0"}}
        query = {"environment": "staging"}
        assert await status(world, ann, "PUT", "/model-deployments/fraud", body, **query) == 200
        assert await status(world, ann, "PUT", "/model-deployments/churn", body, **query) == 403
        other = {"spec": {"model": "churn", "version": "1.0.0"}}
        assert await status(world, ann, "PUT", "/model-deployments/fraud", other, **query) == 403

    async def test_by_the_models_labels(self, world: World) -> None:
        await served(world, "fraud")
        await bind(world, "risk", "developer", "risk", models={"labels": {"team": "risk"}})
        ann = await make_member(world, "ann", "risk")
        path = "/model-deployments/fraud"
        assert await status(world, ann, "GET", path) == 403
        body = {"metadata": {"labels": {"team": "risk", "tier": "1"}}}
        await world.ok("PUT", "/models/fraud", body)
        assert await status(world, ann, "GET", path) == 200
        assert "of model other" in await detail(world, ann, "PUT", "/models/other", body)

    async def test_mlflows_clients_meet_them_too(self, world: World) -> None:
        await served(world, "fraud")
        await served(world, "churn")
        await bind(world, "risk", "developer", "risk", models={"names": ["fraud"]})
        ann = await make_member(world, "ann", "risk")

        async def tag(name: str) -> int:
            answer = await world.http.post(
                "/api/2.0/mlflow/registered-models/set-tag",
                json={"name": name, "key": "a", "value": "b"},
                headers={"authorization": f"Bearer {ann}"},
            )
            return answer.status_code

        assert await tag("fraud") == 200
        assert await tag("churn") == 403


async def test_a_label_that_chooses_policies_is_not_taken_away_by_developers(
    world: World,
) -> None:
    await world.push("fraud", "1.0.0")
    await bind(world, "developer", "developer", "devs")
    ann = await make_member(world, "ann", "devs")

    def labelled(**labels: str) -> dict[str, Any]:
        return {"metadata": {"labels": labels}}

    path = "/models/fraud"
    assert await status(world, ann, "PUT", path, labelled(tier="high")) == 200
    assert await status(world, ann, "PUT", path, labelled(tier="high", team="risk")) == 200
    for less in ({"tier": "low", "team": "risk"}, {"tier": "high"}, {}):
        assert "PromotionPolicy" in await detail(world, ann, "PUT", path, labelled(**less))
    assert await status(world, ADMIN, "PUT", path, labelled(tier="low")) == 200


class TestGrants:
    @pytest.mark.parametrize("role", ["developer", "approver", "operator", "auditor"])
    async def test_only_admin_writes_roles_and_bindings_and_makes_tokens(
        self, world: World, role: str
    ) -> None:
        await bind(world, "b", role, "team")
        ann = await make_member(world, "ann", "team")
        grant = {"spec": {"role": "admin", "groups": ["team"]}}
        for method, path, body in (
            ("PUT", "/role-bindings/mine", grant),
            ("PUT", "/role-bindings/b", grant),
            ("DELETE", "/role-bindings/b", None),
            ("PUT", "/roles/mine", {"spec": {"rules": []}}),
            ("POST", "/tokens/mine:create", {"groups": ["admin"]}),
            ("POST", "/tokens/admin:revoke", {}),
        ):
            says = await detail(world, ann, method, path, body)
            assert "(rule only-admin-grants): that takes role admin" in says

    async def test_a_role_names_what_exists(self, world: World) -> None:
        rules = [
            {"name": "a", "verbs": ["get"], "kinds": ["ModelDeploymnt"]},
            {"name": "a", "verbs": ["get"], "kinds": ["Model"], "stages": ["staging"]},
        ]
        answer = await world.call("PUT", "/roles/own", {"spec": {"rules": rules}})
        assert answer.status_code == 422
        faults = {f["path"]: f["message"] for f in answer.json()["fields"]}
        assert "did you mean 'ModelDeployment'?" in faults["spec.rules[0].kinds"]
        assert "another rule is called 'a'" in faults["spec.rules[1].name"]
        assert "allows nothing" in faults["spec.rules[1].stages"]

    async def test_a_binding_names_what_exists(self, world: World) -> None:
        spec = {"role": "develper", "groups": ["system:agents", ""], "environments": ["stagin"]}
        answer = await world.call("PUT", "/role-bindings/b", {"spec": spec})
        assert answer.status_code == 422
        faults = {f["path"]: f["message"] for f in answer.json()["fields"]}
        assert "did you mean 'developer'?" in faults["spec.role"]
        assert "did you mean 'staging'?" in faults["spec.environments[0]"]
        assert "modelplane's own" in faults["spec.groups[0]"]
        assert "1 to 63" in faults["spec.groups[1]"]

    async def test_what_is_built_in_stays_as_it_is(self, world: World) -> None:
        empty: dict[str, Any] = {"spec": {"rules": []}}
        assert "built in" in await detail(world, ADMIN, "PUT", "/roles/auditor", empty)
        binding = {"spec": {"role": "auditor", "groups": ["x"]}}
        for name in ("admin", "system-agents"):
            path = f"/role-bindings/{name}"
            assert "built in" in await detail(world, ADMIN, "PUT", path, binding)

    async def test_a_role_that_somebody_has_is_not_deleted(self, world: World) -> None:
        await world.ok("PUT", "/roles/own", {"spec": {"rules": []}})
        await bind(world, "b", "own", "team")
        assert "is given by 1 bindings: b" in await detail(world, ADMIN, "DELETE", "/roles/own")
        await world.ok("DELETE", "/role-bindings/b")
        await world.ok("DELETE", "/roles/own")

    async def test_the_last_admin_stays(self, world: World) -> None:
        revoke = "/tokens/admin:revoke"
        assert "nobody would be left" in await detail(world, ADMIN, "POST", revoke, {})
        await bind(world, "root", "admin", "root")
        ann = await make_member(world, "ann", "root")
        await world.ok("POST", revoke, {})
        spec = {"role": "auditor", "groups": ["root"]}
        limited = {"role": "admin", "groups": ["root"], "environments": ["staging"]}
        for method, body in (("PUT", {"spec": spec}), ("PUT", {"spec": limited}), ("DELETE", None)):
            says = await detail(world, ann, method, "/role-bindings/root", body)
            assert "nobody would be left" in says
        assert "nobody would be left" in await detail(world, ann, "POST", "/tokens/ann:revoke", {})

    async def test_one_whose_time_is_over_counts_for_nobody(self, world: World) -> None:
        soon = {"groups": ["admin"], "expiresIn": "1h"}
        await world.ok("POST", "/tokens/ann:create", soon)
        await world.clock.advance(3601)
        says = await detail(world, ADMIN, "POST", "/tokens/admin:revoke", {})
        assert "nobody would be left" in says

    async def test_two_admins_that_end_each_other_at_once_are_not_both_gone(
        self, world: World
    ) -> None:
        ann = await make_member(world, "ann", "admin")
        answers = await asyncio.gather(
            status(world, ann, "POST", "/tokens/admin:revoke", {}),
            status(world, ADMIN, "POST", "/tokens/ann:revoke", {}),
        )
        assert sorted(answers)[0] == 200
        assert sorted(answers)[1] >= 401


class TestQuestions:
    async def test_who_am_i(self, world: World) -> None:
        told = await world.ok("GET", "/authorization")
        assert (told["name"], told["groups"]) == ("admin", ["admin"])
        assert [role["role"] for role in told["roles"]] == ["admin"]
        nobody = await make_member(world, "ann")
        response = await world.call("GET", "/authorization", token=nobody)
        assert response.json() == {"name": "ann", "groups": [], "roles": []}

    async def ask(self, world: World, token: str, **question: str) -> Any:
        response = await world.call("POST", "/authorization:check", question, token=token)
        return response.json() if response.status_code == 200 else response.status_code

    async def test_may_i(self, world: World) -> None:
        await bind(world, "dev", "developer", "devs")
        ann = await make_member(world, "ann", "devs")
        answer = await self.ask(world, ann, verb="apply", kind="deployment", environment="staging")
        assert answer == {"allowed": True, "rule": "developer/deploy@dev", "message": ""}
        answer = await self.ask(world, ann, verb="apply", kind="model-deployments")
        assert (answer["allowed"], answer["rule"]) == (False, "default-deny")
        assert "apply ModelDeployment in production" in answer["message"]
        assert (await self.ask(world, ann, verb="list", kind="audit"))["allowed"] is False
        assert (await self.ask(world, ann, verb="list", kind="ModelDeployment"))["allowed"] is True

    async def test_may_i_for_this_model(self, world: World) -> None:
        await world.push("fraud", "1.0.0")
        await world.ok("PUT", "/models/fraud", {"metadata": {"labels": {"team": "risk"}}})
        await bind(world, "r", "developer", "risk", models={"labels": {"team": "risk"}})
        ann = await make_member(world, "ann", "risk")
        push = {"verb": "apply", "kind": "ModelVersion"}
        assert (await self.ask(world, ann, **push, model="fraud"))["allowed"] is True
        assert (await self.ask(world, ann, **push, model="other"))["allowed"] is False
        assert (await self.ask(world, ann, **push))["allowed"] is False

    async def test_asking_about_others_takes_reading_tokens(self, world: World) -> None:
        await bind(world, "dev", "developer", "devs")
        ann = await make_member(world, "ann", "devs")
        question = {"verb": "status", "kind": "Replica"}
        assert await self.ask(world, ann, **question, subject="agent") == 403
        assert (await self.ask(world, ann, **question, subject="ann"))["allowed"] is False
        for name in ("agent", "system:agent"):
            answer = await self.ask(world, READER, **question, subject=name)
            assert answer["rule"] == "agent/report@system-agents"
        assert await self.ask(world, READER, **question, subject="nobody") == 404

    async def test_unknown_words_are_named(self, world: World) -> None:
        body = {"verb": "aply", "kind": "modle"}
        answer = await world.call("POST", "/authorization:check", body)
        assert answer.status_code == 422
        faults = {f["path"]: f["message"] for f in answer.json()["fields"]}
        assert "did you mean 'apply'?" in faults["verb"]
        assert "'Model'" in faults["kind"]


async def test_an_agent_does_what_agents_do_and_nothing_else(world: World) -> None:
    for path in ("/replicas", "/traffic-splits", "/jobs", "/environments"):
        assert await status(world, AGENT, "GET", path) == 200
    for path in ("/models", "/model-deployments", "/tokens", "/audit", "/role-bindings"):
        assert await status(world, AGENT, "GET", path) == 403
    assert await status(world, AGENT, "PUT", "/jobs/j", {"spec": {"command": ["x"]}}) == 403


class TestTheFirstStart:
    async def test_the_roles_are_there_and_bound_to_groups_of_their_name(
        self, world: World
    ) -> None:
        await ensure_roles(world.store)
        shown = await world.ok("GET", "/roles")
        names = [item["metadata"]["name"] for item in shown["items"]]
        assert names == sorted(role.metadata.name for role in BUILT_IN_ROLES)
        ann = await make_member(world, "ann", "developer")
        assert await status(world, ann, "GET", "/models") == 200

    async def test_a_later_start_changes_nothing_and_brings_no_binding_back(
        self, world: World
    ) -> None:
        await ensure_roles(world.store)
        await world.ok("DELETE", "/role-bindings/developer")
        before = await world.store.audit()
        await ensure_roles(world.store)
        assert await world.store.audit() == before
        assert await world.store.find(RoleBinding, "developer") is None

    async def test_a_built_in_role_that_was_altered_is_put_right(self, world: World) -> None:
        await ensure_roles(world.store)
        stored = await world.store.get(Role, "auditor")
        transaction = Transaction(SYSTEM)
        transaction.update(stored.with_spec(rules=()))
        await world.store.commit(transaction)
        await ensure_roles(world.store)
        assert (await world.store.get(Role, "auditor")).spec == stored.spec
        assert "built in" in await detail(world, ADMIN, "DELETE", "/roles/auditor")
        assert "built in" in await detail(world, ADMIN, "DELETE", "/role-bindings/admin")
