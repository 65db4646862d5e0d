"""A run and everything its stages found, as one report: JSON, JUnit XML, HTML. Pure.

Called by the API. JUnit has a suite for each stage, so that any CI server shows it; the HTML page
stands alone, runs no scripts and loads nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from html import escape
from typing import Literal
from xml.etree import ElementTree as Xml

from pydantic import Field

from modelplane.resources.gate_run import (
    GateRun,
    Measurement,
    RunPhase,
    StageOutcome,
    StagePhase,
    StageResult,
    StageStatus,
    Trigger,
)
from modelplane.resources.meta import Part

ReportFormat = Literal["json", "junit", "html"]
MEDIA_TYPES: dict[ReportFormat, str] = {
    "json": "application/json",
    "junit": "application/xml",
    "html": "text/html",
}

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class StageReport(Part):
    """A stage of a run, and what it found."""

    name: str
    role: str
    check: str
    phase: StagePhase
    message: str = ""
    log_tail: str = ""
    cached: bool = False
    made_in: str | None = Field(default=None, description="The run that the result is of.")
    result: str | None = Field(default=None, description="Name of the StageResult.")
    key: str = ""
    evidence: tuple[str, ...] = Field(default=(), description="Digests of artifacts.")
    duration_s: float | None = Field(default=None, description="Of its jobs, when they ran.")
    outcome: StageOutcome | None = None


class GateReport(Part):
    """A run from beginning to end."""

    run: str
    pipeline: str
    pipeline_digest: str
    model: str
    version: str
    revision: str = Field(description="Digest of the revision that was checked.")
    champion: str | None = Field(default=None, description="The version it was compared with.")
    trigger: Trigger
    requested_by: str
    reason: str = ""
    phase: RunPhase
    message: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    stages: tuple[StageReport, ...] = ()


def make_report(run: GateRun, results: Mapping[str, StageResult]) -> GateReport:
    """Return the report of a run, finished or not.

    Parameters
    ----------
    results
        By name, those that the run's stages name.
    """
    spec, status = run.spec, run.status
    revision = spec.candidate.revision
    told = {stage.name: stage for stage in status.stages}
    stages = []
    for stage in spec.stages:
        now = told.get(stage.name, StageStatus(name=stage.name))
        stages.append(
            _stage(now, stage.role, stage.check, results.get(now.result) if now.result else None)
        )
    return GateReport(
        run=run.metadata.name,
        pipeline=spec.pipeline,
        pipeline_digest=spec.pipeline_digest,
        model=revision.model,
        version=revision.version,
        revision=revision.digest,
        champion=spec.champion.revision.version if spec.champion else None,
        trigger=spec.trigger,
        requested_by=spec.subject.name,
        reason=spec.reason,
        phase=status.phase,
        message=status.message,
        started_at=status.started_at,
        finished_at=status.finished_at,
        stages=tuple(stages),
    )


def _stage(now: StageStatus, role: str, check: str, result: StageResult | None) -> StageReport:
    spec = result.spec if result else None
    evidence = (spec.evidence, *spec.shard_evidence) if spec else ()
    return StageReport(
        name=now.name,
        role=role,
        check=check,
        phase=now.phase,
        message=now.message,
        log_tail=now.log_tail,
        cached=now.cached,
        made_in=spec.run if spec else None,
        result=now.result,
        key=now.key,
        evidence=tuple(digest for digest in evidence if digest),
        duration_s=spec.duration_s if spec else None,
        outcome=spec.outcome if spec else None,
    )


# -- JUnit --------------------------------------------------------------------------------


def format_junit(report: GateReport) -> str:
    """Return the report as JUnit XML: a suite for each stage, with its cases.

    A stage without cases is one case itself; its measurements that decide are cases too.
    """
    root = Xml.Element("testsuites", name=_xml(f"{report.run} {report.model}@{report.version}"))
    for stage in report.stages:
        root.append(_suite(stage, report))
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    Xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(root, "unicode") + "\n"


def _suite(stage: StageReport, report: GateReport) -> Xml.Element:
    suite = Xml.Element("testsuite", name=_xml(stage.name))
    if report.started_at is not None:
        suite.set("timestamp", f"{report.started_at:%Y-%m-%dT%H:%M:%S}")
    suite.set("time", f"{stage.duration_s or 0.0:.3f}")
    properties = Xml.SubElement(suite, "properties")
    known = {"check": stage.check, "role": stage.role, "cached": str(stage.cached).lower()}
    for name, value in (known | {"key": stage.key}).items():
        Xml.SubElement(properties, "property", name=name, value=_xml(value))
    outcome = stage.outcome
    if outcome is None:
        _add_case(suite, stage, stage.name, _WORDS.get(stage.phase, "skipped"), stage.message)
    else:
        for case in outcome.cases:
            verdict = "skipped" if case.skipped else "passed" if case.passed else "failure"
            element = _add_case(suite, stage, case.name, verdict, case.message)
            element.set("time", f"{case.duration_s:.3f}")
        for measured in outcome.measurements:
            if measured.passed is not None:
                verdict = "passed" if measured.passed else "failure"
                _add_case(suite, stage, _title(measured), verdict, describe(measured))
        _add_case(suite, stage, stage.name, "passed" if outcome.passed else "failure", _said(stage))
    cases = suite.findall("testcase")
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(sum(case.find(tag) is not None for case in cases)))
    suite.set("tests", str(len(cases)))
    return suite


_WORDS = {"Errored": "error", "Failed": "failure", "Passed": "passed"}


def _said(stage: StageReport) -> str:
    findings = stage.outcome.findings if stage.outcome else ()
    lines = [f"{f.severity}: {f.message} {f.where}".strip() for f in findings]
    return "\n".join([stage.message, *lines]).strip()


def _add_case(
    suite: Xml.Element, stage: StageReport, name: str, verdict: str, message: str
) -> Xml.Element:
    case = Xml.SubElement(suite, "testcase", name=_xml(name), classname=_xml(stage.name))
    if verdict != "passed":
        first = message.partition("\n")[0]
        told = Xml.SubElement(case, verdict, message=_xml(first))
        if verdict != "skipped":
            told.text = _xml("\n".join(part for part in (message, stage.log_tail) if part))
    return case


def _xml(text: str) -> str:
    """Return `text` without the characters that XML cannot hold, escaped or not."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)


# -- words --------------------------------------------------------------------------------


def _title(measured: Measurement) -> str:
    return f"{measured.name} [{measured.slice}]" if measured.slice else measured.name


def describe(measured: Measurement) -> str:
    """Return a measurement in words, with what it was held against.

    Examples
    --------
    >>> describe(Measurement(name="accuracy", value=0.91, at_least=0.92, champion=0.9))
    'accuracy 0.91, wanted at least 0.92, champion 0.9'
    """
    parts = [f"{_title(measured)} {measured.value:.6g}"]
    if measured.at_least is not None:
        parts.append(f"wanted at least {measured.at_least:.6g}")
    if measured.at_most is not None:
        parts.append(f"wanted at most {measured.at_most:.6g}")
    if measured.champion is not None:
        parts.append(f"champion {measured.champion:.6g}")
    if measured.lower is not None and measured.upper is not None:
        parts.append(f"difference between {measured.lower:+.6g} and {measured.upper:+.6g}")
    return ", ".join(parts)


# -- HTML ---------------------------------------------------------------------------------

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;
color:#1d2330;background:#fff}h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse;width:100%;margin:.5rem 0}th,td{text-align:left;padding:.3rem .6rem;
border-bottom:1px solid #dde1e8;vertical-align:top}td.n{font-variant-numeric:tabular-nums}
pre{background:#f4f5f7;padding:.6rem;overflow:auto;max-height:20rem}.Passed{color:#14703a}
.Failed,.Errored,.error{color:#b3261e}.Skipped,.Cancelled,.Waiting,.warning{color:#7a5a00}
small{color:#5b6372}
@media(prefers-color-scheme:dark){body{color:#e6e8ee;background:#15181e}th,td{border-color:#333a46}
pre{background:#1f242c}.Passed{color:#5fd08a}.Failed,.Errored,.error{color:#ff8a80}
.Skipped,.Cancelled,.Waiting,.warning{color:#e5c060}small{color:#9aa3b2}}
"""


def format_html(report: GateReport) -> str:
    """Return the report as one HTML page; everything in it is escaped."""
    title = f"{report.run}: {report.model}@{report.version}"
    lines = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">",
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)} {_mark(report.phase)}</h1>",
        f"<p>{escape(report.message)}</p>",
        _table(("", ""), _facts(report)),
        _table(("Stage", "Check", "Outcome", "Time", ""), map(_overview, report.stages)),
    ]
    for stage in report.stages:
        lines += _section(stage)
    return "\n".join([*lines, "</body></html>", ""])


def _facts(report: GateReport) -> Iterable[tuple[str, ...]]:
    known = {
        "Pipeline": f"{report.pipeline} ({report.pipeline_digest[:12]})",
        "Revision": report.revision,
        "Compared with": report.champion or "nothing",
        "Asked for by": " ".join(filter(None, (report.requested_by, f"({report.trigger})"))),
        "Reason": report.reason,
        "Started": f"{report.started_at:%Y-%m-%d %H:%M:%S %Z}" if report.started_at else "",
        "Finished": f"{report.finished_at:%Y-%m-%d %H:%M:%S %Z}" if report.finished_at else "",
    }
    return ((escape(name), escape(value)) for name, value in known.items() if value)


def _overview(stage: StageReport) -> tuple[str, ...]:
    time = f"{stage.duration_s:.1f} s" if stage.duration_s is not None else ""
    reused = f"<small>reused from {escape(stage.made_in or '')}</small>" if stage.cached else ""
    return (escape(stage.name), escape(stage.check), _mark(stage.phase), time, reused)


def _section(stage: StageReport) -> list[str]:
    lines = [f"<h2>{escape(stage.name)} {_mark(stage.phase)}</h2>"]
    if stage.message:
        lines.append(f"<p>{escape(stage.message)}</p>")
    if stage.log_tail:
        lines.append(f"<pre>{escape(stage.log_tail)}</pre>")
    outcome = stage.outcome
    if outcome is not None and outcome.measurements:
        head = ("Metric", "Value", "Wanted", "Champion", "Difference", "Rows")
        lines.append(_table(head, map(_measured, outcome.measurements)))
    if outcome is not None and outcome.findings:
        rows = (
            (_mark(f.severity), escape(f.code), escape(f.message), escape(f.where))
            for f in outcome.findings
        )
        lines.append(_table(("", "Finding", "", "Where"), rows))
    if outcome is not None and outcome.cases:
        cases = (
            (
                escape(case.name),
                _mark("Skipped" if case.skipped else "Passed" if case.passed else "Failed"),
                f"{case.duration_s:.3f} s",
                escape(case.message),
            )
            for case in outcome.cases
        )
        lines.append(_table(("Case", "", "Time", ""), cases))
    if stage.evidence:
        lines.append(f"<p><small>Evidence: {escape(', '.join(stage.evidence))}</small></p>")
    return lines


def _measured(measured: Measurement) -> tuple[str, ...]:
    bounds = ((">= ", measured.at_least), ("<= ", measured.at_most))
    wanted = ", ".join(f"{sign}{bound:.6g}" for sign, bound in bounds if bound is not None)
    difference = "" if measured.difference is None else f"{measured.difference:+.6g}"
    if measured.lower is not None and measured.upper is not None:
        difference += f" ({measured.lower:+.4g} to {measured.upper:+.4g})"
    return (
        escape(_title(measured)),
        f"{measured.value:.6g} {_mark(_VERDICTS[measured.passed])}",
        escape(wanted),
        "" if measured.champion is None else f"{measured.champion:.6g}",
        escape(difference),
        "" if measured.rows is None else str(measured.rows),
    )


_VERDICTS = {True: "Passed", False: "Failed", None: ""}


def _mark(phase: str) -> str:
    return f'<span class="{escape(phase)}">{escape(phase)}</span>' if phase else ""


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table; the cells are HTML already."""
    titles = "".join(f"<th>{title}</th>" for title in head)
    body = "".join(
        f"<tr>{''.join(f'<td class=n>{cell}</td>' for cell in cells)}</tr>" for cells in rows
    )
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"
