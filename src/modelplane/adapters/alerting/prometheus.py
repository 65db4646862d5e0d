"""A Prometheus that evaluates modelplane's rules: given files, asked over its HTTP API.

Implements `ports.alerting.RuleServer`. It shares a folder with Prometheus, which must name it in
`rule_files` and run with ``--web.enable-lifecycle``, and needs nothing else there.

https://prometheus.io/docs/prometheus/latest/querying/api/
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from modelplane.adapters.alerting.http import AlertingHttp, Answer, read_time
from modelplane.adapters.alerting.rule_files import RuleFolder, render_rules, rules_of_file
from modelplane.decisions.alert_delivery import SOURCE_LABEL
from modelplane.errors import TransientError
from modelplane.ports.alerting import (
    QueryRefused,
    Result,
    RuleHealth,
    ServedAlert,
)
from modelplane.resources.alerting import AlertRulesSpec

T = TypeVar("T")

QUERY_TIMEOUT_S = 5.0
REFUSED_FOR_S = 300.0
"""How long a file that was refused is not offered again: each time is a reload that fails."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A rule file that was not taken, why, and until when it is not offered again."""

    text: str
    fault: str
    until_s: float


class Prometheus:
    """One Prometheus.

    Parameters
    ----------
    http
        How it is reached.
    rules_dir
        The folder it reads rule files from, as it is called here.
    """

    def __init__(self, http: AlertingHttp, rules_dir: Path) -> None:
        self._http = http
        self._folder = RuleFolder(rules_dir)
        self._published: dict[str, AlertRulesSpec] = {}
        self._refused: dict[str, _Refusal] = {}
        self._must_reload = True
        self._publishing = asyncio.Lock()

    async def query(self, expression: str) -> Sequence[Result] | QueryRefused:
        """Evaluate now; see the port."""
        form = {"query": expression, "timeout": f"{QUERY_TIMEOUT_S:g}s"}
        answer = await self._http.ask("POST", "/api/v1/query", form=form)
        if not answer.is_success:
            return QueryRefused(answer.words or f"status {answer.status}")
        data = self._data(answer)
        kind = data.get("resultType")
        found: Any = data.get("result")
        try:
            if kind == "scalar":
                return [Result({}, float(found[1]))]
            if kind == "vector":
                return [Result(dict(one["metric"]), float(one["value"][1])) for one in found]
        except (TypeError, KeyError, IndexError, ValueError):
            raise self._strange("/api/v1/query") from None
        return QueryRefused(f"its result is a {kind}; a condition needs an instant vector")

    async def publish(self, rules: Mapping[str, AlertRulesSpec]) -> Mapping[str, str]:
        """Make it evaluate exactly these; see the port."""
        async with self._publishing:
            texts = {name: render_rules(name, spec) for name, spec in rules.items()}
            now_s = asyncio.get_running_loop().time()
            self._refused = {
                name: refusal
                for name, refusal in self._refused.items()
                if refusal.text == texts.get(name) and refusal.until_s > now_s
            }
            for name, fault in (await self._publish(texts)).items():
                self._refused[name] = _Refusal(texts[name], fault, now_s + REFUSED_FOR_S)
            refused = {name: refusal.fault for name, refusal in self._refused.items()}
            self._published = {n: spec for n, spec in rules.items() if n not in refused}
            return refused

    async def health(self) -> Sequence[RuleHealth]:
        """Return how it fares with our rules; one that it does not have is a fault."""
        answer = await self._http.ask("GET", "/api/v1/rules")
        found: dict[tuple[str, str, str], str] = {}
        try:
            for group in self._data(answer)["groups"]:
                name = rules_of_file(group["file"])
                for rule in group["rules"] if name is not None else ():
                    fault = rule.get("lastError", "") if rule.get("health") == "err" else ""
                    key = (str(name), group["name"], rule["name"])
                    found[key] = found.get(key) or fault
        except (TypeError, KeyError):
            raise self._strange("/api/v1/rules") from None
        return [
            RuleHealth(name, group.name, called, found.get((name, group.name, called), missing))
            for name, spec in self._published.items()
            for missing in [f"{self._http.name} does not read {self._folder.file(name)}"]
            for group in spec.groups
            for called in dict.fromkeys(rule.alert or rule.record or "" for rule in group.rules)
        ]

    async def alerts(self) -> Sequence[ServedAlert]:
        """Return the alerts of our rules that are pending or firing."""
        answer = await self._http.ask("GET", "/api/v1/alerts")
        try:
            return [
                _served_alert(alert)
                for alert in self._data(answer)["alerts"]
                if SOURCE_LABEL in alert["labels"]
            ]
        except (TypeError, KeyError, ValueError):
            raise self._strange("/api/v1/alerts") from None

    async def close(self) -> None:
        """Close connections."""
        await self._http.close()

    async def _publish(self, texts: Mapping[str, str]) -> Mapping[str, str]:
        left_over = await self._in_folder(self._folder.unconfirmed)
        if left_over:  # a process died in the middle; nobody knows which of the two is loaded
            await self._in_folder(lambda: self._folder.undo(left_over))
            self._must_reload = True
        there = await self._in_folder(self._folder.names)
        offered = {name: text for name, text in texts.items() if name not in self._refused}
        wanted = {**dict.fromkeys(there - self._refused.keys()), **offered}
        fault = await self._try(wanted)
        if fault is None:
            return {}
        # Which of them it dislikes it tells its log alone: without any of them it must be well.
        await self._reload_what_was_there()
        refused = {}
        for name, text in sorted(wanted.items(), key=lambda item: item[1] is not None):
            fault = await self._try({name: text})
            if fault is not None:
                refused[name] = fault
        if refused:
            await self._reload_what_was_there()
        return refused

    async def _try(self, wanted: Mapping[str, str | None]) -> str | None:
        """Have it take these files; return why it does not, with what was there put back."""
        changed = await self._in_folder(lambda: self._folder.change(wanted))
        if not changed and not self._must_reload:
            return None
        self._must_reload = True
        fault: str | None = "it was interrupted"
        try:
            fault = await self._reload()
        finally:
            settle = self._folder.undo if fault is not None else self._folder.confirm
            await self._in_folder(lambda: settle(changed))
        if fault is None:
            self._must_reload = False
        return fault

    async def _reload_what_was_there(self) -> None:
        fault = await self._reload()
        if fault is not None:
            hint = "its own configuration, or a file of somebody else, is at fault: see its log"
            message = f"{self._http.name} takes no rules: {fault}"
            raise TransientError(message, retry_after_s=10.0, hint=hint)
        self._must_reload = False

    async def _reload(self) -> str | None:
        """Have it read its configuration again; return why it did not take it."""
        answer = await self._http.ask("POST", "/-/reload")
        if answer.is_success:
            return None
        if answer.status in {403, 404, 405}:
            hint = "start it with --web.enable-lifecycle"
            raise TransientError(f"{self._http.name} reloads no rules", hint=hint)
        return f"it refuses the file ({answer.words}); `promtool check rules` says why"

    async def _in_folder(self, act: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(act)
        except OSError as error:
            message = f"the rules' folder {self._folder.folder}: {error.strerror}"
            hint = "it must be there, and modelplane must be allowed to write to it"
            raise TransientError(message, retry_after_s=10.0, hint=hint) from error

    def _data(self, answer: Answer) -> dict[str, Any]:
        data = answer.data.get("data") if isinstance(answer.data, dict) else None
        if not answer.is_success or not isinstance(data, dict):
            message = f"{self._http.name} answered {answer.status} {answer.words}"
            raise TransientError(message.rstrip(), hint="is it the address of a Prometheus?")
        return data

    def _strange(self, path: str) -> TransientError:
        return TransientError(f"{self._http.name} answered {path} as no Prometheus does")


def _served_alert(alert: Mapping[str, Any]) -> ServedAlert:
    labels = dict(alert["labels"])
    value = float(alert.get("value", "nan"))
    return ServedAlert(
        rules=labels.pop(SOURCE_LABEL),
        labels=labels,
        annotations=dict(alert.get("annotations") or {}),
        is_firing=alert["state"] == "firing",
        active_at=read_time(alert["activeAt"]),
        value=value if math.isfinite(value) else None,
    )
