"""Reports: typed JSON, JUnit that parsers take, HTML that shows and never runs anything."""

from __future__ import annotations

import html.parser
from xml.etree import ElementTree as Xml

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.gate_reports import (
    GateReport,
    describe,
    format_html,
    format_junit,
    make_report,
)
from modelplane.resources.gate_run import Finding, Measurement, StageOutcome, StageResult, TestCase
from tests.decisions.gate_worlds import Bench, stage

NASTY = "<script>alert('x')</script> & \"quoted\" \x00\x1b[31m ünï"


def report_of(*endings: dict[str, object]) -> GateReport:
    """The report of a run whose stages ended so."""
    bench = Bench(*(stage(f"s{index}") for index in range(len(endings))), reason="to see")
    bench.settle()
    for index, ending in enumerate(endings):
        for job in bench.of(f"s{index}"):
            bench.end(job, **ending)
    bench.settle()
    return make_report(bench.run, _results(bench))


def _results(bench: Bench) -> dict[str, StageResult]:
    return {r.metadata.name: r for found in bench.results.values() for r in found}


GOOD: dict[str, object] = {
    "phase": "Succeeded",
    "result": {
        "passed": True,
        "message": "two of two",
        "cases": [
            {"name": "a", "passed": True, "durationS": 0.25},
            {"name": "b", "passed": True, "skipped": True, "message": "not here"},
        ],
        "measurements": [{"name": "accuracy", "value": 0.93, "atLeast": 0.9, "passed": True}],
    },
    "output": "sha256:evidence",
}
BAD: dict[str, object] = {
    "phase": "Succeeded",
    "result": {
        "passed": False,
        "message": "worse",
        "measurements": [
            {"name": "accuracy", "value": 0.8, "atLeast": 0.9, "passed": False, "slice": "sex=f"}
        ],
        "findings": [{"severity": "error", "code": "c", "message": "bad", "where": "row 3"}],
    },
}
BROKEN: dict[str, object] = {
    "phase": "Failed",
    "reason": "TimedOut",
    "message": "ended at its time-out",
    "log_tail": "Traceback",
}


def test_the_report_has_everything_that_stages_found() -> None:
    report = report_of(GOOD, BAD, BROKEN)
    assert GateReport.model_validate(report.to_dict()) == report
    assert [(s.name, s.phase) for s in report.stages] == [
        ("s0", "Passed"), ("s1", "Failed"), ("s2", "Errored"),
    ]  # fmt: skip
    good, bad, broken = report.stages
    assert good.outcome is not None
    assert good.evidence == ("sha256:evidence",)
    assert bad.outcome is not None
    assert bad.outcome.findings[0].where == "row 3"
    assert (broken.outcome, broken.log_tail) == (None, "Traceback")
    assert report.reason == "to see"


def test_junit_counts_what_it_holds() -> None:
    root = Xml.fromstring(format_junit(report_of(GOOD, BAD, BROKEN)))
    suites = {suite.get("name"): suite for suite in root}
    assert list(suites) == ["s0", "s1", "s2"]
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("7", "2", "1")
    assert root.get("skipped") == "1"
    cases = {case.get("name") for case in suites["s0"].findall("testcase")}
    assert cases == {"a", "b", "accuracy", "s0"}
    (failure,) = suites["s1"].findall("testcase[@name='accuracy [sex=f]']/failure")
    assert failure.get("message") == "accuracy [sex=f] 0.8, wanted at least 0.9"
    (error,) = suites["s2"].findall("testcase/error")
    assert error.get("message") == "ended at its time-out"
    assert error.text is not None
    assert "Traceback" in error.text


def test_a_run_that_has_not_begun_has_a_report_too() -> None:
    bench = Bench(stage("one"))
    report = make_report(bench.run, {})
    assert [s.phase for s in report.stages] == ["Waiting"]
    assert Xml.fromstring(format_junit(report)).get("skipped") == "1"
    assert "one" in format_html(report)


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


def nasty_report(text: str) -> GateReport:
    found = StageOutcome(
        passed=False,
        message=text,
        measurements=(Measurement(name=text, value=1.0, slice=text, passed=False),),
        findings=(Finding(severity="error", code=text, message=text, where=text),),
        cases=(TestCase(name=text, passed=False, message=text),),
    )
    report = report_of(BAD)
    (first,) = report.stages
    nasty = first.with_(message=text, log_tail=text, outcome=found)
    return report.with_(stages=(nasty,), message=text, reason=text, requested_by=text)


@pytest.mark.parametrize("text", [NASTY, "]]>", "--><b>", "'\"><img src=x onerror=y>"])
def test_whatever_stages_say_is_shown_and_not_run(text: str) -> None:
    report = nasty_report(text)
    page = _Page()
    page.feed(format_html(report))
    assert not {"script", "img", "b", "a", "link", "iframe"} & set(page.tags)
    assert not [name for name in page.attributes if name.startswith("on") or name == "src"]
    root = Xml.fromstring(format_junit(report))
    assert len(root.findall("testsuite/testcase")) == 3


@given(st.text(max_size=50))
def test_junit_is_xml_whatever_is_in_it(text: str) -> None:
    Xml.fromstring(format_junit(nasty_report(text)))
    format_html(nasty_report(text)).encode("utf-8", "surrogatepass")


def test_measurements_are_told_with_what_they_were_held_against() -> None:
    measured = Measurement(
        name="latency_p95_s", value=0.0123456, at_most=0.01, champion=0.011,
        difference=0.0013, lower=0.001, upper=0.002,
    )  # fmt: skip
    assert describe(measured) == (
        "latency_p95_s 0.0123456, wanted at most 0.01, champion 0.011, "
        "difference between +0.001 and +0.002"
    )
