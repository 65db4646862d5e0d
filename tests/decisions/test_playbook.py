"""Runs of playbooks as pure decisions: whatever happens, in whatever order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelplane.decisions.alerts import fingerprint
from modelplane.decisions.playbook import Observed, decide, failed_step, legs_of
from modelplane.decisions.playbook_outcomes import Act, Done, Refused, World, effect_name
from modelplane.decisions.playbook_rights import rights_of
from modelplane.decisions.playbook_runs import surplus
from modelplane.decisions.playbook_starts import decide_starts, make_run
from modelplane.decisions.playbook_steps import plan
from modelplane.decisions.playbook_text import Unfilled, fill, fill_query
from modelplane.resources.alerting import Alert, AlertSpec, AlertStatus
from modelplane.resources.meta import Metadata
from modelplane.resources.playbook import Playbook, PlaybookRun, PlaybookSpec

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LABELS = {"alertname": "Slow", "environment": "production", "deployment": "fraud"}


def playbook(name: str = "repair", **spec: Any) -> Playbook:
    waits = [{"name": f"s{n}", "waitFor": {"expr": f"x == {n}"}} for n in range(3)]
    fields = {"matchers": ['alertname="Slow"'], "steps": waits, **spec}
    return Playbook.model_validate({"metadata": {"name": name}, "spec": fields})


def alert(episode: int = 1, labels: dict[str, str] = LABELS, **status: Any) -> Alert:
    spec = AlertSpec(
        alert=labels["alertname"], source="modelplane", labels=labels,
        fingerprint=fingerprint(labels),
    )  # fmt: skip
    found = AlertStatus(phase="Firing", episode=episode, active_at=NOW, fired_at=NOW)
    name = f"slow-{spec.fingerprint}"
    return Alert(metadata=Metadata(name=name), spec=spec, status=found.with_(**status))


MOMENTS = st.tuples(
    st.sampled_from([True, False, False, None, "no PromQL"]),  # what the present step waits for
    st.sampled_from([True, False, None]),  # what the verification asks
    st.sampled_from([0, 1, 60, 400]),  # seconds that pass
    st.sampled_from([False] * 20 + [True]),  # somebody cancels
)
STEPS = st.lists(st.sampled_from(["stop", "continue"]), min_size=1, max_size=4)


@given(STEPS, st.lists(MOMENTS, max_size=40), st.sampled_from([0.0, 30.0]))
@settings(max_examples=200, deadline=None)
def test_every_run_goes_forward_only_and_ends(
    failures: list[str], moments: list[Any], for_s: float
) -> None:
    steps = [
        {"name": f"s{n}", "waitFor": {"expr": "x"}, "timeout": "300s", "onFailure": on_failure}
        for n, on_failure in enumerate(failures)
    ]
    verify = {"expr": "up", "for": f"{for_s:g}s", "timeout": "300s"}
    (begun,) = _begin(playbook(steps=steps, verify=verify), [])
    run, now = begun, NOW
    began: list[str] = []
    order = {"Waiting": 0, "Running": 1, "Succeeded": 2, "Failed": 2, "Skipped": 2}
    # In the end everything takes too long, so that whatever came before ends there.
    for answer, verified, passed_s, cancelled in [*moments, *[(False, False, 400, False)] * 20]:
        now += timedelta(seconds=passed_s)
        if cancelled and not run.finished:
            run = run.with_spec(cancelled=True)
        worlds = {step.name: World(answer=answer) for step in run.spec.steps}
        decision = decide(run, Observed(worlds=worlds, alert=alert(), verified=verified), now)
        if run.finished:
            assert decision.status == run.status
            continue
        before = {s.name: order[s.phase] for s in run.status.steps}
        after = {s.name: order[s.phase] for s in decision.status.steps}
        assert all(after[name] >= reached for name, reached in before.items())
        began += [n for n, reached in after.items() if reached == 1 and not before.get(n)]
        running = [s.name for s in decision.status.steps if s.phase == "Running"]
        assert len(running) <= 1, "one step at a time"
        run = run.with_(status=decision.status)
    assert run.finished
    assert began == sorted(set(began)), "in order, and none begins twice"
    assert run.status.phase != "Succeeded" or not failed_step(run)
    assert (run.status.phase == "Failed") == run.status.escalated
    ended = {s.phase for s in run.status.steps}
    assert ended <= {"Succeeded", "Failed", "Skipped"}


def _begin(
    book: Playbook, runs: list[PlaybookRun], about: Alert | None = None
) -> list[PlaybookRun]:
    starts = decide_starts([about or alert()], [book], runs, budget_per_hour=100, now=NOW)
    return [starts.begin.run] if starts.begin is not None else []


ENDINGS = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["StepFailed", "TimedOut"])), max_size=8
)


@given(ENDINGS)
def test_the_second_identical_failure_is_the_last(endings: list[tuple[str, str]]) -> None:
    steps = [{"name": name, "waitFor": {"expr": name}, "timeout": "60s"} for name in ("a", "b")]
    book, runs, now = playbook(steps=steps, limits={"perHour": 1000}), list[PlaybookRun](), NOW
    seen: set[tuple[str, str]] = set()
    for step, reason in endings:
        starts = decide_starts([alert()], [book], runs, budget_per_hour=1000, now=now)
        is_last = bool(runs) and bool(runs[-1].status.repeats)
        assert (starts.begin is None) == is_last
        if starts.begin is None:
            (held,) = starts.playbooks[0].status.held
            assert held.reason == "FailedTwice"
            break
        book, run = starts.begin.playbook, starts.begin.run
        run = run.with_(metadata=run.metadata.with_(created_at=now))
        while not run.finished:
            present = next((s for s in run.status.steps if s.phase == "Running"), None)
            fails = present is not None and present.name == step
            answer: Any = True
            if fails:
                answer = "it fails" if reason == "StepFailed" else False
                now += timedelta(seconds=61)
            worlds = {name: World(answer=answer) for name in ("a", "b")}
            observed = Observed(worlds=worlds, alert=alert(), failed_before=runs)
            run = run.with_(status=decide(run, observed, now).status)
        assert bool(run.status.repeats) == ((step, reason) in seen)
        seen.add((step, reason))
        runs.append(run)


def test_a_failure_outside_the_window_is_no_repetition() -> None:
    (run,) = _begin(playbook(limits={"loopWindow": "10m"}), [])
    failed = decide(run, Observed(worlds={"s0": World()}, alert=alert()), NOW)
    run = run.with_(status=failed.status)
    refused = Observed(worlds={"s0": World(answer="no")}, alert=alert())
    first = run.with_(status=decide(run, refused, NOW).status)
    other = run.with_(metadata=run.metadata.with_(name="repair-2"))
    later = Observed(worlds={"s0": World(answer="no")}, alert=alert(), failed_before=[first])
    soon = decide(other, later, NOW + timedelta(minutes=9)).status
    assert soon.repeats == "repair-1"
    late = decide(other, later, NOW + timedelta(minutes=11)).status
    assert (late.phase, late.repeats) == ("Failed", "")


@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=12), st.integers(1, 4))
def test_the_budget_holds_whatever_fires(names: list[str], budget: int) -> None:
    book, runs = playbook(limits={"perHour": 1000}), list[PlaybookRun]()
    for number, name in enumerate(names):
        about = alert(episode=number + 1, labels={**LABELS, "deployment": name})
        starts = decide_starts([about], [book], runs, budget_per_hour=budget, now=NOW)
        if starts.begin is not None:
            book, run = starts.begin.playbook, starts.begin.run
            run = run.with_(metadata=run.metadata.with_(created_at=NOW))
            runs.append(run.with_status(phase="Succeeded", finished_at=NOW))
    assert len(runs) == min(budget, len(names))
    assert len({run.metadata.name for run in runs}) == len(runs)


def test_a_playbook_made_anew_goes_on_counting() -> None:
    (run,) = _begin(playbook(), [])
    ended = run.with_status(phase="Succeeded").with_spec(episode=0)
    (another,) = _begin(playbook(), [ended])
    assert (run.metadata.name, another.metadata.name) == ("repair-1", "repair-2")


def test_names_of_effects_fit_and_differ() -> None:
    names = {effect_name("r" * 63 + "-1", f"{'s' * 62}{n}") for n in range(9)}
    assert len(names) == 9
    assert max(map(len, names)) <= 128


@given(st.text())
def test_a_label_never_ends_the_string_that_it_stands_in(value: str) -> None:
    query = fill_query('up{a="{{ $labels.a }}"}', {"a": value or "x"})
    inner = query.removeprefix('up{a="').removesuffix('"}')
    assert '"' not in inner.replace("\\\\", "").replace('\\"', "")
    assert "\n" not in inner


def test_a_text_about_what_is_missing_is_refused() -> None:
    with pytest.raises(Unfilled, match="replica"):
        fill("{{ $labels.replica }}", {})
    with pytest.raises(Unfilled, match="value"):
        fill("{{ $value }}", {})


def test_an_environment_is_known_when_a_step_or_a_matcher_says_it() -> None:
    def places(matcher: str, **step: str) -> set[str | None]:
        fields = {"matchers": ['alertname="x"', matcher], "steps": [
            {"name": "s", "restartReplica": step}]}  # fmt: skip
        return {right.environment for right in rights_of(PlaybookSpec.model_validate(fields))}

    assert places('environment="staging"') == {"staging"}
    assert places('environment=~"staging"') == {None}
    assert places('team="risk"', environment="staging") == {"staging"}
    assert places('environment="staging"', environment="{{ $labels.where }}") == {None}
    assert places('environment="staging"', environment="x-{{ $labels.environment }}") == {None}


def test_legs_are_told_only_as_far_as_they_went() -> None:
    (run,) = _begin(playbook(), [])
    status = run.status.with_(first_step_at=NOW + timedelta(seconds=2))
    assert legs_of(status) == {
        "alert": 0.0, "begin": 2.0, "repair": None, "recovery": None, "total": None,
    }  # fmt: skip


def ended(run: PlaybookRun, **status: Any) -> PlaybookRun:
    run = run.with_(metadata=run.metadata.with_(created_at=NOW))
    return run.with_status(**{"phase": "Succeeded", "finished_at": NOW, **status})


@pytest.mark.parametrize(
    ("reason", "verify", "begins"),
    [
        ("Recovered", {}, True),
        ("Unneeded", {"expr": "up"}, True),
        ("Recovered", {"expr": "up"}, False),
        ("DryRun", {}, False),
    ],
)
def test_a_condition_that_comes_back_in_the_same_episode_is_dealt_with_anew(
    reason: str, verify: dict[str, str], begins: bool
) -> None:
    """An alert that fires on for a while had no condition when the run found it gone."""
    book = playbook(verify=verify)
    (run,) = _begin(book, [])
    starts = decide_starts(
        [alert()], [book], [ended(run, reason=reason)], budget_per_hour=9, now=NOW
    )
    assert (starts.begin is not None) is begins


def test_a_dry_run_cools_nothing_down() -> None:
    book = playbook(limits={"cooldown": "1h"})
    _, dry = make_run(book, [], None, labels=LABELS, dry_run=True)
    starts = decide_starts([alert()], [book], [ended(dry)], budget_per_hour=9, now=NOW)
    assert starts.begin is not None


def test_what_decisions_still_depend_on_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelplane.decisions.playbook_runs.KEPT_RUNS", 1)
    (about_open,) = _begin(playbook(), [])
    over = about_open.with_spec(alert="over")
    runs = [
        ended(run.with_(metadata=run.metadata.with_(name=f"repair-{number}")))
        for number, run in enumerate((about_open, over, over.with_spec(dry_run=True), over), 1)
    ]
    later = NOW + timedelta(hours=2)
    assert surplus("repair", runs, [alert()], NOW) == (), "limits count them"
    assert [run.metadata.name for run in surplus("repair", runs, [alert()], later)] == ["repair-2"]
    assert surplus("other", runs, [], later) == ()


def test_a_label_does_not_smuggle_a_place_into_a_command() -> None:
    step = {"name": "s", "runCommand": {"command": ["{python}", "{{ $labels.who }}"]}}
    (run,) = _begin(playbook(steps=[step]), [])
    (declared,) = run.spec.steps

    def planned(who: str) -> Act | Done | Refused:
        labels = {**LABELS, "who": who}
        return plan(declared, run.with_spec(labels=labels), World(has_environment=True), NOW)

    assert isinstance(planned("me"), Act)
    assert isinstance(planned("{python}"), Refused)
    assert isinstance(planned("x{artifact:model}"), Refused)
