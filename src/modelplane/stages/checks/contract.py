"""The check ``contract``: consumers' pacts, verified against the running candidate.

Called by `stages.running`. Each pact is replayed by pact's own verifier against the real model
server; what a version must keep to is the contracts in the task, which the control plane chose.
What was found is recorded with each contract by `controllers.contracts`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pact import Verifier

from modelplane.decisions.pacts import read_pact, split_by_model
from modelplane.errors import InvalidResource
from modelplane.resources.checks import ContractCheck
from modelplane.resources.contract import Contract
from modelplane.resources.gate_run import (
    Finding,
    Measurement,
    StageOutcome,
    StageTask,
    TestCase,
)
from modelplane.resources.meta import check_name
from modelplane.stages.programs import forward
from modelplane.stages.workspace import Workspace

_REQUEST_TIMEOUT_S = 30.0
_MARGIN_S = 30.0
_LOOPBACK = "127.0.0.1"
_ANY_NAME = "candidate"

_MAX_OUTCOME_BYTES = 200_000
"""What is said of each contract must arrive: of a large outcome, cases are left out."""
_MAX_MESSAGE = 400
_MAX_NAME = 200
_MAX_FINDINGS = 100


@dataclass(slots=True)
class _Found:
    """What was found of one contract so far."""

    contract: Contract
    cases: list[TestCase] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def message(self) -> str:
        failed = [f"{case.name}: {case.message}" for case in self.cases if not case.passed]
        told = self.faults or failed
        more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
        return (told[0][: _MAX_MESSAGE - 20] + more) if told else ""

    @property
    def passed(self) -> bool:
        return not self.message


async def run(task: StageTask, workspace: Workspace) -> StageOutcome:
    """Verify every contract of the task; the stage passes when none is broken.

    A pact that the verifier cannot read breaks that contract only. Provider states have no
    effect, since a model keeps none. Consumers call a model by the name of its deployment, so the
    server runs under each name that pacts use.
    """
    configuration = task.stage.configuration
    assert isinstance(configuration, ContractCheck)
    contracts = [Contract.model_validate(item) for item in task.contracts]
    found = {contract.metadata.name: _Found(contract) for contract in contracts}
    remarks = _missing_consumers(configuration.consumers, contracts)
    model = task.candidate.revision.model
    for name, pacts in _group(found.values(), model).items():
        remarks += _remarks(name, model, pacts)
        served = workspace.serve(task.candidate, workspace.candidate_dir, name=name)
        async with served as server, forward(server.socket) as url:
            for one, pact in pacts:
                await _verify(one, pact, url, workspace.output_dir / "contracts")
    return _outcome(task, list(found.values()), remarks)


def _group(found: Iterable[_Found], model: str) -> dict[str, list[tuple[_Found, dict[str, Any]]]]:
    """Return the pacts by the name that the server must have for them."""
    groups: dict[str, list[tuple[_Found, dict[str, Any]]]] = {}
    for one in found:
        pact = one.contract.spec.pact
        try:
            read_pact(pact)
        except InvalidResource as error:
            one.faults.append(f"the pact cannot be read: {error}")
            continue
        for name, part in split_by_model(pact, _server_name(model)).items():
            if _server_name(name) != name:
                one.faults.append(f"no deployment can be called {name[:80]!r}, as a path says")
            else:
                groups.setdefault(name, []).append((one, part))
    return groups


def _server_name(name: str) -> str:
    try:
        return check_name(name)
    except ValueError:
        return _ANY_NAME


def _missing_consumers(wanted: Sequence[str], contracts: Sequence[Contract]) -> list[Finding]:
    have = {contract.spec.consumer for contract in contracts}
    return [
        Finding(
            severity="warning",
            code="no-contract",
            message=f"the consumer {name} has published no contract with the model",
            where=name,
        )
        for name in wanted
        if name not in have
    ]


def _remarks(
    name: str, model: str, pacts: Sequence[tuple[_Found, Mapping[str, Any]]]
) -> list[Finding]:
    """Say what the verification took for granted: the deployment's name, and provider states."""
    remarks = []
    for one, pact in pacts:
        contract = one.contract.metadata.name
        if name != _server_name(model):
            told = f"it calls the model {name}: a deployment must be called so"
            remarks.append(_info("deployment-name", told, contract))
        states = {state for item in read_pact(pact).interactions for state in item.states if state}
        if states:
            told = f"provider states have no effect on a model: {', '.join(sorted(states))[:300]}"
            remarks.append(_info("provider-states", told, contract))
    return remarks


def _info(code: str, message: str, where: str) -> Finding:
    return Finding(severity="info", code=code, message=message, where=where)


# -- one pact -------------------------------------------------------------------------------


async def _verify(one: _Found, pact: Mapping[str, Any], url: str, folder: Path) -> None:
    """Verify one pact and add what was found; what the verifier wrote becomes evidence."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    number = len(list(folder.glob("*.pact.json")))
    file = folder / f"{number}.pact.json"
    file.write_text(json.dumps(pact, ensure_ascii=False), encoding="utf-8")
    timeout_s = _MARGIN_S + _REQUEST_TIMEOUT_S * len(pact["interactions"])
    try:
        async with asyncio.timeout(timeout_s):
            results, told = await _in_thread(file, one.contract.spec.model, url)
    except TimeoutError:
        one.faults.append(f"the verification did not end within {timeout_s:g} s")
        return
    (folder / f"{number}.verification.txt").write_text(told, encoding="utf-8", errors="replace")
    cases = [_case(one.contract, result) for result in results.get("interactionResults", ())]
    one.cases += cases
    if results.get("result") is not True and all(case.passed for case in cases):
        errors = [_tell(error.get("mismatch")) for error in results.get("errors", ())]
        one.faults.append("; ".join(errors) or "the verifier gave up")
    elif len(cases) != len(pact["interactions"]):
        made, all_ = len(cases), len(pact["interactions"])
        one.faults.append(f"{made} of {all_} interactions were verified")


async def _in_thread(file: Path, provider: str, url: str) -> tuple[dict[str, Any], str]:
    """Run the verifier, which blocks, in a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[tuple[dict[str, Any], str]] = loop.create_future()

    def finish(outcome: tuple[dict[str, Any], str] | Exception) -> None:
        if done.done():
            return
        if isinstance(outcome, Exception):
            done.set_exception(outcome)
        else:
            done.set_result(outcome)

    def work() -> None:
        outcome: tuple[dict[str, Any], str] | Exception
        try:
            outcome = verify_file(file, provider, url)
        except Exception as error:
            outcome = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(finish, outcome)

    threading.Thread(target=work, name="pact-verifier", daemon=True).start()
    return await done


def verify_file(file: Path, provider: str, url: str) -> tuple[dict[str, Any], str]:
    """Verify the pact in `file` against the server at `url`, which is on loopback.

    Returns
    -------
    dict and str
        The verifier's results (``{result, errors, interactionResults}``), and what it printed.
    """
    # Else the verifier tells a server on the internet of each verification.
    os.environ["PACT_DO_NOT_TRACK"] = "true"
    verifier = Verifier(provider, host=_LOOPBACK).add_transport(url=url)
    verifier.set_request_timeout(int(_REQUEST_TIMEOUT_S * 1000))
    verifier.set_coloured_output(enabled=False)
    verifier.add_source(file)
    with contextlib.suppress(RuntimeError):  # something does not match: the results say what
        verifier.verify()
    return verifier.results, verifier.output(strip_ansi=True)


def _case(contract: Contract, result: Mapping[str, Any]) -> TestCase:
    failed = result.get("result") != "OK"
    pending = result.get("pending") is True
    message = _tell(result.get("mismatch")) if failed else ""
    return TestCase(
        name=f"{contract.metadata.name}: {result.get('description', '')}"[:_MAX_NAME],
        passed=not failed or pending,
        skipped=failed and pending,
        message=f"pending: {message}" if pending and failed else message,
        duration_s=_seconds(str(result.get("duration", ""))),
    )


def _tell(mismatch: Any) -> str:
    """Return what the verifier says of one interaction, in one line."""
    if not isinstance(mismatch, Mapping):
        return "it does not match"
    items = mismatch.get("mismatches") or ()
    told = [
        ": ".join(str(part) for part in (item.get("path"), item.get("mismatch")) if part)
        for item in items
        if isinstance(item, Mapping)
    ]
    text = "; ".join(told) or str(mismatch.get("message", "it does not match"))
    return " ".join(text.split())[:_MAX_MESSAGE]


_UNITS = {"ms": 1e-3, "s": 1.0}


def _seconds(text: str) -> float:
    """Return the time in ``65ms``; 0 when it is written otherwise."""
    for unit, factor in _UNITS.items():
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdecimal():
            return float(number) * factor
    return 0.0


# -- the whole ------------------------------------------------------------------------------


def _outcome(task: StageTask, found: Sequence[_Found], remarks: Sequence[Finding]) -> StageOutcome:
    broken = [one for one in found if not one.passed]
    findings = [
        Finding(
            severity="error",
            code="broken",
            message=one.message,
            where=one.contract.metadata.name,
        )
        for one in broken
    ]
    outcome = StageOutcome(
        passed=not broken,
        message=_tell_all(task.candidate.revision.model, found, broken)[:2000],
        measurements=(
            Measurement(name="contracts_verified", value=len(found) - len(broken)),
            Measurement(name="contracts_broken", value=len(broken), at_most=0, passed=not broken),
        ),
        findings=tuple([*findings, *remarks][:_MAX_FINDINGS]),
        details={
            "artifact": task.candidate.revision.artifact.digest,
            "contracts": [
                {
                    "name": one.contract.metadata.name,
                    "digest": one.contract.spec.digest,
                    "passed": one.passed,
                    "message": one.message,
                }
                for one in found
            ],
        },
    )
    return _with_cases(outcome, [case for one in found for case in one.cases])


def _tell_all(model: str, found: Sequence[_Found], broken: Sequence[_Found]) -> str:
    if not found:
        return f"no consumer has published a contract with {model}"
    if not broken:
        return f"{len(found)} contract{'' if len(found) == 1 else 's'} kept"
    told = "; ".join(f"{one.contract.metadata.name}: {one.message}" for one in broken[:3])
    return f"{len(broken)} of {len(found)} contracts broken: {told}"


def _with_cases(outcome: StageOutcome, cases: Sequence[TestCase]) -> StageOutcome:
    """Return the outcome with as many cases as there is room for, those that failed first."""
    room = _MAX_OUTCOME_BYTES - len(json.dumps(outcome.to_dict()))
    kept = []
    for case in sorted(cases, key=lambda case: case.passed):
        room -= len(json.dumps(case.to_dict()))
        if room < 0:
            break
        kept.append(case)
    return outcome.with_(cases=tuple(kept))
