"""Quality as people see it. Pure: a report in, text out. Called by ``quality show``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from modelplane.cli import words
from modelplane.cli.tables import format_table
from modelplane.decisions.quality import Completeness, Figure, QualityReport, VersionQuality

_HEADERS = ("VERSION", "SLICE", "METRIC", "VALUE", "95 % INTERVAL", "OF")
_LABEL_HEADERS = ("VERSION", "PREDICTIONS", "LABELLED", "DUE", "OF THESE LABELLED", "LOST")


def format_quality(report: QualityReport, now: datetime, width: int | None) -> str:
    """Return a report as lines of text; `width` is the terminal's, None cuts nothing."""
    lines = [_head(report, now)]
    rows = [row for version in report.versions for row in _rows(version)]
    if rows:
        lines += ["", format_table(_HEADERS, rows, width)]
    if report.completeness:
        labels = [_completeness_row(one) for one in report.completeness]
        lines += ["", format_table(_LABEL_HEADERS, labels, width)]
    return "\n".join(lines)


def _head(report: QualityReport, now: datetime) -> str:
    place = f"{report.deployment} in {report.environment}"
    if report.since is None or report.until is None:
        if report.completeness:
            return f"{place}: no label has come for its predictions yet"
        return f"{place}: no predictions are kept; write spec.predictions: {{}}"
    since, until = words.age(report.since, now), words.age(report.until, now)
    return f"{place}, {report.task or 'rewards'}: predictions made {since} to {until} ago"


def _rows(version: VersionQuality) -> Iterator[tuple[str, ...]]:
    for name, figure in version.metrics.items():
        yield (
            version.version,
            version.slice or "all",
            name,
            f"{figure.value:.4g}",
            _interval(figure),
            f"{figure.count:,}",
        )


def _interval(figure: Figure) -> str:
    if figure.lower is None or figure.upper is None:
        return "-"
    return f"{figure.lower:.4g} to {figure.upper:.4g}"


def _completeness_row(one: Completeness) -> tuple[str, ...]:
    ratio = "-" if one.due_ratio is None else f"{one.due_ratio:.1%}"
    return (
        one.version,
        f"{one.predictions:,}",
        f"{one.labelled:,}",
        f"{one.due:,}",
        ratio,
        f"{one.dropped:,}",
    )
