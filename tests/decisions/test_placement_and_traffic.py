"""Replicas and splits: what serves is never stopped, and weights always have somewhere to go."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.placement import (
    RETRY_FAILED_AFTER_S,
    decide_placement,
    decide_removal,
    log_condition,
)
from modelplane.decisions.traffic import decide_split
from modelplane.resources.monitoring import PredictionLog
from modelplane.resources.replica import Replica
from modelplane.resources.revision import Artifact, RuntimeSpec, make_revision
from modelplane.resources.rollout import Rollout
from tests.decisions.worlds import NOW, V1, V2, V3, deployment, replica, rollout, split


def names(replicas: tuple[Replica, ...]) -> set[str]:
    return {r.metadata.name for r in replicas}


def test_a_rollout_gets_no_replicas_before_its_first_decision() -> None:
    pending = rollout("Pending")
    decision = decide_placement(deployment(replicas=3), (pending,), (), None, now=NOW)
    assert {r.version for r, _ in decision.create} == {"1.0.0"}


def test_a_first_rollout_gets_as_many_replicas_as_declared() -> None:
    first = rollout("Deploying", stable=None)
    decision = decide_placement(deployment(None, replicas=3), (first,), (), None, now=NOW)
    assert [(r.version, index) for r, index in decision.create] == [
        ("2.0.0", 0), ("2.0.0", 1), ("2.0.0", 2),
    ]  # fmt: skip


def test_a_finished_rollouts_candidate_stops_only_after_the_gateway_left_it() -> None:
    old, new = replica(V1), replica(V2)
    promoted = deployment(V2)
    done = rollout("Promoted", 100)
    both = split((V1, 95, [old]), (V2, 5, [new]))
    only_new_unacknowledged = split((V2, 100, [new]), accepted=False)
    only_new = split((V2, 100, [new]))

    for not_yet in (both, only_new_unacknowledged):
        assert decide_placement(promoted, (done,), (old, new), not_yet, now=NOW).stop == ()
    assert decide_placement(promoted, (done,), (old, new), only_new, now=NOW).stop == (old,)


def test_a_stopped_replica_is_forgotten_once_it_reports_so() -> None:
    draining = replica(V2, phase="Draining", stopped=True)
    stopped = replica(V2, index=1, phase="Stopped", stopped=True)
    serving = replica(V1)
    decision = decide_placement(
        deployment(V1), (), (serving, draining, stopped), split((V1, 100, [serving])), now=NOW
    )
    assert decision.delete == (stopped,)
    assert decision.stop == ()


def test_a_replica_blamed_by_the_analysis_is_replaced() -> None:
    good, bad = replica(V2, 0), replica(V2, 1)
    ramp = rollout().with_status(bad_replica=bad.metadata.name)
    world = deployment(V1, replicas=2)
    seen = split((V1, 95, [replica(V1)]), (V2, 5, [good]))
    decision = decide_placement(world, (ramp,), (replica(V1), good, bad), seen, now=NOW)
    assert names(decision.stop) == {bad.metadata.name}
    assert [(r.version, i) for r, i in decision.create if r == V2] == [("2.0.0", 2)]


def test_a_failed_replica_of_stable_is_replaced_after_a_while_a_candidates_is_not() -> None:
    failed = replica(V1, phase="Failed")
    world = deployment(V1)
    soon = decide_placement(world, (), (failed,), None, now=NOW)
    assert (soon.create, soon.stop, soon.requeue_after_s) == ((), (), RETRY_FAILED_AFTER_S)
    later = NOW + timedelta(seconds=RETRY_FAILED_AFTER_S)
    decision = decide_placement(world, (), (failed,), None, now=later)
    assert decision.stop == (failed,)
    assert [index for _, index in decision.create] == [1]

    candidate = replica(V2, phase="Failed")
    seen = decide_placement(world, (rollout(),), (replica(V1), candidate), None, now=later)
    assert candidate not in seen.stop


def test_what_is_logged_changes_in_place_in_every_replica_that_runs_on() -> None:
    old, new = PredictionLog(), PredictionLog(sampling=10)
    as_before, behind = replica(V1, 0, predictions=new), replica(V1, 1, predictions=old)
    leaving = replica(V2, predictions=old)
    gone = replica(V3, phase="Stopped", stopped=True, predictions=old)
    replicas = (as_before, behind, leaving, gone)
    for wanted, changed in ((new, [behind]), (None, [as_before, behind])):
        world = deployment(V1, replicas=2)
        world = world.with_spec(predictions=wanted)
        decision = decide_placement(world, (), replicas, None, now=NOW)
        assert decision.change == tuple(r.with_spec(predictions=wanted) for r in changed)
        assert decision.stop == (leaving,)
        assert decision.create == ()


def test_a_server_of_another_make_is_said_to_have_no_log() -> None:
    digest = V1.artifact.digest
    artifact = Artifact(format="command", digest=digest, command=("serve", "{socket}"))
    foreign = make_revision("delay", "4.0.0", artifact, RuntimeSpec())
    world = deployment(V1)
    assert log_condition(world, (replica(foreign),)) is None
    logged = world.with_spec(predictions=PredictionLog())
    ours, theirs = replica(V1), replica(foreign)
    found = [log_condition(logged, replicas) for replicas in ((ours,), (ours, theirs))]
    assert [(c.status, c.reason) for c in found if c] == [
        ("True", "Logged"),
        ("False", "OwnServer"),
    ]
    stopped = theirs.with_spec(stopped=True)
    assert log_condition(logged, (ours, stopped)) == found[0]


def test_a_deleted_deployment_stops_its_replicas_once_its_route_is_gone() -> None:
    serving = replica(V1)
    assert decide_removal((serving,), split((V1, 100, [serving]))).stop == ()
    assert decide_removal((serving,), None).stop == (serving,)


def test_the_candidate_gets_its_weight_only_when_ready() -> None:
    starting = decide_split(
        deployment(), (rollout(),), (replica(V1), replica(V2, 0, "Starting")), None
    )
    assert starting is not None
    assert [(v.role, v.weight_pct) for v in starting.variants] == [("stable", 100)]

    ready = decide_split(deployment(), (rollout(),), (replica(V1), replica(V2)), None)
    assert ready is not None
    assert [(v.role, v.weight_pct) for v in ready.variants] == [("stable", 95), ("candidate", 5)]
    assert ready.steps == {"uid-delay-2": 1}


def test_a_rollback_takes_the_candidate_out() -> None:
    done = decide_split(deployment(), (rollout("RolledBack", 0),), (replica(V1), replica(V2)), None)
    assert done is not None
    assert [v.version for v in done.variants] == ["1.0.0"]


def test_stable_keeps_its_address_while_its_only_replica_restarts() -> None:
    serving = replica(V1)
    gone = replica(V1, phase="Starting")
    spec = decide_split(deployment(), (), (gone,), split((V1, 100, [serving])))
    assert spec is not None
    assert [e.address for e in spec.variants[0].endpoints] == [serving.status.address]


def test_nothing_to_serve_means_no_split() -> None:
    assert decide_split(deployment(None), (), (), None) is None
    assert decide_split(deployment(), (), (replica(V1, phase="Pending"),), None) is None


replica_phases = st.sampled_from(
    ["Pending", "Preparing", "Starting", "Ready", "NotReady", "Failed", "Draining", "Stopped"]
)
fleets = st.lists(
    st.tuples(st.sampled_from([V1, V2, V3]), st.integers(0, 3), replica_phases, st.booleans()),
    max_size=8,
    unique_by=lambda entry: (entry[0].digest, entry[1]),
).map(lambda entries: tuple(replica(of, i, phase, stopped=s) for of, i, phase, s in entries))
rollouts = st.just(()) | st.tuples(
    st.builds(
        rollout,
        st.sampled_from(["Deploying", "Ramping", "Paused", "Promoted", "RolledBack", "Superseded"]),
        st.sampled_from([0.0, 5.0, 50.0]),
    )
)


@given(fleets, rollouts, st.integers(1, 3))
def test_splits_are_consistent(
    fleet: tuple[Replica, ...], running: tuple[Rollout, ...], count: int
) -> None:
    spec = decide_split(deployment(V1, replicas=count), running, fleet, None)
    if spec is None:
        return
    assert sum(variant.weight_pct for variant in spec.variants) == 100
    assert [v.role for v in spec.variants].count("stable") == 1
    assert all(v.endpoints for v in spec.variants if v.weight_pct > 0)
    if all(rollout.finished for rollout in running):
        assert [v.revision for v in spec.variants] == [V1.digest]


@given(fleets, rollouts, st.integers(1, 3), st.booleans())
def test_what_serves_is_never_stopped_and_placement_settles(
    fleet: tuple[Replica, ...], running: tuple[Rollout, ...], count: int, accepted: bool
) -> None:
    world = deployment(V1, replicas=count)
    serving = [r for r in fleet if r.status.phase == "Ready"]
    present = split((V1, 100, serving), accepted=accepted)
    decision = decide_placement(world, running, fleet, present, now=NOW)
    assert not names(decision.stop) & names(tuple(serving))
    if not accepted:
        assert all(
            r.status.phase in {"Pending", "Preparing", "Starting", "Failed"} for r in decision.stop
        )
    created = tuple(replica(of, index, "Pending") for of, index in decision.create)
    assert not names(created) & names(fleet), "a name is never given twice"
    deleted = names(decision.delete)
    stopped = names(decision.stop)
    after = tuple(
        r.with_spec(stopped=True) if r.metadata.name in stopped else r
        for r in fleet
        if r.metadata.name not in deleted
    )
    again = decide_placement(world, running, (*after, *created), present, now=NOW)
    assert again.create == ()


def test_replicas_that_an_older_release_wrote_are_read_as_they_were_meant() -> None:
    written = replica(V1, 0).to_dict()
    for before, meant in ((True, "always"), (False, "never")):
        written["spec"]["allowPickle"] = before
        assert Replica.model_validate(written).spec.allow_pickle == meant
