"""modelplane as MLflow's registry, in process: what the clients' own tests cannot show.

That the client sees MLflow's semantics is proved beside a real server in `tests/e2e`; here stand
the door, the history that MLflow does not keep, what is refused, and many callers at once.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import httpx
import pytest

from modelplane.api.mlflow.routes import ENDPOINTS, PREFIX
from modelplane.ports.store import Transaction
from modelplane.resources.model import AliasMove, Model, ModelVersion
from tests.api.world import ADMIN, READER, SYSTEM, World

BEARER = {"authorization": f"Bearer {ADMIN}"}


async def ask(
    world: World,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] = MappingProxyType(BEARER),
    **values: Any,
) -> httpx.Response:
    """Send one request as MLflow's client sends it."""
    address, sent = f"{PREFIX}/{path}", dict(headers)
    if method == "GET":
        return await world.http.request(method, address, headers=sent, params=values)
    return await world.http.request(method, address, headers=sent, json=values)


async def ok(world: World, method: str, path: str, **values: Any) -> Any:
    response = await ask(world, method, path, **values)
    assert response.status_code == 200, response.text
    return response.json()


async def make_model(world: World, name: str, versions: int = 1) -> None:
    await ok(world, "POST", "registered-models/create", name=name)
    for number in range(1, versions + 1):
        await ok(world, "POST", "model-versions/create", name=name, source=f"s3://b/{number}")


class TestDoor:
    async def test_every_endpoint_wants_a_token(self, world: World) -> None:
        for endpoint in ENDPOINTS:
            for header in ({"x": "y"}, {"authorization": "Bearer no"}):
                response = await ask(world, endpoint.method, endpoint.path, headers=header)
                assert response.status_code == 401, endpoint.path
                assert response.json()["error_code"] == "UNAUTHENTICATED"
                assert response.headers["www-authenticate"] == "Bearer"
        for path in ("experiments/search", "../mlflow-artifacts/artifacts"):
            assert (await ask(world, "GET", path, headers={"x": "y"})).status_code == 401

    async def test_a_reader_reads_and_changes_nothing(self, world: World) -> None:
        await make_model(world, "fraud")
        before = await world.store.audit()
        reader = {"authorization": f"Bearer {READER}"}
        for endpoint in ENDPOINTS:
            values = {parameter.name: "1" for parameter in endpoint.parameters}
            response = await ask(
                world, endpoint.method, endpoint.path, headers=reader, **values | {"name": "fraud"}
            )
            if endpoint.verb in {"get", "list"}:
                assert response.status_code != 403, endpoint.path
            else:
                assert response.status_code == 403, endpoint.path
                assert response.json()["error_code"] == "PERMISSION_DENIED"
                assert "default-deny" in response.json()["message"]
        assert await world.store.audit() == before

    @pytest.mark.parametrize("user", ["", "anybody"])
    async def test_a_password_is_a_token(self, world: World, user: str) -> None:
        pair = base64.b64encode(f"{user}:{ADMIN}".encode()).decode()
        header = {"authorization": f"Basic {pair}"}
        response = await ask(world, "GET", "registered-models/search", headers=header)
        assert response.status_code == 200

    @pytest.mark.parametrize("given", ["Basic", "Basic ???", "Basic YWRtaW4=", "Basic /w=="])
    async def test_half_a_password_is_none(self, world: World, given: str) -> None:
        header = {"authorization": given}
        response = await ask(world, "GET", "registered-models/search", headers=header)
        assert response.status_code == 401

    async def test_what_belongs_to_a_tracking_server_says_so(self, world: World) -> None:
        response = await ask(world, "GET", "experiments/get", experiment_id="0")
        assert response.status_code == 404
        assert response.json()["error_code"] == "ENDPOINT_NOT_FOUND"
        assert "set_tracking_uri" in response.json()["message"]

    @pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"\xff", b'{"name": 1e999}'])
    async def test_a_body_that_is_no_object_is_refused(self, world: World, body: bytes) -> None:
        response = await world.http.post(
            f"{PREFIX}/registered-models/create", content=body, headers=BEARER
        )
        assert response.status_code == 400
        assert response.json()["error_code"] == "INVALID_PARAMETER_VALUE"

    async def test_names_that_modelplane_cannot_hold_are_refused_with_its_rule(
        self, world: World
    ) -> None:
        response = await ask(world, "POST", "registered-models/create", name="a@b")
        assert response.status_code == 400
        assert "without" in response.json()["message"]


class TestRecords:
    async def test_a_version_is_a_record_of_the_registry(self, world: World) -> None:
        await make_model(world, "Fraud model")
        tags = [{"key": "team", "value": "risk"}]
        body = {"name": "Fraud model", "source": "s3://b/2", "run_id": "r2", "tags": tags}
        await ok(world, "POST", "model-versions/create", **body)
        found = await world.ok("GET", "/model-versions/Fraud model@2.0.0")
        assert found["spec"]["number"] == 2
        assert found["spec"]["author"] == "admin"
        assert found["spec"]["source"] == "s3://b/2"
        assert found["spec"]["training"]["runId"] == "r2"
        assert "artifact" not in found["spec"]
        assert found["status"]["tags"] == {"team": "risk"}

    async def test_a_pushed_version_is_seen_and_its_files_are_read(self, world: World) -> None:
        pushed = (await world.push("fraud", "1.2.0", content="bytes"))["resource"]["spec"]
        got = await ok(world, "GET", "model-versions/get", name="fraud", version="1")
        assert got["model_version"]["source"] == f"modelplane:/{pushed['id']}"
        uri = await ok(world, "GET", "model-versions/get-download-uri", name="fraud", version="1")
        address, _, path = uri["artifact_uri"].partition("/artifacts/")
        assert path == f"modelplane/{pushed['id']}"
        listed = await world.http.get(f"{address}/artifacts", params={"path": path}, headers=BEARER)
        assert listed.json() == {"files": [{"path": "model", "is_dir": False, "file_size": 5}]}
        file = await world.http.get(f"{uri['artifact_uri']}/model", headers=BEARER)
        assert file.content == b"bytes"
        for wrong in ("nothing", "../model", "model/x", ""):
            response = await world.http.get(f"{uri['artifact_uri']}/{wrong}", headers=BEARER)
            assert response.status_code in {400, 404}, wrong

    async def test_every_move_of_an_alias_has_a_history(self, world: World) -> None:
        await make_model(world, "fraud", versions=2)
        for version in ("1", "2", "2"):
            await ok(
                world, "POST", "registered-models/alias", name="fraud", alias="a", version=version
            )
        await ok(world, "DELETE", "model-versions/delete", name="fraud", version="2")
        moves, _ = await world.store.list(AliasMove, prefix="fraud@")
        steps = [(m.spec.before, m.spec.after, m.spec.subject) for m in moves]
        assert steps == [
            (None, "1.0.0", "admin"),
            ("1.0.0", "2.0.0", "admin"),
            ("2.0.0", None, "admin"),
        ]

    async def test_a_deleted_model_leaves_its_records_and_its_name_begins_anew(
        self, world: World
    ) -> None:
        await make_model(world, "fraud", versions=2)
        await ok(world, "POST", "registered-models/alias", name="fraud", alias="a", version="1")
        await ok(world, "DELETE", "registered-models/delete", name="fraud")
        assert await world.store.find(Model, "fraud") is None
        old = await world.store.get(ModelVersion, "fraud@1.0.0")
        assert old.status.deleted_at is not None
        await make_model(world, "fraud")
        await ok(world, "POST", "registered-models/alias", name="fraud", alias="a", version="1")
        new = await world.store.get(ModelVersion, "fraud@1.0.1")
        assert (new.spec.number, new.status.deleted_at) == (1, None)
        moves, _ = await world.store.list(AliasMove, prefix="fraud@")
        assert [m.spec.after for m in moves] == ["1.0.0", None, "1.0.1"]

    async def test_a_renamed_model_keeps_what_it_has(self, world: World) -> None:
        pushed = (await world.push("fraud", "1.2.0", tags={"a": "b"}))["resource"]["spec"]
        await ok(world, "POST", "registered-models/alias", name="fraud", alias="a", version="1")
        before = await ok(world, "GET", "model-versions/get", name="fraud", version="1")
        await ok(world, "POST", "registered-models/rename", name="fraud", new_name="risk")
        after = await ok(world, "GET", "registered-models/alias", name="risk", alias="a")
        kept = ("version", "tags", "aliases", "creation_timestamp", "user_id")
        for field in kept:
            assert after["model_version"][field] == before["model_version"][field], field
        renamed = await world.store.get(ModelVersion, "risk@1.2.0")
        assert renamed.spec.artifact is not None
        assert renamed.spec.artifact.digest == pushed["artifact"]["digest"]
        assert renamed.spec.id not in {"", pushed["id"]}
        labels = {label.id for label in await world.blobs.labels()}
        assert renamed.spec.id in labels
        old = await world.store.get(ModelVersion, "fraud@1.2.0")
        assert old.status.deleted_at is not None

    async def test_a_copy_takes_the_files_along(self, world: World) -> None:
        await world.push("fraud", "1.2.0", metrics={"auc": 0.9})
        await ok(world, "POST", "registered-models/create", name="live")
        body = {"name": "live", "source": "models:/fraud/1"}
        await ok(world, "POST", "model-versions/create", **body)
        copy = await world.store.get(ModelVersion, "live@1.0.0")
        assert copy.spec.artifact is not None
        assert copy.spec.metrics == {"auc": 0.9}
        shown = await ok(world, "GET", "model-versions/get", name="live", version="1")
        assert shown["model_version"]["source"] == "models:/fraud/1"


class TestRefusals:
    async def test_what_is_deployed_stays(self, world: World) -> None:
        await world.push("fraud", "1.0.0")
        await world.deploy("fraud", version="1.0.0")
        before = await world.store.audit()
        refused: tuple[tuple[str, str, dict[str, Any]], ...] = (
            ("DELETE", "model-versions/delete", {"version": "1"}),
            ("DELETE", "registered-models/delete", {}),
            ("POST", "registered-models/rename", {"new_name": "other"}),
        )
        for method, path, more in refused:
            response = await ask(world, method, path, name="fraud", **more)
            assert response.status_code == 409, path
            assert response.json()["error_code"] == "INVALID_STATE"
            assert "production/fraud" in response.json()["message"]
        assert await world.store.audit() == before

    async def test_what_is_watched_elsewhere_is_changed_there(self, world: World) -> None:
        await make_model(world, "fraud")
        model = await world.store.get(Model, "fraud")
        transaction = Transaction(SYSTEM)
        transaction.update(model.with_status(source="team-mlflow"))
        await world.store.commit(transaction)
        refused: tuple[tuple[str, str, dict[str, Any]], ...] = (
            ("POST", "model-versions/create", {"source": "s3://b/1"}),
            ("DELETE", "model-versions/delete", {"version": "1"}),
            ("DELETE", "registered-models/delete", {}),
            ("POST", "registered-models/rename", {"new_name": "other"}),
        )
        for method, path, more in refused:
            response = await ask(world, method, path, name="fraud", **more)
            assert response.status_code == 409, path
            assert "team-mlflow" in response.json()["message"]


class TestProduction:
    async def move(self, world: World, version: str, stage: str = "Production") -> httpx.Response:
        values: dict[str, Any] = {"name": "fraud", "version": version, "stage": stage}
        return await ask(world, "POST", "model-versions/transition-stage", **values)

    async def stage_of(self, world: World, version: str) -> str:
        got = await ok(world, "GET", "model-versions/get", name="fraud", version=version)
        stage: str = got["model_version"]["current_stage"]
        return stage

    async def test_a_transition_to_production_promotes(self, world: World) -> None:
        await world.push("fraud", "1.0.0")
        await world.deploy("fraud", version="1.0.0")
        await world.push("fraud", "1.1.0")
        response = await self.move(world, "2")
        assert response.status_code == 200, response.text
        assert await self.stage_of(world, "2") == "Production"
        promotions = await world.ok("GET", "/promotions")
        newest = max(promotions["items"], key=lambda p: p["spec"]["ordinal"])["spec"]
        assert newest["revision"]["version"] == "1.1.0"
        assert "MLflow" in newest["reason"]
        count = len(promotions["items"])
        assert (await self.move(world, "2")).status_code == 200
        assert len((await world.ok("GET", "/promotions"))["items"]) == count

    async def test_where_nothing_is_deployed_the_stage_is_set_and_the_lack_noted(
        self, world: World
    ) -> None:
        await make_model(world, "fraud")
        assert (await self.move(world, "1")).status_code == 200
        assert await self.stage_of(world, "1") == "Production"
        notes = [r for r in await world.store.audit() if r.action == "not-promoted"]
        assert "no deployment" in notes[0].details["reason"]

    async def test_a_refused_promotion_leaves_the_stage(self, world: World) -> None:
        await world.push("fraud", "1.0.0")
        await world.deploy("fraud", version="1.0.0")
        await ok(world, "POST", "model-versions/create", name="fraud", source="s3://b/2")
        response = await self.move(world, "2")
        assert response.status_code == 400
        assert response.json()["error_code"] == "INVALID_STATE"
        assert "files are not here" in response.json()["message"]
        assert await self.stage_of(world, "2") == "None"

    async def test_other_stages_promote_nothing(self, world: World) -> None:
        await world.push("fraud", "1.0.0")
        await world.deploy("fraud", version="1.0.0")
        await world.push("fraud", "1.1.0")
        before = await world.ok("GET", "/promotions")
        for stage in ("Staging", "Archived", "None"):
            assert (await self.move(world, "2", stage)).status_code == 200
        assert (await world.ok("GET", "/promotions"))["items"] == before["items"]


class TestManyAtOnce:
    async def test_many_register_versions_of_one_model(self, world: World) -> None:
        await ok(world, "POST", "registered-models/create", name="fraud")
        calls = [
            ok(world, "POST", "model-versions/create", name="fraud", source=f"s3://b/{n}")
            for n in range(60)
        ]
        made = await asyncio.gather(*calls)
        numbers = sorted(int(m["model_version"]["version"]) for m in made)
        assert numbers == list(range(1, 61))

    async def test_renames_and_registrations_do_not_cross(self, world: World) -> None:
        await make_model(world, "a", versions=3)
        await make_model(world, "b", versions=3)
        calls = [
            ask(world, "POST", "registered-models/rename", name="a", new_name="c"),
            ask(world, "POST", "registered-models/rename", name="b", new_name="a"),
            ask(world, "POST", "model-versions/create", name="a", source="s3://b/4"),
            ask(world, "POST", "registered-models/rename", name="c", new_name="b"),
        ]
        answers = await asyncio.gather(*calls)
        assert all(answer.status_code in {200, 400, 404} for answer in answers)
        found = await ok(world, "GET", "model-versions/search")
        by_model: dict[str, set[str]] = {}
        for version in found["model_versions"]:
            by_model.setdefault(version["name"], set()).add(version["version"])
        assert len(by_model) == 2
        assert all({"1", "2", "3"} <= numbers for numbers in by_model.values())

    async def test_a_page_goes_on_where_it_was_while_versions_are_registered(
        self, world: World
    ) -> None:
        await make_model(world, "fraud", versions=9)
        query: dict[str, Any] = {"filter": "name = 'fraud'", "max_results": 4}
        first = await ok(world, "GET", "model-versions/search", **query)
        seen = [v["version"] for v in first["model_versions"]]
        token = first["next_page_token"]
        await world.clock.advance(1)
        await ok(world, "POST", "model-versions/create", name="fraud", source="s3://b/new")
        while token:
            page = await ok(world, "GET", "model-versions/search", page_token=token, **query)
            seen += [v["version"] for v in page["model_versions"]]
            token = page.get("next_page_token")
        assert seen == [str(n) for n in range(9, 0, -1)]
