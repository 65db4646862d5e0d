"""A long sequence of calls of MLflow's client; prints what came of each as one line of JSON.

Run with MLflow's own Python against whatever registry the environment names. Results are
normalised, so that two registries with the same semantics print the same: times become their
order, tokens whether there is one, errors their code and message.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from searches import (  # type: ignore[import-not-found]
    MODEL_FILTERS,
    MODEL_ORDERS,
    VERSION_FILTERS,
    VERSION_ORDERS,
)

client = MlflowClient()
transcript: list[tuple[str, Any]] = []


def show(value: Any) -> Any:
    """Return a result as plain data that does not depend on when it was made."""
    if isinstance(value, ModelVersion):
        return {
            "name": value.name,
            "version": str(value.version),
            "updated": value.last_updated_timestamp > value.creation_timestamp,
            "times": value.creation_timestamp > 1_600_000_000_000,
            "stage": value.current_stage,
            "description": value.description,
            "source": value.source,
            "run_id": value.run_id,
            "run_link": value.run_link,
            "status": value.status,
            "status_message": value.status_message,
            "tags": dict(sorted(value.tags.items())),
            "aliases": sorted(value.aliases),
        }
    if isinstance(value, RegisteredModel):
        return {
            "name": value.name,
            "times": value.creation_timestamp > 1_600_000_000_000,
            "updated": value.last_updated_timestamp > value.creation_timestamp,
            "description": value.description,
            "latest": sorted((show(v) for v in value.latest_versions), key=lambda v: v["version"]),
            "tags": dict(sorted(value.tags.items())),
            "aliases": {k: str(v) for k, v in sorted(value.aliases.items())},
        }
    if isinstance(value, list):
        shown = [show(item) for item in value]
        token = getattr(value, "token", None)
        return {"items": shown, "more": bool(token)} if token is not None else shown
    return value


def call(label: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call the client, note what came of it, and return it."""
    try:
        result = function(*args, **kwargs)
    except MlflowException as error:
        transcript.append((label, {"error": error.error_code, "message": error.message}))
        return None
    except Exception as error:
        transcript.append((label, {"error": type(error).__name__, "message": str(error)[:200]}))
        return None
    transcript.append((label, show(result)))
    return result


def names(found: Any) -> list[Any] | None:
    """Return what a search found by name, or name and version."""
    if found is None:
        return None
    return [(f.name, str(f.version)) if isinstance(f, ModelVersion) else f.name for f in found]


def search(label: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Search, and note only what was found and whether there is more."""
    try:
        found = function(*args, **kwargs)
    except MlflowException as error:
        transcript.append((label, {"error": error.error_code, "message": error.message}))
        return None
    transcript.append((label, {"found": names(found), "more": bool(found.token)}))
    return found


def models() -> None:
    """Models, good and bad."""
    create = client.create_registered_model
    call("create", create, "fraud")
    call("create with all", create, "full", tags={"team": "risk", "n": 3}, description="words")
    call("create empty description", create, "empty", description="")
    call("create unicode", create, "modèle de fraude v1.0")
    call("create again", create, "fraud")
    for name in ("", "  ", "a/b", "a:b", ".", "..", "a/../b", "./a"):
        call(f"create {name!r}", create, name)
        call(f"get {name!r}", client.get_registered_model, name)
    call("create bad tag", create, "bad-tag", tags={"a//b": "x"})
    call("create bad tag characters", create, "bad-tag", tags={"a,b": "x"})
    call("create long tag key", create, "bad-tag", tags={"k" * 251: "x"})
    call("create long tag value", create, "bad-tag", tags={"k": "x" * 100_001})
    call("bad tag left nothing", client.get_registered_model, "bad-tag")
    call("get", client.get_registered_model, "fraud")
    call("get full", client.get_registered_model, "full")
    call("get unicode", client.get_registered_model, "modèle de fraude v1.0")
    call("get missing", client.get_registered_model, "nothing")
    call("update", client.update_registered_model, "fraud", "described")
    call("update to empty", client.update_registered_model, "full", "")
    call("update to none", client.update_registered_model, "fraud", None)
    call("update missing", client.update_registered_model, "nothing", "x")
    call("tag", client.set_registered_model_tag, "fraud", "team", "risk")
    call("tag again", client.set_registered_model_tag, "fraud", "team", "fraud")
    call("tag empty", client.set_registered_model_tag, "fraud", "empty", "")
    call("tag number", client.set_registered_model_tag, "fraud", "count", 3)
    call("tag none", client.set_registered_model_tag, "fraud", "none", None)
    call("tag slash", client.set_registered_model_tag, "fraud", "a/b", "c")
    call("tag bad", client.set_registered_model_tag, "fraud", "../x", "c")
    call("tag without key", client.set_registered_model_tag, "fraud", "", "c")
    call("tag missing model", client.set_registered_model_tag, "nothing", "a", "b")
    call("untag", client.delete_registered_model_tag, "fraud", "empty")
    call("untag again", client.delete_registered_model_tag, "fraud", "empty")
    call("untag missing model", client.delete_registered_model_tag, "nothing", "empty")
    call("tagged", client.get_registered_model, "fraud")


def versions() -> None:
    """Versions, good and bad."""
    create = client.create_model_version
    call("version", create, "fraud", "s3://bucket/models/1")
    call(
        "version with all",
        create,
        "fraud",
        "s3://bucket/models/2",
        run_id="0123456789abcdef",
        tags={"stage": "x", "n": 1},
        run_link="http://host/run",
        description="second",
    )
    sources()


def sources() -> None:
    """Where a version's files may be said to be."""
    create = client.create_model_version
    call("version of missing", create, "nothing", "s3://bucket/models/1")
    call("version of bad name", create, "a/b", "s3://bucket/models/1")
    call("version without source", create, "fraud", "")
    call("version bad tag", create, "fraud", "s3://bucket/1", tags={"/": "x"})
    call("version run", create, "fraud", "runs:/abc/model", run_id="abc")
    call("version other run", create, "fraud", "runs:/abc/model", run_id="def")
    call("version no run", create, "fraud", "runs:/abc/model")
    call("version local", create, "fraud", "/tmp/model")
    call("version local file", create, "fraud", "file:///tmp/model")
    call("version remote file", create, "fraud", "file://host/tmp/model")
    call("version relative", create, "fraud", "s3://bucket/../x")
    call("version encoded relative", create, "fraud", "s3://bucket/%2e%2e/x")
    call("version no path", create, "fraud", "s3://bucket")
    call("version artifacts", create, "fraud", "mlflow-artifacts:/1/x")
    call("version logged model", create, "fraud", "models:/m-123")
    call("version of a host", create, "fraud", "models://host/m-123")
    call("version copy", create, "full", "models:/fraud/1")
    call("version copy missing", create, "full", "models:/fraud/77")
    call("version copy missing model", create, "full", "models:/nothing/1")
    call("version copy latest", create, "full", "models:/fraud/latest")
    call("version copy stage", create, "full", "models:/fraud/Staging")
    call("version copy other run", create, "full", "models:/fraud/1", run_id="other")
    found_and_changed()


def found_and_changed() -> None:
    """Versions that are there, and those that are not: found, copied, described, tagged."""
    source = call("get", client.get_model_version, "fraud", "2")
    if source is not None:
        call("copy", client.copy_model_version, source, "copied")
        call("copied", client.get_registered_model, "copied")
        call("copied uri", client.get_model_version_download_uri, "copied", "1")
    call("get int", client.get_model_version, "fraud", 1)
    for version in ("0", "99", "x", "1.0", "-1", "", "1.0.0"):
        call(f"get {version!r}", client.get_model_version, "fraud", version)
        call(f"delete {version!r}", client.delete_model_version, "fraud", version)
        call(f"uri {version!r}", client.get_model_version_download_uri, "fraud", version)
    call("get of missing", client.get_model_version, "nothing", "1")
    call("uri", client.get_model_version_download_uri, "fraud", "1")
    call("describe", client.update_model_version, "fraud", "1", "words")
    call("describe empty", client.update_model_version, "fraud", "1", "")
    call("describe none", client.update_model_version, "fraud", "1", None)
    call("described none", client.get_model_version, "fraud", "1")
    call("describe missing", client.update_model_version, "fraud", "99", "x")
    call("tag", client.set_model_version_tag, "fraud", "1", "checked", "yes")
    call("tag empty", client.set_model_version_tag, "fraud", "1", "empty", "")
    call("tag by stage", client.set_model_version_tag, "fraud", stage="None", key="by", value="s")
    call("tag missing", client.set_model_version_tag, "fraud", "99", "a", "b")
    call("tag bad", client.set_model_version_tag, "fraud", "1", "a//b", "b")
    call("tag bad version", client.set_model_version_tag, "fraud", "x", "a", "b")
    call("untag", client.delete_model_version_tag, "fraud", "1", "empty")
    call("untag again", client.delete_model_version_tag, "fraud", "1", "empty")
    call("untag missing", client.delete_model_version_tag, "fraud", "99", "empty")
    call("tagged", client.get_model_version, "fraud", "1")
    call("model", client.get_registered_model, "fraud")


def aliases() -> None:
    """Aliases, good and bad."""
    put, get = client.set_registered_model_alias, client.get_model_version_by_alias
    call("alias", put, "fraud", "champion", "1")
    call("alias second", put, "fraud", "best_one-1", "1")
    call("alias moved", put, "fraud", "champion", "2")
    call("alias again", put, "fraud", "champion", "2")
    call("alias int", put, "fraud", "other", 2)
    call("alias digits", put, "fraud", "123", 2)
    call("alias unicode", put, "fraud", "mäster", 2)
    bad = ("latest", "LATEST", "v1", "V22", "a.b", "a b", "a/b", "", "x" * 256)
    for alias in (*bad, "version1", "v1a"):
        call(f"alias {alias[:20]!r}", put, "fraud", alias, "1")
        call(f"by alias {alias[:20]!r}", get, "fraud", alias)
        call(f"delete alias {alias[:20]!r}", client.delete_registered_model_alias, "fraud", alias)
    call("alias missing version", put, "fraud", "champion", "99")
    call("alias bad version", put, "fraud", "champion", "x")
    call("alias missing model", put, "nothing", "champion", "1")
    call("by alias", get, "fraud", "champion")
    call("by alias unicode", get, "fraud", "mäster")
    call("by alias case", get, "fraud", "Champion")
    call("by alias missing", get, "fraud", "nobody")
    call("by alias missing model", get, "nothing", "champion")
    call("by latest of none", get, "empty", "latest")
    call("aliased", client.get_registered_model, "fraud")
    call("aliased version", client.get_model_version, "fraud", "2")
    call("delete alias", client.delete_registered_model_alias, "fraud", "other")
    call("delete alias again", client.delete_registered_model_alias, "fraud", "other")
    call("delete alias of missing", client.delete_registered_model_alias, "nothing", "other")
    call("by alias deleted", get, "fraud", "other")
    call("uri by alias", client.get_model_version_by_alias, "fraud", "champion")


def stages() -> None:
    """Stages, latest versions."""
    move, latest = client.transition_model_version_stage, client.get_latest_versions
    call("latest", latest, "fraud")
    call("latest of none", latest, "empty")
    call("latest of missing", latest, "nothing")
    call("to staging", move, "fraud", "1", "Staging")
    call("to production", move, "fraud", "2", "production")
    call("latest of all", latest, "fraud")
    call("latest staging", latest, "fraud", ["Staging"])
    call("latest two", latest, "fraud", ["staging", "PRODUCTION"])
    call("latest none", latest, "fraud", ["None"])
    call("latest archived", latest, "fraud", ["Archived"])
    call("latest bad stage", latest, "fraud", ["Live"])
    call("stages", client.get_model_version_stages, "fraud", "1")
    call("archive", move, "fraud", "3", "Production", archive_existing_versions=True)
    call("archived", client.get_model_version, "fraud", "2")
    call("archive what is archived", move, "fraud", "1", "Archived", True)
    call("to none", move, "fraud", "3", "None")
    call("bad stage", move, "fraud", "1", "Live")
    call("empty stage", move, "fraud", "1", "")
    call("missing version", move, "fraud", "99", "Staging")
    call("missing version with archive", move, "fraud", "99", "Staging", True)
    call("bad version", move, "fraud", "x", "Staging")
    call("missing model", move, "nothing", "1", "Staging")
    call("kept", client.get_model_version, "fraud", "1")
    call("model", client.get_registered_model, "fraud")


def searches() -> None:
    """Searches: filters, orders, pages."""
    for number in range(55):
        tags = {"parity": "odd" if number % 2 else "even", "n": str(number)}
        client.create_model_version("bulk", f"s3://b/{number}", f"run{number % 3}", tags)
    # neither counts as an update
    client.set_registered_model_tag("empty", "late", "tag")
    client.set_model_version_tag("bulk", "3", "late", "tag")
    client.set_registered_model_alias("full", "late", "1")
    versions, models = client.search_model_versions, client.search_registered_models
    for text in VERSION_FILTERS:
        for order in ([], ["version_number ASC"]):
            search(f"versions {text!r} {order}", versions, text, order_by=order)
    for order in VERSION_ORDERS:
        search(f"versions ordered {order}", versions, "name = 'bulk'", 5, order)
    for limit in (0, -1, 1, 55, 56, 200_000, 200_001, 10**9):
        search(f"versions at most {limit}", versions, "name = 'bulk'", max_results=limit)
    for text in MODEL_FILTERS:
        search(f"models {text!r}", models, text)
    for order in MODEL_ORDERS:
        search(f"models ordered {order}", models, order_by=order)
    for limit in (1, 2, 1000, 1001):
        search(f"models at most {limit}", models, max_results=limit)
    search("versions bad token", versions, "name = 'bulk'", page_token="nonsense")
    search("models bad token", models, page_token="nonsense")
    pages(versions, 7, "name = 'bulk' and tag.parity = 'odd'", ["version_number DESC"])
    pages(versions, 13, "name = 'bulk'", ["last_updated_timestamp ASC"])
    pages(versions, 20, "name = 'bulk'", [])
    pages(models, 2, None, ["name DESC"])
    call("searched version", lambda: versions("name = 'fraud' and version_number = 1"))
    call("searched model", lambda: models("name = 'fraud'"))


def pages(function: Callable[..., Any], size: int, text: str | None, order: list[str]) -> None:
    """Follow the pages of a search to the end."""
    seen: list[Any] = []
    sizes: list[int] = []
    token = None
    while len(sizes) < 100:
        page = function(text, max_results=size, order_by=order, page_token=token)
        seen += names(page) or []
        sizes.append(len(page))
        token = page.token
        if not token:
            break
    transcript.append((f"pages of {size} of {text!r} {order}", {"seen": seen, "sizes": sizes}))


def prompts() -> None:
    """Prompts live among the models, and searches leave them out."""
    tag = {"mlflow.prompt.is_prompt": "true"}
    create, version = client.create_registered_model, client.create_model_version
    call("prompt", create, "greeting", tags=tag)
    call("prompt as model", create, "greeting")
    call("model as prompt", create, "fraud", tags=tag)
    call("prompt again", create, "greeting", tags=tag)
    call("prompt version", version, "greeting", "dummy-source", tags=tag)
    call("prompt version elsewhere", version, "greeting", "s3://bucket/x", tags=tag)
    call("model from prompt", version, "fraud", "models:/greeting/1")
    call("model from placeholder", version, "fraud", "dummy-source")
    search("models without prompts", client.search_registered_models, "name = 'greeting'")
    search("versions without prompts", client.search_model_versions, "name = 'greeting'")
    for text in ("= 'true'", "!= 'true'", "= 'false'", "!= 'false'", "= 'TRUE'"):
        wanted = f"tags.`mlflow.prompt.is_prompt` {text}"
        search(f"models {text}", client.search_registered_models, wanted)
        wanted += " and name LIKE 'gree%'"
        search(f"versions {text}", client.search_model_versions, wanted)
    call("delete prompt", client.delete_registered_model, "greeting")


def endings() -> None:
    """Renaming and deleting."""
    rename = client.rename_registered_model
    call("rename", rename, "fraud", "fraud 2.0")
    call("rename to itself", rename, "bulk", "bulk")
    search("renamed to itself", client.search_model_versions, "", max_results=3)
    call("rename missing", rename, "fraud", "other")
    call("rename onto existing", rename, "fraud 2.0", "full")
    call("rename bad", rename, "fraud 2.0", "a/b")
    call("rename empty", rename, "fraud 2.0", "")
    call("renamed", client.get_registered_model, "fraud 2.0")
    call("old name", client.get_registered_model, "fraud")
    call("renamed version", client.get_model_version, "fraud 2.0", "1")
    call("old version", client.get_model_version, "fraud", "1")
    call("renamed alias", client.get_model_version_by_alias, "fraud 2.0", "champion")
    call("next of renamed", client.create_model_version, "fraud 2.0", "s3://b/x")
    call("delete version", client.delete_model_version, "fraud 2.0", "2")
    call("delete version again", client.delete_model_version, "fraud 2.0", "2")
    call("deleted version", client.get_model_version, "fraud 2.0", "2")
    call("deleted uri", client.get_model_version_download_uri, "fraud 2.0", "2")
    call("alias to deleted", client.set_registered_model_alias, "fraud 2.0", "x", "2")
    call("alias of deleted", client.get_model_version_by_alias, "fraud 2.0", "champion")
    call("after deletion", client.get_registered_model, "fraud 2.0")
    search("search deleted", client.search_model_versions, "name = 'fraud 2.0'")
    call("delete newest", client.delete_model_version, "fraud 2.0", "4")
    call("number after deletion", client.create_model_version, "fraud 2.0", "s3://b/y")
    call("delete model", client.delete_registered_model, "fraud 2.0")
    call("delete model again", client.delete_registered_model, "fraud 2.0")
    call("deleted model", client.get_registered_model, "fraud 2.0")
    search("versions of deleted", client.search_model_versions, "name = 'fraud 2.0'")
    call("create again", client.create_registered_model, "fraud 2.0")
    call("first again", client.create_model_version, "fraud 2.0", "s3://b/z")
    call("alias again", client.set_registered_model_alias, "fraud 2.0", "champion", "1")
    call("all again", client.get_registered_model, "fraud 2.0")
    call("rename to used name", rename, "full", "fraud")
    call("first of used name", client.get_model_version, "fraud", "1")
    call("alias of used name", client.set_registered_model_alias, "fraud", "champion", "1")
    call("used name", client.get_registered_model, "fraud")


def main() -> None:
    """Do it all in one order."""
    parts = (("models", models), ("versions", versions), ("aliases", aliases), ("stages", stages))
    for title, part in parts:
        transcript.append((f"== {title}", None))
        part()
    client.create_registered_model("bulk")
    transcript.append(("== searches", None))
    searches()
    transcript.append(("== prompts", None))
    prompts()
    transcript.append(("== endings", None))
    endings()
    print(json.dumps(transcript))


if __name__ == "__main__":
    main()
