"""explain says what the types say, and its other spellings are really read."""

from __future__ import annotations

import pytest

from modelplane.errors import NotFound
from modelplane.resources.explain import ALSO_WRITTEN, explain, explain_kind
from modelplane.resources.kinds import KINDS

SPEAK_FOR_THEMSELVES = {"model.spec.description", "job.spec.node"}


def test_a_field_has_type_default_and_limits() -> None:
    replicas = explain("deployment.spec.replicas")
    assert (replicas.type, replicas.default) == ("whole number", "1")
    assert replicas.limits == "at least 1, at most 100"
    steps = explain("ModelDeployment.spec.strategy.canary.steps[2]")
    assert (steps.type, steps.default) == ("auto or list of percentage", "auto")
    assert explain("md.spec.timeout").default == "1m"
    assert explain("environment.spec.gateway.port").required
    assert explain("md.spec.model").default == "the deployment's name"


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_every_declared_field_of_every_kind_is_explained(kind: object) -> None:
    explained = explain_kind(kind)  # type: ignore[arg-type]
    assert explained.description
    for field in explained.walk():
        assert "<class" not in field.type
        assert "Annotated" not in field.type
        speaks = field.description or field.path in SPEAK_FOR_THEMSELVES
        if ".spec." in field.path and KINDS[explained.name].declared:
            assert speaks, field.path


def test_other_spellings_belong_to_fields_that_exist() -> None:
    kinds = ("modeldeployment", "validationpipeline")
    fields = [field for kind in kinds for field in explain(kind).walk()]
    assert set(ALSO_WRITTEN) <= {field.path.partition(".")[2] for field in fields}


@pytest.mark.parametrize(
    ("path", "hint"),
    [("deploymnt", "ModelDeployment"), ("deployment.spec.replcas", "replicas"), ("", "kind")],
)
def test_the_nearest_name_is_suggested(path: str, hint: str) -> None:
    with pytest.raises(NotFound) as caught:
        explain(path)
    assert hint in f"{caught.value.hint} {caught.value.message}"
