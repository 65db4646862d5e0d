"""What apply, promote and undo do, as properties: nothing changes without a wish, and once."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.admission import (
    REQUESTED_VERSION,
    Admission,
    Asked,
    Situation,
    admit_deployment,
    admit_plain,
    admit_promotion,
    compute_revision,
    make_promotion,
)
from modelplane.decisions.promotion_sources import admit_undo, choose_source
from modelplane.decisions.rollout_requests import request_of_rollout
from modelplane.errors import Conflict, InvalidResource, NotFound
from modelplane.resources.environment import Environment, EnvironmentSpec
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.model import Model, ModelVersion, ModelVersionSpec
from modelplane.resources.model_deployment import ModelDeployment, ModelDeploymentSpec
from modelplane.resources.revision import Artifact
from modelplane.resources.rollout import Rollout, RolloutSpec
from modelplane.resources.strategy import Analysis, CanaryStrategy, MetricRule, Strategy

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ASKED = Asked(Subject(name="ann", groups=("admin",)), NOW, "because")


def environment(name: str, order: int = 0, **spec: Any) -> Environment:
    fields = {"stage": name, "order": order, "gateway": {"port": 7081 + order}, **spec}
    return Environment(metadata=Metadata(name=name), spec=EnvironmentSpec.model_validate(fields))


STAGING, PRODUCTION = environment("staging", 10), environment("production", 20)


def version(text: str, format: str = "skops", requirements: str | None = None) -> ModelVersion:
    artifact = Artifact.model_validate({"format": format, "digest": f"sha256:{text}"})
    spec = ModelVersionSpec(
        model="fraud", version=text, artifact=artifact, requirements=requirements
    )
    return ModelVersion(metadata=Metadata(name=f"fraud@{text}"), spec=spec)


V1, V2, V3 = version("1.0.0"), version("2.0.0"), version("3.0.0")


def declare(wanted: str = "latest", **fields: Any) -> ModelDeployment:
    metadata = {"name": "fraud", "environment": "production", **fields.pop("metadata", {})}
    spec = ModelDeploymentSpec.model_validate({"model": "fraud", "version": wanted, **fields})
    return ModelDeployment(metadata=Metadata(**metadata), spec=spec)


def apply(
    declared: ModelDeployment, of: ModelVersion, after: Admission | None = None, **situation: Any
) -> Admission:
    """Apply `declared` after an earlier admission, whose promotion is still active."""
    fields = {
        "environment": PRODUCTION,
        "existing": after.deployment if after else None,
        "active": after.promotion if after else None,
        "in_staging": True,
        **situation,
    }
    return admit_deployment(declared, of, Situation(**fields), ASKED)


def served(admission: Admission) -> Admission:
    """The same after its promotion has ended well."""
    assert admission.promotion
    stable = admission.promotion.spec.revision
    return replace(
        admission, deployment=admission.deployment.with_status(stable=stable), promotion=None
    )


STRATEGIES = st.sampled_from(
    [None, Strategy(canary=CanaryStrategy()), Strategy(canary=CanaryStrategy(steps=(10.0,)))]
)
IN_PLACE = st.fixed_dictionaries(
    {},
    optional={
        "replicas": st.integers(1, 5),
        "strategy": STRATEGIES,
        "timeout_s": st.sampled_from([30.0, 60.0]),
        "idempotent": st.booleans(),
        "user_header": st.sampled_from(["x-user-id", "x-account"]),
    },
)
BEHAVIOUR = st.fixed_dictionaries(
    {},
    optional={
        "env": st.dictionaries(st.sampled_from(["A", "B"]), st.sampled_from(["1", "2"])),
        "requirements": st.sampled_from([None, "numpy==2.1"]),
        "metrics_endpoint": st.sampled_from([None, "/metrics"]),
        "resources": st.sampled_from([{}, {"cpu": 2.0}, {"memory": 1024}]),
        "start_timeout_s": st.sampled_from([300.0, 10.0]),
    },
)


@given(in_place=IN_PLACE, behaviour=BEHAVIOUR)
def test_applying_twice_is_applying_once(
    in_place: dict[str, Any], behaviour: dict[str, Any]
) -> None:
    declared = declare(**in_place, **behaviour)
    first = apply(declared, V1)
    assert first.promotion is not None
    assert apply(declared, V1, first).result == "unchanged"
    again = apply(declared, V1, served(first))
    assert (again.result, again.promotion) == ("unchanged", None)


@given(before=BEHAVIOUR, after=BEHAVIOUR, in_place=IN_PLACE)
def test_a_promotion_is_made_exactly_when_the_revision_differs(
    before: dict[str, Any], after: dict[str, Any], in_place: dict[str, Any]
) -> None:
    first = served(apply(declare("1.0.0", **before), V1))
    second = apply(declare("1.0.0", **after, **in_place), V1, first)
    revisions = [
        compute_revision(declare("1.0.0", **fields).spec, V1).digest for fields in (before, after)
    ]
    assert (second.promotion is not None) == (revisions[0] != revisions[1])
    if second.promotion is not None:
        assert second.promotion.spec.revision.digest == revisions[1]
        assert second.deployment.status.promotion == second.promotion.metadata.name
        assert second.deployment.status.promotions == second.promotion.spec.ordinal == 2
    else:
        assert second.deployment.status.promotions == 1


def test_the_same_manifest_does_nothing_after_a_rollback() -> None:
    first = served(apply(declare("1.0.0"), V1))
    second = replace(apply(declare("2.0.0"), V2, first), promotion=None)  # rolled back
    assert second.deployment.status.stable
    assert apply(declare("2.0.0"), V2, second).result == "unchanged"
    back = apply(declare("1.0.0"), V1, second)
    assert (back.result, back.promotion) == ("changed", None), "1.0.0 serves already"


def test_going_back_in_mid_ramp_takes_a_promotion() -> None:
    first = served(apply(declare("1.0.0"), V1))
    second = apply(declare("2.0.0"), V2, first)
    back = apply(declare("1.0.0"), V1, second)
    assert back.promotion is not None
    assert back.promotion.metadata.name == "fraud-3"


def test_latest_is_resolved_recorded_and_moves_with_the_registry() -> None:
    first = served(apply(declare("latest"), V1))
    assert first.deployment.spec.version == "1.0.0"
    assert first.deployment.metadata.annotations[REQUESTED_VERSION] == "latest"
    assert apply(declare("latest"), V1, first).result == "unchanged"
    assert apply(declare("latest"), V2, first).promotion is not None


def test_requirements_of_the_deployment_stand_before_the_versions() -> None:
    versioned = version("1.0.0", requirements="skops==0.12")
    assert compute_revision(declare().spec, versioned).runtime.requirements == "skops==0.12"
    spec = declare(requirements="numpy==2.1").spec
    assert compute_revision(spec, versioned).runtime.requirements == "numpy==2.1"
    assert compute_revision(declare(requirements="").spec, versioned).runtime.requirements == ""


def test_an_explicit_promotion_is_made_unless_it_is_there_or_on_its_way() -> None:
    first = apply(declare("1.0.0"), V1)

    def promote(after: Admission) -> Admission:
        situation = Situation(PRODUCTION, after.deployment, after.promotion, True)
        return admit_promotion(after.deployment, "1.0.0", V1, situation, ASKED)

    assert promote(first).promotion is None, "on its way"
    assert promote(served(first)).promotion is None, "serves"
    assert promote(served(first)).warnings == ("1.0.0 already serves",)
    rolled_back = replace(first, promotion=None)
    assert promote(rolled_back).promotion is not None, "tried again"


def test_a_promotion_into_an_empty_environment_copies_the_spec() -> None:
    source = declare(
        "1.0.0",
        replicas=3,
        env={"A": "1"},
        metadata={"environment": "staging", "labels": {"team": "risk"}},
    )
    situation = Situation(PRODUCTION, in_staging=True)
    copied = admit_promotion(source, "2.0.0", V2, situation, ASKED)
    assert copied.result == "created"
    assert copied.deployment.spec == source.spec.with_(version="2.0.0")
    assert copied.deployment.metadata.environment == "production"
    assert copied.deployment.metadata.labels == {"team": "risk"}
    assert copied.promotion
    assert copied.promotion.metadata.environment == "production"
    assert (copied.promotion.spec.subject, copied.promotion.spec.reason) == (
        ASKED.subject,
        "because",
    )


@pytest.mark.parametrize(
    ("place", "in_staging", "warned"),
    [(PRODUCTION, False, True), (PRODUCTION, True, False), (STAGING, False, False)],
)
def test_production_without_staging_is_allowed_with_a_warning(
    place: Environment, in_staging: bool, warned: bool
) -> None:
    admission = apply(declare("1.0.0"), V1, environment=place, in_staging=in_staging)
    assert bool(admission.warnings) == warned
    assert admission.promotion
    assert admission.promotion.spec.warnings == admission.warnings


@pytest.mark.parametrize(
    ("format", "allow", "refused"),
    [
        ("joblib", "never", True),
        ("joblib", "scanned", False),
        ("joblib", "always", False),
        ("skops", "never", False),
        ("mlflow", "never", False),
    ],
)
def test_pickles_run_only_where_they_are_allowed(format: str, allow: str, refused: bool) -> None:
    place = environment("production", 20, allowPickle=allow)
    pickled = version("1.0.0", format)
    if refused:
        with pytest.raises(InvalidResource) as raised:
            apply(declare("1.0.0"), pickled, environment=place)
        assert "skops" in raised.value.hint
    else:
        assert apply(declare("1.0.0"), pickled, environment=place).promotion


@pytest.mark.parametrize(
    ("claims", "taken"), [(None, False), (["sub"], False), (["sub", "account"], True)]
)
def test_users_are_told_apart_only_by_claims_that_the_gateway_verifies(
    claims: list[str] | None, taken: bool
) -> None:
    jwt = claims and {"issuer": "https://issuer", "jwksFile": "/keys.json", "claims": claims}
    place = environment("production", 20, gateway={"port": 7082, "jwt": jwt})
    declared = declare("1.0.0", userClaim="account")
    if taken:
        assert apply(declared, V1, environment=place).promotion
    else:
        with pytest.raises(InvalidResource) as raised:
            apply(declared, V1, environment=place)
        assert raised.value.fields[0].path == "spec.userClaim"


def test_an_unmeasured_metric_is_a_condition_until_it_is_gone() -> None:
    rules = (MetricRule(name="latency"), MetricRule(name="precision"))
    canary = CanaryStrategy(analysis=Analysis(metrics=rules))
    declared = declare("1.0.0", strategy=Strategy(canary=canary))
    first = apply(declared, V1)
    (condition,) = first.deployment.status.conditions
    assert (condition.type, condition.status) == ("MetricUnavailable", "True")
    assert "precision" in condition.message
    assert "latency" not in condition.message
    gone = apply(declare("1.0.0"), V1, served(first))
    assert gone.deployment.status.conditions[0].status == "False"


def test_a_name_leaves_room_for_what_is_derived_from_it() -> None:
    with pytest.raises(InvalidResource) as raised:
        apply(declare("1.0.0", metadata={"name": "x" * 41}), V1)
    assert raised.value.fields[0].path == "metadata.name"
    assert apply(declare("1.0.0", metadata={"name": "x" * 40}), V1).promotion


def test_what_the_system_annotates_is_kept_and_people_s_annotations_are_declared() -> None:
    before = Model(
        metadata=Metadata(name="m", annotations={"modelplane.dev/last-number": "3", "owner": "a"})
    )
    after = Model(metadata=Metadata(name="m", annotations={"modelplane.dev/x": "1", "b": "2"}))
    result, merged = admit_plain(after, before)
    assert result == "changed"
    assert merged.metadata.annotations == {"modelplane.dev/last-number": "3", "b": "2"}
    assert admit_plain(merged, merged)[0] == "unchanged"


def test_a_promotion_starts_from_the_nearest_environment_before() -> None:
    development = environment("development", 5)
    places = [development, STAGING, PRODUCTION]
    inside = {
        place.metadata.name: declare(metadata={"environment": place.metadata.name})
        for place in places
    }

    def source(*present: str, origin: str | None = None) -> str | None:
        deployments = [inside[name] for name in present]
        found = choose_source("fraud", PRODUCTION, places, deployments, origin=origin)
        return found.metadata.environment

    assert source("development", "staging", "production") == "production"
    assert source("development", "staging") == "staging"
    assert source("development") == "development"
    assert source("development", "production", origin="development") == "development"
    with pytest.raises(NotFound, match="no deployment 'fraud'"):
        source()


def rollout(ordinal: int, phase: str, stable: str | None, candidate: str) -> Rollout:
    versions = {"1": V1, "2": V2}
    spec = RolloutSpec(
        deployment="fraud",
        promotion=f"fraud-{ordinal}",
        ordinal=ordinal,
        stable=compute_revision(declare().spec, versions[stable]) if stable else None,
        candidate=compute_revision(declare().spec, versions[candidate]),
    )
    metadata = Metadata(name=f"fraud-{ordinal}", environment="production")
    return Rollout(metadata=metadata, spec=spec).with_status(phase=phase)


@pytest.mark.parametrize(
    ("rollouts", "serving", "back_to"),
    [
        ([(1, "Promoted", None, "1"), (2, "Promoted", "1", "2")], V2, "1.0.0"),
        ([(2, "Promoted", "1", "2"), (3, "RolledBack", "2", "1")], V2, "1.0.0"),
        ([(2, "Promoted", "1", "2"), (3, "Promoted", "2", "1")], V1, "2.0.0"),
        ([(1, "Promoted", None, "1")], V1, None),
        ([(1, "Failed", None, "1")], None, None),
        ([], None, None),
    ],
)
def test_undo_goes_back_to_what_the_last_promoted_rollout_replaced(
    rollouts: list[tuple[int, str, str | None, str]],
    serving: ModelVersion | None,
    back_to: str | None,
) -> None:
    stable = compute_revision(declare().spec, serving) if serving else None
    deployment = declare("2.0.0").with_status(stable=stable, promotions=5)
    history = [rollout(*row) for row in rollouts]
    if back_to is None:
        with pytest.raises(Conflict):
            admit_undo(deployment, history, None, ASKED)
        return
    admission = admit_undo(deployment, history, None, ASKED)
    assert admission.promotion
    assert admission.promotion.spec.revision.version == back_to
    assert admission.promotion.metadata.name == "fraud-6"
    assert admission.deployment.spec == deployment.spec, "the manifest stays what it was"
    repeated = admit_undo(admission.deployment, history, admission.promotion, ASKED)
    assert repeated.result == "unchanged"


def test_undo_in_mid_ramp_says_to_roll_back() -> None:
    first = served(apply(declare("1.0.0"), V1))
    second = apply(declare("2.0.0"), V2, first)
    assert second.promotion is not None
    begun = second.promotion.with_status(phase="RollingOut")
    with pytest.raises(Conflict) as raised:
        admit_undo(second.deployment, [], begun, ASKED)
    assert "rollout rollback" in raised.value.hint


@pytest.mark.parametrize("phase", ["Requested", "Validating", "AwaitingApproval", "Approved"])
def test_undo_does_not_wait_for_a_promotion_that_waits(phase: str) -> None:
    stable = compute_revision(declare().spec, V2)
    deployment = declare("2.0.0").with_status(stable=stable, promotions=5)
    waiting = make_promotion(
        deployment, compute_revision(declare().spec, V3), ASKED, requested_version="3.0.0"
    ).with_status(phase=phase)
    history = [rollout(1, "Promoted", None, "1"), rollout(2, "Promoted", "1", "2")]
    admission = admit_undo(deployment, history, waiting, ASKED)
    assert admission.promotion
    assert admission.promotion.spec.revision.version == "1.0.0"
    assert admission.promotion.spec.restores == "fraud-1"


@pytest.mark.parametrize("phase", ["Pending", "Deploying", "Ramping", "Paused"])
def test_a_running_rollout_takes_wishes_and_repeating_one_changes_nothing(phase: str) -> None:
    running = rollout(2, phase, "1", "2")
    for verb in ("pause", "resume", "promote", "rollback"):
        wished = request_of_rollout(running, verb, ASKED.subject, "why", NOW)
        again = request_of_rollout(wished, verb, Subject(name="bob"), "again", NOW)
        assert again == wished
    taken_back = request_of_rollout(running, "rollback", ASKED.subject, "", NOW)
    with pytest.raises(Conflict, match="being rolled back"):
        request_of_rollout(taken_back, "promote", ASKED.subject, "", NOW)
    promoted = request_of_rollout(running, "promote", ASKED.subject, "", NOW)
    changed = request_of_rollout(promoted, "rollback", ASKED.subject, "", NOW)
    assert changed.spec.request
    assert changed.spec.request.action == "rollback", "harm may always be taken back"


@pytest.mark.parametrize("phase", ["Promoted", "RolledBack", "Failed", "Superseded"])
def test_a_finished_rollout_takes_no_wishes(phase: str) -> None:
    with pytest.raises(Conflict, match=phase):
        request_of_rollout(rollout(2, phase, "1", "2"), "rollback", ASKED.subject, "", NOW)
