"""The check ``schema``: would the candidate break those who use the model?

Called by `stages.running`. Holds the signature that the version declares against the champion's,
against what consumers' contracts send and read, and against what its own server tells and answers.
What breaks whom is decided in `decisions.schemas`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import httpx

from modelplane.decisions.pacts import read_pact
from modelplane.decisions.schemas import (
    SchemaBreak,
    Signature,
    check_use,
    compare_answer,
    compare_served,
    compare_signatures,
    read_signature,
)
from modelplane.errors import InvalidResource
from modelplane.resources.checks import SchemaCheck
from modelplane.resources.contract import Contract
from modelplane.resources.gate_run import (
    Finding,
    Measurement,
    ServedModel,
    StageOutcome,
    StageTask,
    TestCase,
)
from modelplane.stages.failures import CheckImpossible
from modelplane.stages.workspace import RunningModel, Workspace

_METADATA_TIMEOUT_S = 30.0
_MAX_FINDINGS = 200
_NAME = "candidate"


async def run(task: StageTask, workspace: Workspace) -> StageOutcome:
    """Compare the candidate's signature with everything that rests on it.

    Without a declared signature it passes only where nothing rests on one: there is no champion
    to compare with, and no contract.
    """
    against = task.stage.configuration
    assert isinstance(against, SchemaCheck)
    champion = task.champion if against.compatible_with != "consumers" else None
    contracts = [Contract.model_validate(item) for item in task.contracts]
    report = _Report()
    declared = _read_declared(task.candidate, report, needed=bool(champion or contracts))
    if declared is not None:
        if champion is not None:
            _against_champion(declared, champion, report)
        for contract in contracts:
            _against_consumer(declared, contract, report)
    if task.candidate.signature is not None or task.candidate.input_example is not None:
        await _against_server(declared, task.candidate, workspace, report)
    return report.outcome()


class _Report:
    """What was found so far, one case for each thing that was compared with."""

    def __init__(self) -> None:
        self._breaks: list[Finding] = []
        self._remarks: list[Finding] = []
        self._cases: list[TestCase] = []

    def compared(self, code: str, breaks: Iterable[SchemaBreak], *, of: str = "") -> None:
        """Take what a comparison found; nothing is good."""
        name = of or code
        found = [
            Finding(severity="error", code=code, message=f"{b.path} {b.message}", where=name)
            for b in breaks
        ]
        self._breaks += found
        told = "; ".join(finding.message for finding in found)
        self._cases.append(TestCase(name=name, passed=not found, message=told[:1000]))

    def remark(self, code: str, message: str) -> None:
        """Say something that breaks nobody."""
        self._remarks.append(Finding(severity="info", code=code, message=message))

    def outcome(self) -> StageOutcome:
        """Return the outcome; the number of breaks is what counts."""
        count = len(self._breaks)
        names = ", ".join(case.name for case in self._cases[:10]) or "nothing"
        message = f"breaks nobody; compared with: {names}"
        if count:
            # The server's metadata and its answer often break the same way.
            told = "; ".join([*dict.fromkeys(finding.message for finding in self._breaks)][:3])
            message = f"{count} break{'s' if count > 1 else ''}: {told}"
        return StageOutcome(
            passed=not count,
            message=message[:2000],
            measurements=(
                Measurement(name="schema_breaks", value=count, at_most=0, passed=not count),
            ),
            findings=tuple((self._breaks + self._remarks)[:_MAX_FINDINGS]),
            cases=tuple(self._cases[:_MAX_FINDINGS]),
        )


def _read_declared(candidate: ServedModel, report: _Report, *, needed: bool) -> Signature | None:
    if candidate.signature is None:
        if needed:
            message = "declares no signature: push the version with `signature`"
            report.compared("signature", [SchemaBreak("the version", message)])
        else:
            report.remark("signature", "the version declares no signature; nothing rests on one")
        return None
    try:
        return read_signature(candidate.signature)
    except InvalidResource as error:
        faults = [SchemaBreak(f"signature.{f.path}", f.message) for f in error.fields]
        report.compared("signature", faults)
        return None


def _against_champion(declared: Signature, champion: ServedModel, report: _Report) -> None:
    version = f"champion {champion.revision.version}"
    if champion.signature is None:
        report.remark("champion", f"the {version} declares no signature: not compared")
        return
    try:
        before = read_signature(champion.signature)
    except InvalidResource:
        report.remark("champion", f"the signature of the {version} cannot be read: not compared")
        return
    report.compared("champion", compare_signatures(before, declared), of=version)


def _against_consumer(declared: Signature, contract: Contract, report: _Report) -> None:
    name = contract.metadata.name
    try:
        pact = read_pact(contract.spec.pact)
    except InvalidResource as error:
        report.compared("consumer", [SchemaBreak("its pact", f"cannot be read: {error}")], of=name)
        return
    found = {b: None for item in pact.interactions for b in check_use(item, declared)}
    report.compared("consumer", found, of=name)


async def _against_server(
    declared: Signature | None, candidate: ServedModel, workspace: Workspace, report: _Report
) -> None:
    # Its own example is asked here: that the version refuses it is a finding of this check.
    served = candidate.with_(input_example=None)
    async with workspace.serve(served, workspace.candidate_dir, name=_NAME) as model:
        if declared is not None:
            await _against_metadata(declared, model, report)
        if candidate.input_example is not None:
            await _against_answer(declared, candidate.input_example, model, report)


async def _against_metadata(declared: Signature, model: RunningModel, report: _Report) -> None:
    transport = httpx.AsyncHTTPTransport(uds=str(model.socket), verify=False)
    try:
        async with httpx.AsyncClient(
            transport=transport, base_url="http://model-server", timeout=_METADATA_TIMEOUT_S
        ) as client:
            reply = await client.get(f"/v2/models/{_NAME}")
            told = read_signature(reply.json()) if reply.status_code == 200 else None
    except httpx.HTTPError as error:
        raise CheckImpossible(f"the server does not tell its metadata: {error!r}") from error
    except (ValueError, AttributeError, InvalidResource) as error:
        report.compared("server", [SchemaBreak("its metadata", f"cannot be read: {error}")])
        return
    if told is None:
        report.remark("server", f"the server tells no metadata ({reply.status_code}): not compared")
        return
    report.compared("server", compare_served(declared, told))


async def _against_answer(
    declared: Signature | None, example: Mapping[str, Any], model: RunningModel, report: _Report
) -> None:
    try:
        answer = await model.infer(example)
    except CheckImpossible as error:
        report.compared("input example", [SchemaBreak("the input example", f"fails: {error}")])
        return
    breaks = compare_answer(declared, answer) if declared is not None else ()
    report.compared("input example", breaks)
