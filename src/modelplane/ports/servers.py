"""Model servers and the artifacts they load, as the agent needs them.

An implementation knows how environments are built, which command serves which format and how
a server is asked. It starts nothing: the process keeper does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from modelplane.decisions.comparison import KeptAnswer
from modelplane.resources.monitoring import PredictionLog
from modelplane.resources.replica import Replica


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """How a model server is started: program and arguments, and all its variables."""

    command: tuple[str, ...]
    env: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PreparationFailed:
    """A version's environment cannot be built; what happened, and the end of the log.

    ``transient`` when trying again may help: the package index did not answer, say.
    """

    message: str
    log_tail: str = ""
    transient: bool = False


class Readiness(StrEnum):
    """What a model server said when it was asked whether it is ready."""

    READY = "ready"
    NOT_READY = "not_ready"
    NO_ANSWER = "no_answer"


@dataclass(frozen=True, slots=True)
class Prediction:
    """The outcome of one inference request: whether it succeeded, and why not."""

    succeeded: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class Scrape:
    """What a model server told of itself: samples by name and labels, or why there are none.

    Within the bounds of `resources.telemetry.ScrapedMetrics`; `truncated` when it told more.
    """

    samples: Mapping[str, float] = field(default_factory=dict)
    truncated: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class AnswerPage:
    """Answers that a model server kept, oldest first.

    ``next`` is the number to ask with the next time; ``more`` when there are more already.
    """

    answers: tuple[KeptAnswer, ...] = ()
    next: int = 0
    more: bool = False


@dataclass(frozen=True, slots=True)
class PredictionPage:
    """Predictions that a model server remembered, oldest first.

    Attributes
    ----------
    events
        CloudEvents as the server wrote them (`modelplane_runtime.prediction_events`).
    rows
        Rows that they tell of.
    dropped
        Rows lost since the last page that was known to have arrived.
    next
        What to ask with the next time, which tells that this page has arrived.
    more
        Whether there are more already.
    """

    events: tuple[Mapping[str, Any], ...] = ()
    rows: int = 0
    dropped: int = 0
    next: str = ""
    more: bool = False


class ModelServers(Protocol):
    """How this node runs model servers and speaks to them."""

    async def prepare(
        self, replica: Replica, artifact: Path, socket: Path
    ) -> ServerCommand | PreparationFailed:
        """Make everything ready that the server needs, and return how to start it.

        Takes as long as installing packages takes; done before, it returns at once. Safe to
        cancel.
        """

    async def ask_readiness(self, socket: Path) -> Readiness:
        """Ask the server whether it is ready; takes a second at the most."""

    async def predict(
        self, socket: Path, replica: Replica, request: Mapping[str, Any]
    ) -> Prediction:
        """Send one inference request."""

    async def scrape(self, socket: Path, path: str) -> Scrape:
        """Ask the server for its metrics; takes a few seconds at the most."""

    async def read_answers(self, socket: Path, after: int) -> AnswerPage | None:
        """Return the answers that the server kept to be compared after number `after`.

        Takes a few seconds at the most. None when it does not answer, or keeps none.
        """

    async def read_predictions(
        self, socket: Path, after: str, log: PredictionLog | None
    ) -> PredictionPage | None:
        """Return predictions after the cursor `after`, and have the server keep `log` from now on.

        None for `log` stops and empties its log. Takes a few seconds at the most. None when it
        does not answer, or keeps none.
        """

    def job_environment(self, env: Mapping[str, str], *, ours: bool = False) -> dict[str, str]:
        """Return all variables of a job that declares `env`; little is inherited.

        With `ours` it runs in this node's own interpreter: then it may build environments and
        read data as this node may, and gets what that takes.
        """


class Artifacts(Protocol):
    """The node's cache of artifacts."""

    async def fetch(self, digest: str) -> Path:
        """Return the directory of the artifact's files, verified against `digest`.

        Raises `NotFound` when nobody has it, `TerminalError` when what came does not have the
        digest, and `TransientError` (`NoSpace` too) when trying again helps.
        """
