"""The shapes in which people write a strategy, merged into the canonical one.

Called by `manifest` for kinds with a strategy. A strategy may be a word, a map, or a bare share
of traffic, and may stand in several places of one document as long as they agree. Pure; what it
does not know it leaves in place for validation to report.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from modelplane.resources.documents import Location
from modelplane.resources.fields import suggest
from modelplane.resources.quantities import parse_percent

_WORDS = {"canary": "canary", "allatonce": "allAtOnce"}
_ROOT: Location = ("spec", "strategy")
_STEPS: Location = (*_ROOT, "canary", "steps")
_MISSING = object()
_WRITTEN_TWICE = "the strategy is written twice and differs here; write it once"


class StrategyReader:
    """Collects a document's strategy.

    Parameters
    ----------
    origins
        Filled with where each canonical location was written.
    fault
        Called with a written location and a message for each fault.
    """

    def __init__(
        self, origins: dict[Location, Location], fault: Callable[[Location, str], None]
    ) -> None:
        self.strategy: dict[str, Any] = {}
        self._origins = origins
        self._fault = fault

    def add(self, at: Location, value: object) -> None:
        """Add a strategy written at `at`: its name in any letter case, or a map; None is none."""
        if value is None:
            return
        if isinstance(value, str):
            word = "".join(character for character in value.lower() if character.isalpha())
            if word not in _WORDS:
                self._fault(at, f"not a strategy: {value!r}; {suggest(value, _WORDS.values())}")
                return
            value = {_WORDS[word]: {}}
        if not isinstance(value, dict):
            self._fault(at, "must be a strategy's name (canary, allAtOnce) or a map")
            return
        for name, written in copy.deepcopy(value).items():
            settings: object = {} if written is None else written
            if name == "canary" and isinstance(settings, dict):
                settings = self._read_canary((*at, name), settings)
            self._merge(self.strategy, (*_ROOT, name), settings, (*at, name))

    def add_traffic(self, at: Location, value: object) -> None:
        """Add a bare share of traffic written at `at`: a canary with that one step."""
        step = None if value is None else self._read_share(at, value)
        canary = self.strategy.setdefault("canary", {}) if step is not None else None
        if not isinstance(canary, dict):
            return
        if canary.setdefault("steps", [step]) != [step]:
            self._fault(at, _WRITTEN_TWICE)
        self._origins.setdefault((*_ROOT, "canary"), at)
        self._origins.setdefault(_STEPS, at)

    def _read_canary(self, at: Location, canary: Mapping[str, Any]) -> dict[str, Any]:
        settings = {key: value for key, value in canary.items() if value is not None}
        if "traffic" in settings:
            step = self._read_share((*at, "traffic"), settings.pop("traffic"))
            if step is not None:
                if settings.get("steps", [step]) != [step]:
                    self._fault((*at, "traffic"), "differs from steps; write one of them")
                settings["steps"] = [step]
                self._origins.setdefault(_STEPS, (*at, "traffic"))
        analysis = settings.get("analysis")
        if isinstance(analysis, dict) and isinstance(analysis.get("metrics"), list):
            metrics = [{"name": m} if isinstance(m, str) else m for m in analysis["metrics"]]
            settings["analysis"] = {**analysis, "metrics": metrics}
        return settings

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
