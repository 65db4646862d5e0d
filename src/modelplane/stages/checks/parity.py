"""Parity: golden inputs give the same outputs in each environment, from files of one digest.

Run by `stages.running`. The candidate, served here, is the reference. It is asked twice and once
more in a second process, since a model that contradicts itself agrees with nothing; then each
environment that serves the same files is asked through its gateway. An environment that serves
other files is not compared with: before a promotion that is every one of them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from modelplane.decisions.answers import Difference, compare_answers
from modelplane.resources.checks import ParityCheck
from modelplane.resources.gate_run import (
    Finding,
    Measurement,
    StageOutcome,
    StageTask,
    TestCase,
)
from modelplane.stages.data import requests_of
from modelplane.stages.data_tables import data_of, load_table, tell_data
from modelplane.stages.evidence import write_json
from modelplane.stages.failures import CheckImpossible, InfrastructureFailed
from modelplane.stages.workspace import RunningModel, Workspace

_BATCH = 20
_TIMEOUT_S = 60.0
_ATTEMPTS = 20
"""How often a gateway is asked until the right version answers: a rollout may be running."""
_RETRIES = 5
_RETRY_S = 1.0
_UNAVAILABLE = {429, 502, 503, 504}
_SHOWN = 10
_MAX_EVIDENCE_REQUESTS = 100

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where answers come from, and how they differ from the reference; None: not compared."""

    name: str
    differences: list[Difference] | None
    finding: Finding | None = None


async def run(task: StageTask, workspace: Workspace) -> StageOutcome:
    """Ask the candidate here and in each environment, and compare."""
    check = task.stage.parity
    assert check is not None
    requests = await asyncio.to_thread(golden_requests, task)
    reference, here = await _ask_here(task, workspace, requests, check.tolerance)
    names = check.environments or tuple(sorted({*task.endpoints, *task.deployments}))
    environments = [
        await _ask_environment(task, name, requests, reference, check) for name in names
    ]
    kept = slice(_MAX_EVIDENCE_REQUESTS)
    write_json(
        workspace.output_dir,
        "golden.json",
        {"requests": requests[kept], "answers": reference[kept]},
    )
    rows = sum(_rows(request) for request in requests)
    outcome = judge(here, environments, rows)
    return outcome.with_(findings=(*_tell_data(task), *outcome.findings))


def golden_requests(task: StageTask) -> list[Answer]:
    """Return the requests to compare by: rows of the dataset, or the version's input example.

    Raises
    ------
    CheckImpossible
        There is neither.
    """
    check = task.stage.parity
    assert check is not None
    if check.dataset is None:
        if task.candidate.input_example is None:
            raise CheckImpossible(
                "there are no golden inputs: push the version with an input example, or name a "
                "`dataset`"
            )
        return [dict(task.candidate.input_example)]
    frame = load_table(data_of(task), max_rows=check.max_rows)
    return list(requests_of(frame, task.candidate, batch=_BATCH, features=check.features))


def _tell_data(task: StageTask) -> tuple[Finding, ...]:
    check = task.stage.parity
    return tell_data(data_of(task)) if check is not None and check.dataset else ()


def _rows(request: Mapping[str, Any]) -> int:
    shape = request["inputs"][0].get("shape") or [1]
    return int(shape[0])


async def _ask_here(
    task: StageTask, workspace: Workspace, requests: Sequence[Answer], tolerance: float
) -> tuple[list[Answer], list[Place]]:
    """Return the reference, and how the candidate compares with itself."""
    folder = workspace.candidate_dir
    async with workspace.serve(task.candidate, folder) as model:
        reference = await _infer(model, requests)
        again = await _infer(model, requests)
    async with workspace.serve(task.candidate, folder, name="candidate-2") as model:
        anew = await _infer(model, requests)
    return reference, [
        Place("the same process, asked again", _differ(reference, again, tolerance)),
        Place("a second process", _differ(reference, anew, tolerance)),
    ]


async def _infer(model: RunningModel, requests: Sequence[Answer]) -> list[Answer]:
    return [await model.infer(request) for request in requests]


def _differ(
    reference: Sequence[Answer], others: Sequence[Answer], tolerance: float
) -> list[Difference]:
    return [
        Difference(f"input {number}, {one.where}", one.message, one.values)
        for number, (ours, theirs) in enumerate(zip(reference, others, strict=True))
        for one in compare_answers(ours, theirs, tolerance)
    ]


async def _ask_environment(
    task: StageTask,
    name: str,
    requests: Sequence[Answer],
    reference: Sequence[Answer],
    check: ParityCheck,
) -> Place:
    serving, url = task.deployments.get(name), task.endpoints.get(name)
    if not serving or not url:
        return Place(name, None, _info("NotServed", f"{name} does not serve the model"))
    if serving.get("digest") != task.candidate.revision.artifact.digest:
        message = f"{name} serves another version, {serving.get('version')}: not compared"
        return Place(name, None, _info("OtherVersion", message))
    gateway = _Gateway(name, url, serving)
    async with httpx.AsyncClient(
        base_url=url, timeout=_TIMEOUT_S, trust_env=False, headers=serving.get("headers") or {}
    ) as http:
        answers: list[Answer] = []
        for number, request in enumerate(requests):
            answer = await gateway.ask(http, request)
            if answer is None:
                message = (
                    f"{name} runs a rollout, and {_ATTEMPTS} times another version answered: not "
                    "compared"
                )
                return Place(name, None, _info("OtherVersion", message))
            if isinstance(answer, str):
                return Place(name, [Difference(f"input {number}", answer)])
            answers.append(answer)
    return Place(name, _differ(reference, answers, check.tolerance))


def _info(code: str, message: str) -> Finding:
    return Finding(severity="info", code=code, message=message)


@dataclass(frozen=True, slots=True)
class _Gateway:
    """The gateway of an environment, as a client sees it."""

    environment: str
    url: str
    serving: Mapping[str, Any]

    async def ask(self, http: httpx.AsyncClient, request: Answer) -> Answer | str | None:
        """Return the answer of the version that is asked for.

        Text when it refuses, None when always another version answers; raises
        `InfrastructureFailed` when nothing does.
        """
        path = f"/v2/models/{self.serving['name']}/infer"
        for _ in range(_ATTEMPTS):
            reply = await self._post(http, path, request)
            answered = reply.headers.get("x-modelplane-version", self.serving["version"])
            if answered != self.serving["version"]:
                continue
            if reply.status_code in {401, 403}:
                raise CheckImpossible(
                    f"the gateway of {self.environment} wants a token ({reply.status_code})"
                )
            try:
                answer = reply.json()
            except ValueError:
                answer = None
            if reply.status_code != 200 or not isinstance(answer, dict):
                return f"answered {reply.status_code}: {' '.join(reply.text.split())[:300]}"
            return answer
        return None

    async def _post(self, http: httpx.AsyncClient, path: str, request: Answer) -> httpx.Response:
        words = ""
        for attempt in range(_RETRIES):
            if attempt:
                await asyncio.sleep(_RETRY_S)
            try:
                reply = await http.post(path, content=json.dumps(request).encode())
            except httpx.HTTPError as error:
                words = str(error) or type(error).__name__
                continue
            if reply.status_code not in _UNAVAILABLE:
                return reply
            words = f"{reply.status_code}: {' '.join(reply.text.split())[:300]}"
        raise InfrastructureFailed(
            f"the gateway of {self.environment} at {self.url} does not answer: {words}"
        )


def judge(here: Sequence[Place], environments: Sequence[Place], rows: int) -> StageOutcome:
    """Count the differences of all places, the candidate's own processes among them. Pure."""
    places = [*here, *environments]
    count = sum(one.values for place in places for one in place.differences or ())
    differing = [place.name for place in places if place.differences]
    compared = [place.name for place in environments if place.differences is not None]
    findings = [place.finding for place in places if place.finding]
    for place in places:
        findings += [
            Finding(
                severity="error",
                code="Differs",
                message=f"{place.name}: {one.message}"[:2000],
                where=one.where[:500],
            )
            for one in (place.differences or [])[:_SHOWN]
        ]
    if not compared:
        findings.append(_info("NothingToCompare", "no environment serves these files yet"))
    if differing:
        message = f"{count:,} values differ: {', '.join(differing)}"
    elif compared:
        message = f"{rows:,} golden inputs give the same outputs in {', '.join(compared)}"
    else:
        message = (
            f"{rows:,} golden inputs give the same outputs each time; no environment serves these "
            "files yet"
        )
    return StageOutcome(
        passed=count == 0,
        message=message[:2000],
        measurements=(
            Measurement(
                name="parity_differences", value=count, rows=rows, at_most=0, passed=count == 0
            ),
        ),
        findings=tuple(findings),
        cases=tuple(_case(place) for place in places),
    )


def _case(place: Place) -> TestCase:
    differences = place.differences
    first = differences[0] if differences else None
    return TestCase(
        name=place.name,
        passed=not differences,
        skipped=differences is None,
        message=f"{first.where}: {first.message}"[:2000]
        if first
        else (place.finding.message if place.finding else ""),
    )
