"""The shapes in which people write a strategy, merged into the canonical one.

Called by `manifest` for kinds with a strategy: deployments, environments, traffic policies. A
strategy may be a word, a map, or a bare share of traffic, and may stand in several places of one
document as long as they agree. Names are known in any letter case and with any mark between
their words, fields also in snake_case. Pure; what it does not know it leaves in place for
validation to report.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from pydantic.alias_generators import to_camel

from modelplane.resources.documents import Location
from modelplane.resources.fields import suggest
from modelplane.resources.quantities import parse_percent

_WORDS = {
    "canary": "canary",
    "allatonce": "allAtOnce",
    "rolling": "rolling",
    "rollingupdate": "rolling",
    "bluegreen": "blueGreen",
    "shadow": "shadow",
    "mirror": "shadow",
    "ab": "ab",
    "abn": "ab",
    "abtest": "ab",
}
_SHARES = ("traffic", "percentage", "weight")
_MISSING = object()
_WRITTEN_TWICE = "the strategy is written twice and differs here; write it once"
_AB_ELSEWHERE = "an A/B test belongs in a TrafficPolicy, with the versions that it compares"


class StrategyReader:
    """Collects a document's strategy.

    Parameters
    ----------
    origins
        Filled with where each canonical location was written.
    fault
        Called with a written location and a message for each fault.
    root
        Where the strategy stands in the canonical document.
    with_ab
        Whether an A/B/n test may be one.
    """

    def __init__(
        self,
        origins: dict[Location, Location],
        fault: Callable[[Location, str], None],
        *,
        root: Location = ("spec", "strategy"),
        with_ab: bool = False,
    ) -> None:
        self.strategy: dict[str, Any] = {}
        self._origins = origins
        self._fault = fault
        self._root = root
        self._with_ab = with_ab

    def add(self, at: Location, value: object) -> None:
        """Add a strategy written at `at`: its name in any spelling, or a map; None is none."""
        if value is None:
            return
        if isinstance(value, str):
            name = _spelled(value)
            if name is None or (name == "ab" and not self._with_ab):
                self._fault(at, _AB_ELSEWHERE if name else self._unknown(value))
                return
            value = {name: {}}
        if not isinstance(value, dict):
            self._fault(at, f"must be a strategy's name ({', '.join(self._names())}) or a map")
            return
        for key, written in copy.deepcopy(value).items():
            name = _spelled(key) or key
            if name == "ab" and not self._with_ab:
                self._fault((*at, key), _AB_ELSEWHERE)
                continue
            place: Location = (*self._root, name)
            settings: object = {} if written is None else written
            if isinstance(settings, dict) and name in _WORDS.values():
                settings = self._read_settings(name, place, (*at, key), settings)
            self._merge(self.strategy, place, settings, (*at, key))

    def add_traffic(self, at: Location, value: object) -> None:
        """Add a bare share of traffic written at `at`: a canary with that one step."""
        step = None if value is None else self._read_share(at, value)
        canary = self.strategy.setdefault("canary", {}) if step is not None else None
        if not isinstance(canary, dict):
            return
        if canary.setdefault("steps", [step]) != [step]:
            self._fault(at, _WRITTEN_TWICE)
        self._origins.setdefault((*self._root, "canary"), at)
        self._origins.setdefault(self._steps, at)

    @property
    def _steps(self) -> Location:
        return (*self._root, "canary", "steps")

    def _names(self) -> tuple[str, ...]:
        return tuple(name for name in dict.fromkeys(_WORDS.values()) if self._takes(name))

    def _takes(self, name: str) -> bool:
        return self._with_ab or name != "ab"

    def _unknown(self, word: str) -> str:
        return f"not a strategy: {word!r}; {suggest(word, self._names())}"

    def _read_settings(
        self, name: str, place: Location, at: Location, written: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return one strategy's settings with canonical fields."""
        given = {key: value for key, value in written.items() if value is not None}
        settings: dict[str, Any] = self._rename(place, at, given)
        if name == "canary":
            self._read_steps(at, settings)
        if name == "ab" and isinstance(settings.get("arms"), dict):
            arms = [
                {"version": version, "percentage": share}
                for version, share in settings["arms"].items()
            ]
            settings["arms"] = arms
            for index, arm in enumerate(arms):
                self._origins[(*place, "arms", index)] = (*at, "arms", arm["version"])
        if name == "ab" and isinstance(settings.get("arms"), list):
            for arm in settings["arms"]:
                if isinstance(arm, dict) and type(arm.get("version")) is int:
                    arm["version"] = str(arm["version"])
        analysis = settings.get("analysis")
        if isinstance(analysis, dict) and isinstance(analysis.get("metrics"), list):
            metrics = [{"name": m} if isinstance(m, str) else m for m in analysis["metrics"]]
            settings["analysis"] = {**analysis, "metrics": metrics}
        return settings

    def _rename(self, place: Location, at: Location, value: Any) -> Any:
        """Return `value` with the fields that were written in snake_case in camelCase."""
        if isinstance(value, list):
            return [
                self._rename((*place, index), (*at, index), item)
                for index, item in enumerate(value)
            ]
        if not isinstance(value, dict):
            return value
        renamed: dict[str, Any] = {}
        for key, item in value.items():
            name = to_camel(key) if isinstance(key, str) and "_" in key.strip("_") else key
            if name in renamed:
                self._fault((*at, key), f"differs from {name}; write one of them")
                continue
            renamed[name] = self._rename((*place, name), (*at, key), item)
            if name != key:
                self._origins[(*place, name)] = (*at, key)
        return renamed

    def _read_steps(self, at: Location, settings: dict[str, Any]) -> None:
        """Put a share that is named otherwise into the steps: it is the only one."""
        for key in _SHARES:
            if key not in settings:
                continue
            step = self._read_share((*at, key), settings.pop(key))
            if step is None:
                continue
            if settings.get("steps", [step]) != [step]:
                self._fault((*at, key), "differs from steps; write one of them")
            settings["steps"] = [step]
            self._origins.setdefault(self._steps, (*at, key))

    def _read_share(self, at: Location, value: object) -> float | None:
        """Return the first and only step before 100 % in percent; None when it is none."""
        try:
            step = parse_percent(value)
        except ValueError as error:
            self._fault(at, str(error))
            return None
        if not 0 < step < 100:
            self._fault(
                at,
                f"must lie between 0 and 100, got {value}; for all traffic at once write "
                "`strategy: allAtOnce`",
            )
            return None
        return step

    def _merge(
        self, target: dict[str, Any], place: Location, value: object, written: Location
    ) -> None:
        """Put `value` into `target` at the end of `place`; what is there must say the same."""
        key = str(place[-1])
        before = target.get(key, _MISSING)
        if before is _MISSING:
            target[key] = value
            self._origins.setdefault(place, written)
        elif isinstance(value, dict) and isinstance(before, dict):
            for name, item in value.items():
                inner = (*place, name)
                self._merge(before, inner, item, (*written, name))
        elif before != value:
            self._fault(written, _WRITTEN_TWICE)


def _spelled(word: object) -> str | None:
    """Return the strategy that a word names in any spelling; None when it names none."""
    letters = "".join(c for c in word.lower() if c.isalpha()) if isinstance(word, str) else ""
    return _WORDS.get(letters)
