"""apply, diff and validate: everything is checked first, and what happened is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelplane.errors import NotFound, TransientError
from modelplane.resources.manifest import read_documents
from tests.cli.conftest import Run
from tests.cli.fakes import FakeClient, deployment, promotion, rollout, split_of

FRAUD = """\
apiVersion: mcp.example/v1
kind: ModelDeployment
metadata: {name: fraud}
spec: {modelVersion: v1.2.0}
strategy: {canary: {traffic: 10%}}
"""
MODEL = """\
apiVersion: modelplane.dev/v1
kind: Model
metadata: {name: fraud, labels: {team: risk}}
"""
WRONG = """\
apiVersion: modelplane.dev/v1
kind: ModelDeployment
metadata: {name: fraud}
spec: {replcas: 3, canaryTraffic: 101%}
"""


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    file = tmp_path / "fraud.yaml"
    file.write_text(FRAUD)
    return str(file)


def test_apply_says_what_was_created_and_which_promotion_it_made(
    run: Run, client: FakeClient, manifest: str
) -> None:
    client.made_promotion = promotion("1.2.0")
    client.warnings = ("this version has not been in staging",)
    result = run("apply", "-f", manifest, "--reason", "retrained")
    assert result.exit_code == 0
    assert result.stdout == (
        "modeldeployment/fraud created in production\n  promotion fraud-2 to version 1.2.0\n"
    )
    assert result.stderr == "warning: this version has not been in staging\n"
    assert client.asked == [("apply", "ModelDeployment production/fraud", False, "retrained")]


def test_applying_again_says_unchanged(run: Run, manifest: str) -> None:
    run("apply", "-f", manifest)
    result = run("apply", "-f", manifest)
    assert result.stdout == "modeldeployment/fraud unchanged in production\n"


def test_apply_of_a_folder_sends_models_before_deployments(
    run: Run, client: FakeClient, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(FRAUD)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "z.yml").write_text(MODEL)
    (tmp_path / "notes.txt").write_text("not a manifest")
    result = run("apply", "-f", str(tmp_path), "-o", "json")
    assert [item["kind"] for item in json.loads(result.stdout)] == ["Model", "ModelDeployment"]
    assert [asked[1] for asked in client.asked] == [
        "Model fraud",
        "ModelDeployment production/fraud",
    ]


def test_one_bad_document_keeps_all_from_being_sent(
    run: Run, client: FakeClient, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(MODEL)
    (tmp_path / "b.yaml").write_text(WRONG)
    (tmp_path / "c.yaml").write_text("a: b: c")
    result = run("apply", "-f", str(tmp_path))
    assert result.exit_code == 2
    assert client.asked == []
    assert "2 files are not valid" in result.stderr
    assert f"{tmp_path}/b.yaml: spec.replcas: unknown field; did you mean" in result.stderr
    assert "c.yaml: not YAML: line 1, column 5" in result.stderr


def test_dry_run_changes_nothing(run: Run, client: FakeClient, manifest: str) -> None:
    result = run("apply", "-f", manifest, "--dry-run", "--wait")
    assert result.stdout == "modeldeployment/fraud created in production (dry run)\n"
    assert client.resources == {}


def test_apply_reads_standard_input(run: Run, client: FakeClient) -> None:
    assert run("apply", "-f", "-", input=FRAUD).exit_code == 0
    assert len(client.resources) == 1


def test_apply_wait_follows_the_rollout_over_an_absence_of_the_control_plane(
    run: Run, client: FakeClient, manifest: str
) -> None:
    client.made_promotion = promotion()
    client.play(
        "Promotion",
        promotion(),
        TransientError("nobody answers"),
        promotion(phase="RollingOut", rollout="fraud-2"),
        promotion(phase="Done", rollout="fraud-2"),
    )
    client.play(
        "Rollout", rollout(weight_pct=5, message="goes on"), rollout("Promoted", message="")
    )
    client.play("ModelDeployment", deployment(promotion="fraud-2"))
    done = promotion(phase="Done")
    client.play("TrafficSplit", NotFound("none"), split_of(done, False), split_of(done))
    result = run("apply", "-f", manifest, "--wait")
    assert result.exit_code == 0
    assert next(client.scripts["TrafficSplit"]) == split_of(done)  # the first two were not enough
    assert "fraud-2  1.0.0 → 1.1.0  Ramping 5 %  goes on" in result.stderr
    assert "fraud-2  1.0.0 → 1.1.0  Promoted" in result.stderr


def test_apply_wait_fails_when_the_version_was_rolled_back(
    run: Run, client: FakeClient, manifest: str
) -> None:
    client.made_promotion = promotion()
    client.play("Promotion", promotion(phase="RolledBack"))
    assert run("apply", "-f", manifest, "--wait").exit_code == 1


def test_apply_wait_gives_up_in_time(run: Run, client: FakeClient, manifest: str) -> None:
    client.made_promotion = promotion()
    client.play("Promotion", promotion())
    result = run("apply", "-f", manifest, "--wait", "--timeout", "5s")
    assert result.exit_code == TransientError.exit_code
    assert "promotion fraud-2 has not finished after 5s" in result.stderr


def test_diff_tells_fields_and_its_exit_code(run: Run, client: FakeClient, manifest: str) -> None:
    (resource,) = read_documents(FRAUD.replace("1.2.0", "1.1.0"), "x")
    client.apply(resource)
    result = run("diff", "-f", manifest)
    assert result.exit_code == 1
    assert result.stdout == 'modeldeployment/fraud\n  ~ spec.version: "1.1.0" -> "1.2.0"\n'
    run("apply", "-f", manifest)
    again = run("diff", "-f", manifest)
    assert (again.exit_code, again.stdout) == (0, "")


def test_diff_of_something_new_lists_what_would_be_added(run: Run, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(MODEL)
    result = run("diff", "-f", str(tmp_path), "-o", "json")
    (found,) = json.loads(result.stdout)
    added = {change["path"]: change["after"] for change in found["changes"]}
    assert added["metadata.labels.team"] == "risk"


def test_validate_prints_the_canonical_resource(run: Run, manifest: str) -> None:
    result = run("validate", "-f", manifest, "-o", "json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert list(document) == ["apiVersion", "kind", "metadata", "spec"]
    assert document["metadata"] == {"name": "fraud", "environment": "production"}
    assert document["spec"]["version"] == "1.2.0"
    assert document["spec"]["strategy"]["canary"]["steps"] == [10]


def test_validate_yaml_can_be_read_back(run: Run, manifest: str, tmp_path: Path) -> None:
    text = run("validate", "-f", manifest, "-o", "yaml").stdout
    assert read_documents(text, "x") == read_documents(FRAUD, "y")
    (tmp_path / "two.yaml").write_text(FRAUD + "---\n" + MODEL)
    both = run("validate", "-f", str(tmp_path / "two.yaml"), "-o", "json").stdout
    assert len(json.loads(both)["items"]) == 2
    assert read_documents(both, "z.json")[0].kind == "Model"


def test_validate_names(run: Run, manifest: str) -> None:
    assert run("validate", "-f", manifest).stdout == "modeldeployment/fraud valid\n"
    assert run("validate", "-f", manifest, "-o", "name").stdout == "modeldeployment/fraud\n"


BAD = [
    ("a: [1, 2", "not YAML: line 1"),
    (WRONG, "spec.canaryTraffic: a percentage lies between 0 and 100, got 101% (line 4)"),
    (WRONG, "spec.replcas: unknown field; did you mean 'replicas'? (line 4)"),
    (FRAUD.replace("traffic: 10%", "steps: [50, 20]"), "strategy.canary.steps: steps must rise"),
    (FRAUD.replace("v1.2.0", "[1]"), "spec.modelVersion: must be text, got a list"),
    (FRAUD.replace("fraud", "no name"), "metadata.name: not a name"),
    ("", "no resources in"),
    (FRAUD + "---\n" + FRAUD, "is declared twice"),
    ("\xff\xfe", "not UTF-8"),
]


@pytest.mark.parametrize(("text", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_input_is_told_offline_with_exit_code_2(
    run: Run, tmp_path: Path, text: str, words: str
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(text.encode("latin-1"))
    result = run("validate", "-f", str(file))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_files_that_are_not_there_or_not_readable(run: Run, tmp_path: Path) -> None:
    missing = run("validate", "-f", str(tmp_path / "none.yaml"))
    assert (missing.exit_code, "no such file or folder" in missing.stderr) == (2, True)
    (tmp_path / "empty").mkdir()
    empty = run("validate", "-f", str(tmp_path / "empty"))
    assert (empty.exit_code, "no manifests in this folder" in empty.stderr) == (2, True)
