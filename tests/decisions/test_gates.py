"""Runs of pipelines: what starts when, what is tried again, and how it all ends."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.gate_jobs import job_name, read_job
from modelplane.decisions.gates import needs_of
from modelplane.resources.job import FINISHED_JOB, Job
from modelplane.resources.meta import check_resource_name
from modelplane.resources.validation_pipeline import Stage
from tests.decisions.gate_worlds import Bench, digest_of, served, stage

SUITE = {"run": ["sh", "-c", "test {cases}"], "cases": ["a", "b", "c", "d"]}


def test_stages_that_need_nothing_run_beside_each_other_up_to_the_limit() -> None:
    bench = Bench(*(stage(f"s{i}") for i in range(6)), max_parallel=4)
    bench.settle()
    assert list(bench.phases.values()) == ["Running"] * 4 + ["Waiting"] * 2
    bench.end_all("s1")
    bench.settle()
    assert bench.phases["s1"] == "Passed"
    assert bench.phases["s4"] == "Running"


def test_a_stage_waits_for_what_it_needs_and_is_skipped_without_it() -> None:
    bench = Bench(stage("one"), stage("two", needs=["one"]), stage("three", needs=["two"]))
    bench.settle()
    assert bench.phases == {"one": "Running", "two": "Waiting", "three": "Waiting"}
    bench.end_all("one", passed=False)
    bench.settle()
    assert bench.phases == {"one": "Failed", "two": "Skipped", "three": "Skipped"}
    assert bench.run.status.phase == "Failed"
    assert bench.run.status.message == "0 of 3 stages passed; one failed: said"
    assert bench.run.status.stages[2].message == "needs two, which was skipped"


def test_approving_stages_run_when_every_validation_has_passed() -> None:
    bench = Bench(stage("scan", role="approve"), stage("one"), stage("two"))
    bench.settle()
    bench.end_all("one")
    bench.settle()
    assert bench.phases["scan"] == "Waiting"
    bench.end_all("two")
    bench.settle()
    assert bench.phases["scan"] == "Running"
    bench.end_all("scan")
    bench.settle()
    assert bench.run.status.phase == "Passed"
    assert not bench.jobs, "what is finished is removed"


def test_approving_stages_are_skipped_when_a_validation_failed() -> None:
    bench = Bench(stage("one"), stage("scan", role="approve"))
    bench.settle()
    bench.end_all("one", passed=False)
    bench.settle()
    assert bench.phases == {"one": "Failed", "scan": "Skipped"}


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ({"phase": "Failed", "reason": "TimedOut", "message": "ended at its time-out of 10m"},
         "ended at its time-out"),
        ({"phase": "Failed", "reason": "Signal", "message": "ended by signal 11"}, "signal 11"),
        ({"phase": "Failed", "reason": "InvalidResult", "message": "no JSON"}, "no JSON"),
        ({"phase": "Failed", "reason": "OutOfDisk", "message": "wrote too much"}, "too much"),
        ({"phase": "Failed", "reason": "ExitCode", "exitCode": 65, "message": "exit code 65",
          "result": {"impossible": "no label column"}}, "no label column"),
        ({"phase": "Succeeded", "result": {"passed": "perhaps"}}, "passed"),
        ({"phase": "Succeeded", "result": {"passed": True, "extra": 1}}, "extra"),
        ({"phase": "Cancelled"}, "cancelled"),
    ],
)  # fmt: skip
def test_a_check_that_could_not_be_made_is_an_error_and_not_tried_again(
    status: dict[str, Any], says: str
) -> None:
    bench = Bench(stage("one", retries=5), stage("two"))
    bench.settle()
    bench.end_all("one", **{"logTail": "the end", "result": None, **status})
    bench.end_all("two")
    bench.settle()
    one = bench.run.status.stages[0]
    assert one.phase == "Errored"
    assert says in one.message
    assert bench.run.status.phase == "Errored"
    assert not bench.jobs
    assert len(bench.results) == 1, "an error is no result"


@pytest.mark.parametrize(
    "status",
    [
        {"reason": "Lost"},
        {"reason": "NotStarted"},
        {"reason": "ExitCode", "exitCode": 75, "result": {"infrastructure": "no network"}},
    ],
)
def test_infrastructure_is_tried_again_after_a_pause_and_then_given_up(
    status: dict[str, Any],
) -> None:
    bench = Bench(stage("one", retries=2))
    for attempt, pause_s in ((1, 5.0), (2, 10.0)):
        bench.settle()
        (job,) = bench.of("one")
        assert job.metadata.name == f"quality-1.one.0.{attempt}"
        bench.end(job, **{"phase": "Failed", "message": "gone", **status})
        decision = bench.settle()
        assert decision.requeue_after_s == pause_s
        assert not bench.of("one")
        assert "tried again" in bench.run.status.stages[0].message
        bench.wait(pause_s)
    bench.settle()
    (job,) = bench.of("one")
    bench.end(job, phase="Failed", reason="Lost", message="gone")
    bench.settle()
    assert bench.phases == {"one": "Errored"}
    assert "tried 3 times" in bench.run.status.stages[0].message


def test_a_retry_is_given_exactly_what_the_attempt_before_was_given() -> None:
    bench = Bench(stage("one"))
    bench.settle()
    (first,) = bench.of("one")
    bench.end(first, phase="Failed", reason="Lost")
    bench.settle()
    bench.wait(5)
    bench.settle()
    (second,) = bench.of("one")
    assert second.spec == first.spec
    assert list(bench.jobs) == [second.metadata.name]


def test_a_job_that_is_gone_is_lost() -> None:
    bench = Bench(stage("one", retries=1))
    bench.settle()
    bench.jobs.clear()
    bench.settle()
    (job,) = bench.of("one")
    assert job.metadata.name == "quality-1.one.0.2"
    bench.jobs.clear()
    bench.settle()
    assert bench.phases == {"one": "Errored"}


def test_cancelling_ends_what_runs_and_starts_nothing() -> None:
    bench = Bench(stage("one"), stage("two", needs=["one"]))
    bench.settle()
    bench.run = bench.run.with_spec(cancelled=True)
    bench.settle()
    assert bench.run.status.phase == "Cancelled"
    assert bench.phases == {"one": "Cancelled", "two": "Cancelled"}
    (job,) = bench.jobs.values()
    assert job.spec.cancelled
    bench.end(job, phase="Cancelled")
    bench.settle()
    assert not bench.jobs


def test_without_an_environment_nothing_can_run() -> None:
    bench = Bench(stage("one"))
    bench.environment = None
    bench.settle()
    assert bench.run.status.phase == "Errored"
    assert "environment" in bench.run.status.message


def test_a_result_of_the_same_key_is_taken_over_with_its_evidence() -> None:
    first = Bench(stage("one"))
    first.settle()
    first.end_all("one", output=digest_of("evidence"))
    first.settle()
    again = Bench(
        stage("other-name", config={"run": ["test", "one"]}, timeout="1m", retries=0),
        results=first.results,
    )
    again.settle()
    status = again.run.status.stages[0]
    assert (status.phase, status.cached) == ("Passed", True)
    (result,) = first.results[status.key]
    assert status.result == result.metadata.name
    assert result.spec.evidence == digest_of("evidence")
    assert not again.jobs


def test_a_failed_check_is_taken_over_too_and_never_run_again() -> None:
    first = Bench(stage("one"))
    first.settle()
    first.end_all("one", passed=False)
    first.settle()
    again = Bench(stage("one"), results=first.results)
    again.settle()
    assert again.phases == {"one": "Failed"}
    assert not again.jobs


def test_no_cache_runs_anew_and_the_newest_result_counts() -> None:
    first = Bench(stage("one"))
    first.settle()
    first.end_all("one", passed=False)
    first.settle()
    anew = Bench(stage("one"), results=first.results, no_cache=True)
    anew.settle()
    assert anew.phases == {"one": "Running"}
    anew.end_all("one")
    anew.settle()
    key = anew.run.status.stages[0].key
    names = [result.metadata.name for result in anew.results[key]]
    assert names == [key[:32], f"{key[:32]}-2"]
    third = Bench(stage("one"), results=anew.results)
    third.settle()
    assert third.run.status.stages[0].result == f"{key[:32]}-2"
    assert third.run.status.phase == "Passed"


def test_a_suite_is_cut_and_its_parts_are_one_result() -> None:
    bench = Bench(stage("suite", config=SUITE, shards=2))
    bench.case_durations_s = {"suite": {"a": 9.0, "b": 1.0, "c": 1.0, "d": 1.0}}
    bench.settle()
    jobs = bench.of("suite")
    assert [job.spec.input["cases"] for job in jobs if job.spec.input] == [["a"], ["b", "c", "d"]]
    for job in jobs:
        assert job.spec.input is not None
        cases = [
            {"name": case, "passed": case != "c", "durationS": 0.5}
            for case in job.spec.input["cases"]
        ]
        passed = all(case["passed"] for case in cases)
        result = {"passed": passed, "message": "" if passed else "c failed", "cases": cases}
        bench.end(job, result=result, output=digest_of(job.metadata.name))
    bench.settle()
    (results,) = bench.results.values()
    spec = results[0].spec
    assert [case.name for case in spec.outcome.cases] == ["a", "b", "c", "d"]
    assert (spec.outcome.passed, spec.outcome.message) == (False, "c failed")
    assert spec.case_durations_s == {"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.5}
    assert len({spec.evidence, *spec.shard_evidence}) == 2


def test_shards_that_find_no_place_start_when_there_is_one() -> None:
    bench = Bench(stage("suite", config=SUITE, shards=4), max_parallel=3)
    bench.settle()
    assert len(bench.of("suite")) == 3
    bench.end(bench.of("suite")[0], result={"passed": True})
    bench.settle()
    inputs = [job.spec.input for job in bench.of("suite")]
    assert sorted(i["shard"] for i in inputs if i) == [1, 2, 3]
    assert sorted(c for i in inputs if i for c in i["cases"]) == ["b", "c", "d"]


def test_one_broken_shard_ends_the_others() -> None:
    bench = Bench(stage("suite", config=SUITE, shards=2))
    bench.settle()
    first, second = bench.of("suite")
    bench.end(first, phase="Failed", reason="TimedOut", message="ended at its time-out")
    bench.settle()
    assert bench.phases == {"suite": "Errored"}
    assert bench.jobs[second.metadata.name].spec.cancelled


def test_only_jobs_of_compared_checks_get_the_champion() -> None:
    bench = Bench(stage("quality", "accuracy"), stage("scan", "security_scan"))
    bench.run = bench.run.with_spec(champion=served("0.9.0", "older"))
    bench.settle()
    (quality,), (scan,) = bench.of("quality"), bench.of("scan")
    assert set(quality.spec.artifacts) == {"candidate", "champion"}
    assert set(scan.spec.artifacts) == {"candidate"}
    assert quality.spec.disk == 2 * 2**30


@given(
    run=st.text("abc-", min_size=1, max_size=70).map(lambda s: f"r{s}9"),
    name=st.text("abc-", min_size=1, max_size=61).map(lambda s: f"s{s}9"),
    shard=st.integers(0, 63),
    attempt=st.integers(1, 100),
)
def test_names_of_jobs_are_names(run: str, name: str, shard: int, attempt: int) -> None:
    made = job_name(run, name, shard, attempt)
    assert check_resource_name(made) == made
    assert len(made) <= 128
    assert made != job_name(run, name, shard, attempt + 1)
    assert made != job_name(run, name, shard + 1, attempt)


# -- properties -----------------------------------------------------------------------------

ENDINGS: list[dict[str, Any]] = [
    {"phase": "Succeeded", "result": {"passed": True}},
    {"phase": "Succeeded", "result": {"passed": False, "message": "worse"}},
    {"phase": "Succeeded", "result": {"nonsense": 1}},
    {"phase": "Failed", "reason": "Lost"},
    {"phase": "Failed", "reason": "TimedOut"},
    {"phase": "Failed", "reason": "ExitCode", "exitCode": 75},
    {"phase": "Failed", "reason": "ExitCode", "exitCode": 1},
]


@st.composite
def graphs(draw: st.DrawFn) -> list[Stage]:
    """Up to six stages, each needing some of those before it."""
    count = draw(st.integers(1, 6))
    stages: list[Stage] = []
    for index in range(count):
        names = [s.name for s in stages if s.role == "validate"]
        needs = draw(st.lists(st.sampled_from(names), unique=True, max_size=2)) if names else []
        fields: dict[str, Any] = {"needs": needs, "retries": draw(st.integers(0, 2))}
        if draw(st.booleans()):
            fields |= {
                "config": {**SUITE, "env": {"OF": str(index)}},
                "shards": draw(st.integers(1, 4)),
            }
        role = draw(st.sampled_from(["validate", "validate", "approve"]))
        stages.append(stage(f"s{index}", role=role, **fields))
    return stages


class Watched(Bench):
    """A bench that checks at each step what always holds."""

    def __init__(self, stages: list[Stage], max_parallel: int) -> None:
        super().__init__(*stages, max_parallel=max_parallel)
        self.max_parallel = max_parallel
        self.failed: set[str] = set()

    def check(self, created: tuple[Job, ...]) -> None:
        unfinished = [j for j in self.jobs.values() if j.status.phase not in FINISHED_JOB]
        assert len(unfinished) <= self.max_parallel
        by_name = {s.name: s for s in self.run.spec.stages}
        for job in created:
            name = job.metadata.labels["stage"]
            assert name not in self.failed, "a check that said no is never made again"
            for need in needs_of(by_name[name], self.run.spec.stages):
                assert self.phases[need] == "Passed"
        for status in self.run.status.stages:
            if status.phase in {"Failed", "Errored"}:
                self.failed.add(status.name)
        if self.run.status.phase == "Passed":
            assert set(self.phases.values()) == {"Passed"}
        if self.run.finished:
            assert "Running" not in self.phases.values()
            assert "Waiting" not in self.phases.values()


@given(stages=graphs(), max_parallel=st.integers(1, 4), data=st.data())
def test_every_run_ends_and_never_starts_what_it_may_not(
    stages: list[Stage], max_parallel: int, data: st.DataObject
) -> None:
    bench = Watched(stages, max_parallel)
    for _ in range(400):
        decision = bench.step()
        bench.check(decision.create)
        again = bench.step()
        assert not again.results or not decision.results, "the same is not kept twice"
        bench.check(again.create)
        if bench.run.finished and not bench.jobs:
            break
        running = [j for j in bench.jobs.values() if j.status.phase not in FINISHED_JOB]
        if data.draw(st.booleans()) and running:
            job = data.draw(st.sampled_from(running))
            ending = {"phase": "Cancelled"} if job.spec.cancelled else data.draw(
                st.sampled_from(ENDINGS)
            )  # fmt: skip
            bench.end(job, **ending)
        elif running and data.draw(st.integers(0, 9)) == 0:
            del bench.jobs[data.draw(st.sampled_from(running)).metadata.name]
        elif running and data.draw(st.integers(0, 29)) == 0:
            bench.run = bench.run.with_spec(cancelled=True)
        else:
            bench.wait(400)
            for job in running[:1]:
                bench.end(job, **({"phase": "Cancelled"} if job.spec.cancelled else ENDINGS[0]))
    assert bench.run.finished
    assert not bench.jobs


@given(text=st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5)))
def test_whatever_a_job_writes_is_read_without_an_exception(text: dict[str, Any]) -> None:
    bench = Bench(stage("one"))
    bench.settle()
    (job,) = bench.of("one")
    for phase in ("Succeeded", "Failed"):
        bench.end(job, phase=phase, result=text)
        assert read_job(bench.jobs[job.metadata.name]) is not None
