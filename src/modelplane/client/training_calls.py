"""Training as calls: start, cancel, and the token of a run's Job. Sends nothing.

Used by `training.TrainingClient` and, for agents, by `asynchronous.AsyncClient`.
"""

from __future__ import annotations

from typing import NamedTuple

from modelplane.client import calls
from modelplane.client.answers import read_object
from modelplane.client.calls import Call
from modelplane.resources.training import TrainingRun, TrainingTrigger


class TrainingAccess(NamedTuple):
    """Where a training registers what it made, and the token that lets it."""

    url: str
    token: str


def start_call(trigger: str, reason: str) -> Call:
    """Return the call that begins a run of a trigger."""
    return calls.act(TrainingTrigger, trigger, "start", None, {"reason": reason})


def cancel_call(run: str, reason: str) -> Call:
    """Return the call that cancels a run."""
    return calls.act(TrainingRun, run, "cancel", None, {"reason": reason})


def token_call(run: str, job: str) -> Call:
    """Return the call that makes the token of a run, for its Job ``ENVIRONMENT/NAME``."""
    return calls.act(TrainingRun, run, "token", None, {"job": job})


def read_access(url: str, body: bytes) -> TrainingAccess:
    """Return the answer to `token_call`."""
    return TrainingAccess(url, str(read_object(body)["secret"]))
