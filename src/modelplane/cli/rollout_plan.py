"""``rollout plan``: what a rollout would take, before it begins."""

from __future__ import annotations

from collections.abc import Iterable

import typer

from modelplane.cli import words
from modelplane.cli.files import load_manifests
from modelplane.cli.options import Environment, Files, Plain, PlainOutput
from modelplane.cli.output import print_json, print_table, remark, warn
from modelplane.cli.session import Session, command
from modelplane.decisions.preflight import PlannedMetric, RolloutPlan
from modelplane.errors import InvalidResource
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.traffic_policy import TrafficPolicy


def add_plan_command(group: typer.Typer) -> None:
    """Add ``plan`` to the commands about rollouts."""

    @command(
        group,
        "plan",
        examples=[
            "modelplane rollout plan -f fraud.yaml",
            "modelplane rollout plan -f fraud.yaml -e staging -o json",
        ],
    )
    def plan(
        session: Session,
        *,
        files: Files,
        environment: Environment = None,
        output: PlainOutput = Plain.TEXT,
    ) -> None:
        """Say what rolling out a manifest would take at the present traffic; change nothing.

        How long the ramp lasts, the smallest harm it can find in that time, how many requests
        meet the candidate, and whether the traffic can answer the margins before the deadline.
        """
        found = [
            session.client.plan(_placed(resource, environment))
            for resource in load_manifests(files)
            if isinstance(resource, ModelDeployment | TrafficPolicy)
        ]
        if not found:
            raise InvalidResource(
                "nothing to roll out", hint="a plan is of a ModelDeployment or a TrafficPolicy"
            )
        if output is Plain.JSON:
            print_json([one.to_dict() for one in found])
            return
        for one in found:
            print_plan(one)


def _placed(
    declared: ModelDeployment | TrafficPolicy, environment: str | None
) -> ModelDeployment | TrafficPolicy:
    if environment is None:
        return declared
    return declared.with_(metadata=declared.metadata.with_(environment=environment))


def print_plan(plan: RolloutPlan) -> None:
    """Print a plan for people: steps, times, metrics; then notes and warnings on stderr."""
    over = f" over {plan.stable}" if plan.stable else ""
    typer.echo(
        f"{plan.deployment} in {plan.environment}: {plan.candidate}{over}, {plan.strategy}, "
        f"at {plan.request_rate_rps:.3g} requests/s"
    )
    if plan.steps:
        print_table(
            ["WEIGHT", "FOR", "REQUESTS TO THE CANDIDATE"],
            [
                [
                    words.percent(round(step.weight_pct, 2)),
                    words.duration(step.seconds),
                    f"{step.candidate_requests:,}",
                ]
                for step in plan.steps
            ],
        )
    if plan.metrics:
        print_table(
            ["METRIC", "STABLE", "MARGIN", "PASSES AFTER", "SMALLEST HARM FOUND"],
            [_metric_row(metric) for metric in plan.metrics],
        )
    for line in _sentences(plan):
        typer.echo(line)
    for note in plan.notes:
        remark(note)
    for warning in plan.warnings:
        warn(warning)


def _metric_row(metric: PlannedMetric) -> list[str]:
    return [
        metric.name,
        words.NOTHING if metric.stable is None else _value(metric, metric.stable),
        words.NOTHING if metric.margin is None else _worse(metric, metric.margin),
        words.NOTHING if metric.passes_after_s is None else words.duration(metric.passes_after_s),
        words.NOTHING if metric.smallest_harm is None else _worse(metric, metric.smallest_harm),
    ]


def _value(metric: PlannedMetric, value: float) -> str:
    return f"{value / 1000:.3g} ms" if metric.name == "latency" else f"{value * 100:.3g} %"


def _worse(metric: PlannedMetric, amount: float) -> str:
    unit = "% slower" if metric.name == "latency" else "pp"
    return f"{amount * 100:.2g} {unit}"


def _sentences(plan: RolloutPlan) -> Iterable[str]:
    if plan.typical_s is not None and plan.least_s is not None:
        late = f"; deadline {words.duration(plan.deadline_s)}" if plan.deadline_s else ""
        yield (
            f"a healthy candidate takes about {words.duration(plan.typical_s)}, "
            f"{words.duration(plan.least_s)} at the least{late}"
        )
    if plan.candidate_requests is not None:
        users = f" and {words.percent(round(plan.users_pct, 2))} of the users"
        copied = " copies of requests" if plan.strategy == "shadow" else " requests"
        yield (
            f"about {plan.candidate_requests:,}{copied}"
            f"{users if plan.users_pct else ''} meet the candidate"
        )
    if plan.worst_failed_requests is not None and plan.strategy != "shadow":
        who = "stable answers them" if plan.shielded else "users see them: there is no shield"
        yield (
            f"at the worst size of harm it fails about {plan.worst_failed_requests:,} requests "
            f"before it is taken back; {who}"
        )
