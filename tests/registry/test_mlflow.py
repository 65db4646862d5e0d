"""The MLflow adapter before a server that is slow, broken, hostile, or somebody else's."""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from modelplane.adapters.registry import mlflow, mlflow_http
from modelplane.adapters.registry.mlflow import MlflowRegistry
from modelplane.adapters.registry.mlflow_answers import (
    read_as,
    read_logged_model,
    read_model,
    read_run,
    read_version,
)
from modelplane.adapters.registry.mlflow_http import Credentials
from modelplane.adapters.registry.model_folder import read_model_folder
from modelplane.decisions.external import ExternalFiles, ExternalVersion
from modelplane.errors import NotFound
from modelplane.ports.registries import (
    ArtifactUnavailable,
    DigestMismatch,
    SourceRefused,
    SourceUnavailable,
)
from tests.registry.server import Server, serve

NOW = datetime(2026, 1, 5, tzinfo=UTC)
MODELS = "/mlflow/registered-models/search"
VERSIONS = "/mlflow/model-versions/search"
LIST = "/mlflow-artifacts/artifacts"
SECRET = "very-secret"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serve() as server:
        yield server


@pytest.fixture
async def registry(server: Server) -> AsyncIterator[MlflowRegistry]:
    token = Credentials(token=SECRET)
    roots = ("gs://bucket",)
    made = MlflowRegistry(server.url, token, 5.0, roots=roots, max_artifact_bytes=1000)
    yield made
    await made.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mp-registry-") as name:
        yield Path(name)


def version(source: str, **fields: Any) -> ExternalVersion:
    return ExternalVersion("fraud", 1, NOW, NOW, source=source, **fields)


def html(status: int) -> web.Response:
    return web.Response(status=status, text="<html>Sign in</html>", content_type="text/html")


def refusal(status: int, code: str, message: str = "why") -> web.Response:
    return web.json_response({"error_code": code, "message": message}, status=status)


@pytest.mark.parametrize(
    ("answer", "reason", "says"),
    [
        (lambda _: html(200), "NotMlflow", "status 200 with text/html"),
        (lambda _: html(404), "NotMlflow", "status 404 with text/html"),
        (lambda _: html(500), "ServerError", "status 500 with text/html"),
        (lambda _: html(502), "ServerError", "status 502"),
        (lambda _: refusal(500, "INTERNAL_ERROR", "database is locked"), "ServerError", "locked"),
        (lambda _: web.Response(status=429), "RateLimited", "429"),
        (b"", "NotMlflow", "where MLflow sends JSON"),
        (b"\xff\xfe\x00garbage", "NotMlflow", "where MLflow sends JSON"),
        (b"[1, 2]", "NotMlflow", "where MLflow sends JSON"),
        (b"[" * 100_000, "NotMlflow", "where MLflow sends JSON"),
        ({"registered_models": 3}, "NotMlflow", "no list"),
        ({"registered_models": [3]}, "NotMlflow", "has not the form"),
        ({"registered_models": [{"name": 3}]}, "NotMlflow", "has not the form"),
        (
            lambda _: web.Response(status=302, headers={"location": "http://evil/"}),
            "NotMlflow",
            "redirect",
        ),
    ],
)
async def test_what_came_instead_of_mlflow_is_told(
    server: Server, registry: MlflowRegistry, answer: Any, reason: str, says: str
) -> None:
    server.answers[MODELS] = answer
    with pytest.raises(SourceUnavailable) as caught:
        await registry.models()
    assert caught.value.reason == reason
    assert says in caught.value.message
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda _: refusal(401, "UNAUTHENTICATED"), "Unauthorized"),
        (lambda _: html(401), "Unauthorized"),
        (lambda _: refusal(403, "PERMISSION_DENIED"), "Forbidden"),
        (lambda _: refusal(400, "INVALID_PARAMETER_VALUE", "bad page"), "Rejected"),
    ],
)
async def test_being_refused_is_its_own_error(
    server: Server, registry: MlflowRegistry, answer: Any, reason: str
) -> None:
    server.answers[MODELS] = answer
    with pytest.raises(SourceRefused) as caught:
        await registry.models()
    assert caught.value.reason == reason


async def test_nobody_there_is_told() -> None:
    with socket.socket() as silent:  # holds the port and does not listen
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        registry = MlflowRegistry(f"http://me:{SECRET}@127.0.0.1:{port}", Credentials(), 5.0)
        with pytest.raises(SourceUnavailable) as caught:
            await registry.models()
    assert caught.value.reason == "Unreachable"
    assert SECRET not in str(caught.value)
    assert f"127.0.0.1:{port}" in str(caught.value)
    await registry.close()


async def test_a_server_that_does_not_answer_is_not_waited_for(server: Server) -> None:
    server.answers[MODELS] = {}
    server.delay_s = 30.0
    registry = MlflowRegistry(server.url, Credentials(), 0.1)
    with pytest.raises(SourceUnavailable) as caught:
        await registry.models()
    assert caught.value.reason == "TimedOut"
    await registry.close()


async def test_an_answer_without_end_is_not_read_to_the_end(
    server: Server, registry: MlflowRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_http, "MAX_ANSWER_BYTES", 1000)
    server.answers[MODELS] = b"{" + b" " * 2000 + b"}"
    with pytest.raises(SourceUnavailable, match="more than 1,000 bytes"):
        await registry.models()


async def test_pages_without_end_are_not_followed_for_ever(
    server: Server, registry: MlflowRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow, "_MAX_PAGES", 5)
    server.answers[MODELS] = {"registered_models": [], "next_page_token": "again"}
    with pytest.raises(SourceUnavailable, match="more than 5 pages"):
        await registry.models()


async def test_pages_are_followed_and_prompts_left_out(
    server: Server, registry: MlflowRegistry
) -> None:
    def page(request: web.Request) -> web.StreamResponse:
        names = {"": ["a", "b"], "2": ["b", "c"]}[request.query.get("page_token", "")]
        models: list[dict[str, Any]] = [{"name": name} for name in names]
        prompt = {"key": "mlflow.prompt.is_prompt", "value": "true"}
        models.append({"name": "prompt", "tags": [prompt]})
        token = "" if "page_token" in request.query else "2"
        return web.json_response({"registered_models": models, "next_page_token": token})

    server.answers[MODELS] = page
    assert [model.name for model in await registry.models()] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "wanted"),
    [("it's", 'name="it\'s"'), ('say "x"', "name='say \"x\"'"), ("""a'b"c""", None)],
)
async def test_names_with_quotes_are_asked_for_in_the_other_ones(
    server: Server, registry: MlflowRegistry, name: str, wanted: str | None
) -> None:
    filters = []

    def answer(request: web.Request) -> web.StreamResponse:
        filters.append(request.query.get("filter"))
        versions = [
            {"name": n, "version": "1", "creation_timestamp": 5, "source": "s"}
            for n in (name, "other")
        ]
        return web.json_response({"model_versions": versions})

    server.answers[VERSIONS] = answer
    assert [v.model for v in await registry.versions(name)] == [name]
    assert filters == [wanted]


@pytest.mark.parametrize(
    ("credentials", "header"),
    [
        (Credentials(token="t"), "Bearer t"),
        (Credentials(username="ana", password="p:w"), "Basic YW5hOnA6dw=="),
        (Credentials(), None),
    ],
)
async def test_credentials_are_sent_and_not_shown(
    server: Server, credentials: Credentials, header: str | None
) -> None:
    server.answers[MODELS] = {}
    registry = MlflowRegistry(server.url, credentials, 5.0)
    await registry.models()
    assert server.asked[0][2].get("authorization") == header
    assert repr(credentials) == "Credentials(…)"
    await registry.close()


def listing(*files: dict[str, Any]) -> dict[str, Any]:
    return {"files": list(files)}


async def test_files_in_folders_arrive(
    server: Server, registry: MlflowRegistry, folder: Path
) -> None:
    def answer(request: web.Request) -> web.StreamResponse:
        inner = request.query["path"].endswith("/code dir")
        files = [{"path": "a b.py", "file_size": 3}] if inner else [
            {"path": "model.skops", "file_size": "5"}, {"path": "code dir", "is_dir": True},
        ]  # fmt: skip
        return web.json_response({"files": files})

    server.answers[LIST] = answer
    server.answers[f"{LIST}/1/m/model.skops"] = b"model"
    server.answers[f"{LIST}/1/m/code dir/a b.py"] = b"x=1"
    await registry._files.copy("mlflow-artifacts:/1/m", folder)
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.*")}
    assert found == {"model.skops": b"model", "code dir/a b.py": b"x=1"}


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([], "ArtifactMissing"),
        ([{"path": "../../etc/passwd"}], "ArtifactRefused"),
        ([{"path": "..", "is_dir": True}], "ArtifactRefused"),
        ([{"path": "a/b"}], "ArtifactRefused"),
        ([{"path": "a\\b"}], "ArtifactRefused"),
        ([{"path": ""}], "ArtifactRefused"),
        ([{"path": "a\0b"}], "ArtifactRefused"),
        ([{"path": "model.skops", "file_size": 1001}], "ArtifactTooLarge"),
        ([{"path": "large.bin"}], "ArtifactTooLarge"),
        ([{"path": "model.skops", "file_size": 6}], "DigestMismatch"),
        ([{"path": "gone.bin", "file_size": 6}], "ArtifactMissing"),
    ],
)
async def test_files_that_cannot_be_taken_are_told(
    server: Server, registry: MlflowRegistry, folder: Path, files: Any, reason: str
) -> None:
    server.answers[LIST] = listing(*files)
    server.answers[f"{LIST}/1/m/model.skops"] = b"model"
    server.answers[f"{LIST}/1/m/large.bin"] = b"x" * 1001
    into = folder / "in"
    into.mkdir()
    with pytest.raises(ArtifactUnavailable) as caught:
        await registry.download(version("mlflow-artifacts:/1/m"), into)
    assert caught.value.reason == reason
    assert [p for p in folder.rglob("*") if p.is_file() and into not in p.parents] == []


async def test_folders_without_end_are_not_followed(
    server: Server, registry: MlflowRegistry, folder: Path
) -> None:
    server.answers[LIST] = listing({"path": "deeper", "is_dir": True})
    with pytest.raises(ArtifactUnavailable) as caught:
        await registry.download(version("mlflow-artifacts:/1"), folder)
    assert caught.value.reason == "ArtifactTooLarge"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "ArtifactMissing"),
        ("mlflow-artifacts:/../../etc", "ArtifactRefused"),
        ("mlflow-artifacts:/a/%2e%2e/b", "ArtifactRefused"),
        ("mlflow-artifacts://other:5000/1/m", "ArtifactRefused"),
        ("http://other:5000/api/2.0/mlflow-artifacts/artifacts/1/m", "ArtifactRefused"),
        ("http://169.254.169.254/latest", "ArtifactRefused"),
        ("ftp://host/file", "ArtifactUnsupported"),
        ("memory://files", "ArtifactUnsupported"),
        ("dbfs:/model", "ArtifactUnsupported"),
        ("gs://bucket/model", "ArtifactUnsupported"),
        ("/etc", "ArtifactRefused"),
        ("file:///etc/passwd", "ArtifactRefused"),
        ("file://host/etc/passwd", "ArtifactRefused"),
        ("relative/path", "ArtifactRefused"),
        ("runs:/gone/model", "ArtifactMissing"),
        ("models:/m-gone", "ArtifactMissing"),
        ("models:/gone/3", "ArtifactMissing"),
        ("models:/gone@champion", "ArtifactMissing"),
    ],
)
async def test_a_place_that_may_not_be_read_is_refused(
    registry: MlflowRegistry, folder: Path, source: str, reason: str
) -> None:
    with pytest.raises(ArtifactUnavailable) as caught:
        await registry.download(version(source), folder)
    assert caught.value.reason == reason
    assert list(folder.iterdir()) == []


async def test_a_run_that_names_itself_ends(
    server: Server, registry: MlflowRegistry, folder: Path
) -> None:
    info = {"run_id": "r", "artifact_uri": "runs:/r/x"}
    server.answers["/mlflow/runs/get"] = {"run": {"info": info}}
    with pytest.raises(ArtifactUnavailable) as caught:
        await registry.download(version("runs:/r/model"), folder)
    assert caught.value.reason == "ArtifactUnsupported"


async def test_local_files_are_read_only_below_allowed_folders(
    server: Server, folder: Path
) -> None:
    allowed, outside, into = folder / "allowed", folder / "outside", folder / "into"
    for path in (allowed / "model", outside, into):
        path.mkdir(parents=True)
    (allowed / "model" / "model.skops").write_bytes(b"model")
    (outside / "secret").write_bytes(b"secret")
    registry = MlflowRegistry(server.url, Credentials(), 5.0, roots=(str(allowed),))
    files = await registry.download(version(f"file://{allowed}/model"), into)
    assert files == ExternalFiles(format="skops", flavour="skops")
    assert (into / "model.skops").read_bytes() == b"model"

    (allowed / "link").symlink_to(outside)
    (allowed / "model" / "file").symlink_to(outside / "secret")
    sources = (
        str(outside), f"{allowed}/../outside", f"{allowed}/link", f"{allowed}/model",
        f"file://{allowed}/%2e%2e/outside",
    )  # fmt: skip
    for number, source in enumerate(sources):
        fresh = folder / f"into-{number}"
        fresh.mkdir()
        with pytest.raises(ArtifactUnavailable) as caught:
            await registry.download(version(source), fresh)
        assert caught.value.reason == "ArtifactRefused", source
        assert not (fresh / "secret").exists()
    with pytest.raises(ArtifactUnavailable) as caught:
        await registry.download(version(f"{allowed}/none"), into)
    assert caught.value.reason == "ArtifactMissing"
    await registry.close()


async def test_a_logged_model_and_its_run_are_described_together(
    server: Server, registry: MlflowRegistry
) -> None:
    metric = {"key": "auc", "value": 0.5, "step": 2, "timestamp": 1}
    server.answers["/mlflow/logged-models/m-1"] = {
        "model": {
            "info": {
                "model_id": "m-1",
                "artifact_uri": "mlflow-artifacts:/1",
                "source_run_id": "r",
            },
            "data": {"metrics": [metric], "params": [{"key": "C", "value": "1"}]},
        }
    }
    run: dict[str, Any] = {
        "info": {"run_id": "r", "user_id": "bea", "artifact_uri": "mlflow-artifacts:/2"},
        "data": {
            "metrics": [
                {**metric, "value": 0.9, "step": 7},
                {**metric, "value": 0.8, "step": 3},
                {"key": "loss", "value": "NaN"},
            ],
            "tags": [{"key": "team", "value": "risk"}],
        },
    }
    server.answers["/mlflow/runs/get"] = {"run": run}
    described = await registry.describe(version("models:/m-1"))
    assert (described.metrics, described.parameters) == ({"auc": 0.9}, {"C": "1"})
    assert (described.id, described.user, described.tags) == ("r", "bea", {"team": "risk"})
    # Logged at a later step: a checkpoint, whose own metrics say more about it.
    run["outputs"] = {"model_outputs": [{"model_id": "m-1", "step": 2}]}
    assert (await registry.describe(version("models:/m-1"))).metrics == {"auc": 0.5}
    del server.answers["/mlflow/runs/get"]
    assert (await registry.describe(version("models:/m-1"))).metrics == {"auc": 0.5}
    assert (await registry.describe(version("models:/m-2", run_id="gone"))).metrics == {}


async def test_what_is_not_there_is_not_found(server: Server, registry: MlflowRegistry) -> None:
    with pytest.raises(NotFound):
        await registry.set_alias("fraud", "champion", 1)
    await registry.delete_alias("fraud", "champion")
    await registry.set_tag("fraud", 1, "k", None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["name", "version", "tags", "aliases", "info", "data", "metrics", "key", "value",
             "creation_timestamp", "inputs", "dataset_inputs", "dataset", "schema"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
def test_any_other_answer_is_no_mlflow(data: Any) -> None:
    for reader in (read_model, read_version, read_run, read_logged_model):
        with contextlib.suppress(SourceUnavailable):
            read_as(reader, data)


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_a_model_folder_says_what_it_needs(folder: Path) -> None:
    signature = json.dumps([{"type": "double", "name": "a"}])
    document = {
        "flavors": {
            "python_function": {"python_version": "3.10.1"}, "sklearn": {"code": None},
        },
        "signature": {"inputs": signature, "outputs": None},
        "run_id": "r1", "model_size_bytes": 3,
        "saved_input_example_info": {"serving_input_path": "example.json"},
    }  # fmt: skip
    conda = "dependencies:\n- python=3.11.7\n- pip:\n  - numpy==2.0\n"
    write(
        folder, MLmodel=json.dumps(document), conda__yaml=conda,
        example__json='{"dataframe_split": {}}',
    )  # fmt: skip
    found = read_model_folder(folder)
    assert (found.format, found.flavour, found.run_id) == ("mlflow", "sklearn", "r1")
    assert (found.python, found.requirements, found.size_bytes) == ("3.11.7", "numpy==2.0", 3)
    assert found.signature == {"inputs": [{"type": "double", "name": "a"}]}
    assert found.input_example == {"dataframe_split": {}}
    write(folder, requirements__txt="scipy\n", python_env__yaml="python: 3.12.1\n")
    found = read_model_folder(folder)
    assert (found.python, found.requirements) == ("3.12.1", "scipy")


@pytest.mark.parametrize("text", ["", "[]", "a: [", "flavors: 3", "!!python/object:os.system {}"])
def test_an_mlmodel_file_that_is_none_is_refused(folder: Path, text: str) -> None:
    write(folder, MLmodel=text)
    with pytest.raises(ArtifactUnavailable) as caught:
        read_model_folder(folder)
    assert caught.value.reason == "ArtifactUnsupported"


def test_files_beside_it_that_cannot_be_read_say_nothing(folder: Path) -> None:
    document = {"flavors": {"onnx": {}}, "saved_input_example_info": {"serving_input_path": "../x"}}
    write(
        folder, MLmodel=json.dumps(document), conda__yaml="a: [", python_env__yaml="- 1\n",
        requirements__txt="x" * (2**20 + 1),
    )  # fmt: skip
    found = read_model_folder(folder)
    assert (found.flavour, found.requirements, found.python) == ("onnx", None, "")
    assert found.input_example is None


async def test_a_truncated_model_is_a_mismatch(
    server: Server, registry: MlflowRegistry, folder: Path
) -> None:
    document = json.dumps({"flavors": {"sklearn": {}}, "model_size_bytes": 500})
    server.answers[LIST] = listing({"path": "MLmodel"}, {"path": "model.skops"})
    server.answers[f"{LIST}/1/MLmodel"] = document.encode()
    server.answers[f"{LIST}/1/model.skops"] = b"short"
    with pytest.raises(DigestMismatch, match="500 bytes, there are 5"):
        await registry.download(version("mlflow-artifacts:/1"), folder)
