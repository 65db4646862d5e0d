"""The folder of rule files that modelplane shares with a Prometheus.

Used by `prometheus`. Each AlertRules is one file, ``modelplane-NAME.yml``, written whole; nothing
else in the folder is touched. Until Prometheus has taken a new file, what it replaces is kept
beside it in ``.modelplane-NAME.before``, which no pattern for rule files finds: so a process that
dies in between leaves no file behind that Prometheus may not be able to start with.

Functions here block: call them in a thread.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from modelplane.decisions.alert_delivery import SOURCE_LABEL
from modelplane.resources.alerting import AlertRule, AlertRulesSpec, RuleGroup

_FILE = re.compile(r"modelplane-(.+)\.yml")
_BEFORE = re.compile(r"\.modelplane-(.+)\.before")


def rules_of_file(path: str) -> str | None:
    """Return the name of the AlertRules that a file is of; None when it is not ours.

    Examples
    --------
    >>> rules_of_file("/etc/prometheus/rules/modelplane-quality.yml")
    'quality'
    """
    match = _FILE.fullmatch(path.rpartition("/")[2])
    return match[1] if match else None


def render_rules(name: str, spec: AlertRulesSpec) -> str:
    """Return the rule file of an AlertRules, for any Prometheus since 2.42.

    Labels of a group are given to each of its rules, for older ones know none of groups. What
    has its default is left out for the same reason.
    """
    groups = [_group(name, group) for group in spec.groups]
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.width = 4096
    yaml.allow_unicode = False  # unescaped, line separators would become spaces
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = io.StringIO()
    text.write("# Written by modelplane, which replaces it: change the AlertRules instead.\n")
    yaml.dump({"groups": groups}, text)
    return text.getvalue()


def _group(name: str, group: RuleGroup) -> dict[str, Any]:
    written: dict[str, Any] = {"name": group.name}
    if group.interval_s is not None:
        written["interval"] = _duration(group.interval_s)
    if group.limit:
        written["limit"] = group.limit
    if group.query_offset_s:
        written["query_offset"] = _duration(group.query_offset_s)
    return {**written, "rules": [_rule(name, group, rule) for rule in group.rules]}


def _rule(name: str, group: RuleGroup, rule: AlertRule) -> dict[str, Any]:
    labels = {**group.labels, **rule.labels}
    if rule.record is not None:
        recorded = {"record": rule.record, "expr": rule.expr}
        return {**recorded, "labels": labels} if labels else recorded
    written: dict[str, Any] = {"alert": rule.alert, "expr": rule.expr}
    if rule.for_s:
        written["for"] = _duration(rule.for_s)
    if rule.keep_firing_for_s:
        written["keep_firing_for"] = _duration(rule.keep_firing_for_s)
    written["labels"] = {**labels, SOURCE_LABEL: name}
    if rule.annotations:
        written["annotations"] = dict(rule.annotations)
    return written


def _duration(seconds: float) -> str:
    return f"{round(seconds)}s" if float(seconds).is_integer() else f"{round(seconds * 1000)}ms"


class RuleFolder:
    """The files.

    Parameters
    ----------
    folder
        Where they lie; it must exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, name: str) -> Path:
        """Return the file of an AlertRules."""
        return self.folder / f"modelplane-{name}.yml"

    def _before(self, name: str) -> Path:
        return self.folder / f".modelplane-{name}.before"

    def names(self) -> set[str]:
        """Return the names of the AlertRules that have a file."""
        return self._matching(_FILE)

    def unconfirmed(self) -> set[str]:
        """Return those whose file was changed and neither confirmed nor undone."""
        return self._matching(_BEFORE)

    def change(self, wanted: Mapping[str, str | None]) -> set[str]:
        """Write the texts, and remove the files of those that have None; return what changed.

        Parameters
        ----------
        wanted
            By name; others stay as they are.
        """
        changed = set()
        for name, text in wanted.items():
            before = _read(self.file(name))
            if text == before:
                continue
            # An empty file says that there was none. What was accepted last is never overwritten.
            if not self._before(name).exists():
                self._write(self._before(name), before or "")
            self._put(name, text)
            changed.add(name)
        return changed

    def confirm(self, names: Iterable[str]) -> None:
        """Forget what the present files took the place of."""
        for name in names:
            self._before(name).unlink(missing_ok=True)

    def undo(self, names: Iterable[str]) -> None:
        """Put back what was there before the last `change`."""
        for name in names:
            before = _read(self._before(name))
            if before is not None:
                self._put(name, before or None)
            self._before(name).unlink(missing_ok=True)

    def _put(self, name: str, text: str | None) -> None:
        if text is None:
            self.file(name).unlink(missing_ok=True)
        else:
            self._write(self.file(name), text)

    def _write(self, path: Path, text: str) -> None:
        """Write a file whole or not at all; the one in the making is none that Prometheus reads."""
        making = self.folder / f".{path.name.lstrip('.')}.making"
        with making.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        making.chmod(0o644)
        making.rename(path)

    def _matching(self, pattern: re.Pattern[str]) -> set[str]:
        found = (pattern.fullmatch(entry.name) for entry in self.folder.iterdir())
        return {match[1] for match in found if match}


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
