"""The command line of the model server; parsed once, by ``server``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelplane_runtime.app import DEFAULT_MAX_BODY_BYTES, DEFAULT_QUEUE_LIMIT_PER_WORKER
from modelplane_runtime.models.loading import FORMATS
from modelplane_runtime.models.pickle_file import PICKLE_RULES, PickleRule
from modelplane_runtime.prediction_events import LogSettings, parse_settings

DEFAULT_DRAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Options:
    """What one server process was told."""

    uds: Path
    model_name: str
    model_version: str
    format: str
    artifact: Path
    allow_pickle: PickleRule
    signature: Path | None
    workers: int
    queue_limit: int
    max_body_bytes: int
    drain_s: float
    replica: str
    log_settings: LogSettings | None


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line; a wrong one ends the process with a message and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m modelplane_runtime",
        description="Serve one model version by the Open Inference Protocol on a Unix socket.",
    )
    parser.add_argument("--uds", type=Path, required=True, help="path of the Unix socket")
    parser.add_argument("--model-name", required=True)
    parser.add_argument("--model-version", required=True)
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--artifact", type=Path, required=True, help="file or directory")
    parser.add_argument(
        "--allow-pickle",
        choices=PICKLE_RULES,
        default="never",
        help="which artifacts that can run any code when they are loaded are loaded; scanned: "
        "those whose every import is on the allowlist",
    )
    parser.add_argument("--signature", type=Path, help="JSON with the model's inputs and outputs")
    parser.add_argument("--workers", type=_positive, default=1, help="prediction threads")
    parser.add_argument(
        "--queue-limit",
        type=_positive,
        help=f"requests that may wait (default {DEFAULT_QUEUE_LIMIT_PER_WORKER} a worker)",
    )
    parser.add_argument("--max-body-bytes", type=_positive, default=DEFAULT_MAX_BODY_BYTES)
    parser.add_argument(
        "--drain-s",
        type=float,
        default=DEFAULT_DRAIN_S,
        help="seconds that requests in flight get on SIGTERM",
    )
    parser.add_argument("--replica", default="", help="name of this replica, for metrics")
    parser.add_argument(
        "--log-predictions",
        type=_log_settings,
        metavar="JSON",
        help="what is remembered of each prediction, as the deployment's `predictions` says",
    )
    found = parser.parse_args(arguments)
    return Options(
        uds=found.uds,
        model_name=found.model_name,
        model_version=found.model_version,
        format=found.format,
        artifact=found.artifact,
        allow_pickle=found.allow_pickle,
        signature=found.signature,
        workers=found.workers,
        queue_limit=found.queue_limit or DEFAULT_QUEUE_LIMIT_PER_WORKER * found.workers,
        max_body_bytes=found.max_body_bytes,
        drain_s=max(0.0, found.drain_s),
        replica=found.replica,
        log_settings=found.log_predictions,
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def _log_settings(text: str) -> LogSettings:
    try:
        return parse_settings(json.loads(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
