"""Drift as people see it. Pure: a report in, text out. Called by ``drift show``."""

from __future__ import annotations

from datetime import datetime

from modelplane.cli import words
from modelplane.cli.tables import format_table
from modelplane.decisions.drift_report import DriftReport, FeatureDrift, VersionDrift

_HEADERS = (
    "FEATURE", "STATE", "PSI", "MOVED", "MISSING", "NEW OR RARE", "ROWS", "COMPARED WITH",
)  # fmt: skip


def format_drift(report: DriftReport, now: datetime, width: int | None) -> str:
    """Return a report as lines of text; `width` is the terminal's, None cuts nothing."""
    lines = [f"{report.deployment} in {report.environment}: {report.message}"]
    for version in report.versions:
        lines += ["", _head(version, now)]
        if version.features:
            ordered = sorted(
                version.features, key=lambda f: (not f.is_drifted, -(f.psi or 0.0), f.feature)
            )
            rows = [_row(feature, version, now) for feature in ordered]
            lines.append(format_table(_HEADERS, rows, width))
    return "\n".join(lines)


def _head(version: VersionDrift, now: datetime) -> str:
    window = ""
    if version.window_from is not None and version.window_until is not None:
        length = words.duration((version.window_until - version.window_from).total_seconds())
        until = words.age(version.window_until, now)
        window = f" ({version.rows:,} rows, {length} until {until} ago)"
    return f"{version.version}: {version.state}{window}: {version.message}"


def _row(feature: FeatureDrift, version: VersionDrift, now: datetime) -> tuple[str, ...]:
    return (
        feature.feature,
        _state(feature, now),
        "-" if feature.psi is None else f"{feature.psi:.3f}",
        _moved(feature),
        f"{words.percent(100 * feature.missing)} / {words.percent(100 * feature.missing_before)}",
        f"{words.percent(100 * feature.other)} / {words.percent(100 * feature.other_before)}"
        if feature.kind == "category"
        else "-",
        f"{feature.rows:,}",
        version.data if feature.origin == "data" else "its first window",
    )


def _state(feature: FeatureDrift, now: datetime) -> str:
    if feature.drifted_since is not None:
        return f"drifted {words.age(feature.drifted_since, now)}"
    if feature.psi is None:
        return "too few rows"
    return "differs" if feature.exceeds_since is not None else "stable"


def _moved(feature: FeatureDrift) -> str:
    if feature.moved is not None:
        return f"{feature.moved:.2f} sd"
    return "-" if feature.variation is None else words.percent(100 * feature.variation)
