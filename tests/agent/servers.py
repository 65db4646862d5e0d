"""Model servers in memory: what they answer is the test's to say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelplane.decisions.comparison import KeptAnswer
from modelplane.ports.servers import (
    AnswerPage,
    Prediction,
    PredictionPage,
    PreparationFailed,
    Readiness,
    Scrape,
    ServerCommand,
)
from modelplane.resources.monitoring import PredictionLog
from modelplane.resources.replica import Replica


@dataclass
class FakePredictionLog:
    """What a model server remembers of its predictions; a page has two requests."""

    requests: list[list[dict[str, Any]]] = field(default_factory=list)
    dropped: int = 0
    told: int = 0

    def page(self, after: str) -> PredictionPage:
        sequence, self.told = map(int, (after or f"0.{self.told}").split("."))
        page = self.requests[sequence : sequence + 2]
        end = sequence + len(page)
        return PredictionPage(
            tuple(event for request in page for event in request),
            len(page),
            self.dropped - self.told,
            f"{end}.{self.dropped}",
            end < len(self.requests),
        )


@dataclass
class FakeServers:
    """Model servers that are whatever the test says; by default ready and right."""

    preparation: Callable[[Replica], ServerCommand | PreparationFailed] | None = None
    readiness: dict[Path, Readiness] = field(default_factory=dict)
    default_readiness: Readiness = Readiness.READY
    prediction: Prediction = field(default_factory=lambda: Prediction(True))
    predictions: list[Mapping[str, Any]] = field(default_factory=list)
    prepared: list[tuple[str, Path]] = field(default_factory=list)
    told: Scrape | Exception = field(default_factory=lambda: Scrape({"rows_total": 7.0}))
    scrapes: list[tuple[Path, str]] = field(default_factory=list)
    kept: dict[Path, list[KeptAnswer] | Exception | None] = field(default_factory=dict)
    asked: list[tuple[Path, int]] = field(default_factory=list)
    page_size: int = 100
    logged: dict[Path, FakePredictionLog | Exception | None] = field(default_factory=dict)
    log_questions: list[tuple[Path, PredictionLog | None]] = field(default_factory=list)

    async def prepare(
        self, replica: Replica, artifact: Path, socket: Path
    ) -> ServerCommand | PreparationFailed:
        self.prepared.append((replica.metadata.name, artifact))
        if self.preparation is not None:
            return self.preparation(replica)
        return ServerCommand(("serve", str(socket)), {"PATH": "/bin"})

    async def ask_readiness(self, socket: Path) -> Readiness:
        return self.readiness.get(socket, self.default_readiness)

    async def predict(
        self, socket: Path, replica: Replica, request: Mapping[str, Any]
    ) -> Prediction:
        self.predictions.append(request)
        return self.prediction

    async def scrape(self, socket: Path, path: str) -> Scrape:
        self.scrapes.append((socket, path))
        if isinstance(self.told, Exception):
            raise self.told
        return self.told

    async def read_answers(self, socket: Path, after: int) -> AnswerPage | None:
        self.asked.append((socket, after))
        kept = self.kept.get(socket, [])
        if isinstance(kept, Exception):
            raise kept
        if kept is None:
            return None
        end = min(len(kept), after + self.page_size)
        return AnswerPage(tuple(kept[after:end]), end, end < len(kept))

    async def read_predictions(
        self, socket: Path, after: str, log: PredictionLog | None
    ) -> PredictionPage | None:
        self.log_questions.append((socket, log))
        logged = self.logged.get(socket, FakePredictionLog())
        if isinstance(logged, Exception):
            raise logged
        return logged.page(after) if logged is not None else None

    def job_environment(self, env: Mapping[str, str], *, ours: bool = False) -> dict[str, str]:
        return {"PATH": "/bin", **({"OURS": "1"} if ours else {}), **env}
