"""What `get` shows of playbooks and their runs. Pure."""

from __future__ import annotations

from datetime import datetime

from modelplane.cli import words
from modelplane.cli.fillers import Row, columns
from modelplane.resources.alerting import Matcher
from modelplane.resources.playbook import Playbook, PlaybookRun


def write_matcher(matcher: Matcher) -> str:
    """Return a matcher as it is written."""
    return f'{matcher.name}{matcher.operator}"{matcher.value}"'


def state_of(playbook: Playbook) -> str:
    """Return whether a playbook begins runs, in a word or two."""
    held = {one.reason for one in playbook.status.held}
    if playbook.spec.suspended:
        return "suspended"
    if held:
        return f"held: {', '.join(sorted(held))}"
    return "dry run" if playbook.spec.dry_run else "ready"


@columns(Playbook, "ALERTS", "STEPS", "RUNS", "LAST RUN", "STATE")
def _playbook(resource: Playbook, _: datetime) -> Row:
    spec, status = resource.spec, resource.status
    return [
        ",".join(write_matcher(matcher) for matcher in spec.matchers),
        ",".join(step.name for step in spec.steps),
        str(status.runs),
        status.last_run,
        state_of(resource),
    ]


@columns(PlaybookRun, "PLAYBOOK", "ALERT", "PHASE", "STEPS", "TOOK", "MESSAGE")
def _run(resource: PlaybookRun, now: datetime) -> Row:
    spec, status = resource.spec, resource.status
    done = sum(step.phase == "Succeeded" for step in status.steps)
    began = resource.metadata.created_at or now
    took = ((status.finished_at or now) - began).total_seconds()
    return [
        spec.playbook,
        spec.alert or words.labels(spec.labels),
        status.phase,
        f"{done}/{len(spec.steps)}",
        words.duration(took),
        status.message,
    ]
