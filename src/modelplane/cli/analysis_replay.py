"""What ``policy replay`` tells of analysis settings: each recorded rollout, and the sums."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import typer

from modelplane.cli import words
from modelplane.cli.output import print_table, remark
from modelplane.decisions.analysis_replay import AnalysisReplay, Replay, ReplaySummary
from modelplane.errors import InvalidResource
from modelplane.resources.environment import Environment
from modelplane.resources.meta import DEFAULT_ENVIRONMENT
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.strategy import Analysis


@dataclass(frozen=True, slots=True)
class ProposedSettings:
    """Analysis settings, and whose rollouts they are tried on.

    Attributes
    ----------
    deployment
        None: every deployment of the environment.
    """

    analysis: Analysis
    environment: str
    deployment: str | None = None

    def __str__(self) -> str:
        return f"{self.environment}/{self.deployment or '*'}"


def settings_in(resource: ModelDeployment | Environment) -> ProposedSettings:
    """Return the settings that a manifest proposes.

    Raises
    ------
    InvalidResource
        It declares no canary.
    """
    strategy = resource.spec.strategy
    if strategy is None or strategy.canary is None:
        raise InvalidResource(
            f"{resource.key} declares no strategy.canary",
            hint="its analysis is what is tried on recorded rollouts",
        )
    if isinstance(resource, Environment):
        return ProposedSettings(strategy.canary.analysis, resource.metadata.name)
    place = resource.metadata.environment or DEFAULT_ENVIRONMENT
    return ProposedSettings(strategy.canary.analysis, place, resource.metadata.name)


def print_analysis(settings: ProposedSettings, found: AnalysisReplay, *, everything: bool) -> None:
    """Print the rollouts that come out differently (or all), then the sums of both settings."""
    shown = [row for row in found.rollouts if everything or row.flips]
    if shown:
        headers = ["ROLLOUT", "VERSION", "TURNED OUT", "PRESENT SETTINGS", "PROPOSED SETTINGS"]
        rows = [
            [row.rollout, row.version, row.truth, _tell(row.present), _tell(row.proposed)]
            for row in shown
        ]
        print_table(headers, rows)
    typer.echo(f"analysis of {settings} on {len(found.rollouts)} recorded rollouts:")
    print_table(
        ["SETTINGS", "FALSE ROLLBACKS", "MISSED REGRESSIONS", "TIME TO DETECT", "FAILED REQUESTS"],
        list(_sums(found)),
    )
    if found.unknown:
        remark(f"{found.unknown} ended in a way that tells nothing of the candidate")


def _sums(found: AnalysisReplay) -> Iterable[list[str]]:
    for name, summary in (("present", found.present), ("proposed", found.proposed)):
        yield [
            name,
            f"{summary.false_rollbacks} of {found.healthy}",
            f"{summary.missed_regressions} of {found.harmful}",
            *_medians(summary),
        ]


def _medians(summary: ReplaySummary) -> list[str]:
    time_s, failed = summary.median_time_to_detect_s, summary.median_failed_requests
    return [
        words.duration(time_s) if time_s is not None else words.NOTHING,
        f"{failed:g}" if failed is not None else words.NOTHING,
    ]


def _tell(replay: Replay) -> str:
    if replay.said == "nothing" or replay.after_s is None:
        return "nothing in the recording"
    verb = "roll back" if replay.said == "rollback" else "promote"
    return f"{verb} after {words.duration(replay.after_s)}, {replay.failed_requests} failed"
