"""Playbooks, as calls. A part of `Client`; holds no rules."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from modelplane.client import calls
from modelplane.client.answers import read_resource
from modelplane.client.calls import Call
from modelplane.client.resources import ResourceClient
from modelplane.errors import TransientError
from modelplane.resources.playbook import Playbook, PlaybookRun

_POLL_S = 0.25


class PlaybookClient(ResourceClient):
    """Runs playbooks by hand, and answers what they ask."""

    def run_playbook(
        self,
        playbook: str,
        *,
        alert: str | None = None,
        labels: Mapping[str, str] | None = None,
        dry_run: bool = False,
        reason: str = "",
    ) -> PlaybookRun:
        """Begin a run now, whatever the limits are.

        Parameters
        ----------
        playbook
            Its name.
        alert
            The Alert it is about; absent: the one that fires and matches, if there is one.
        labels
            In place of an alert.
        dry_run
            Only say what each step would do.
        reason
            For the audit log.

        Raises
        ------
        Conflict
            A run of the playbook, or about the same deployment, is under way.
        """
        body = {
            "alert": alert,
            "labels": dict(labels) if labels else None,
            "dryRun": dry_run,
            "reason": reason,
        }
        call = calls.act(Playbook, playbook, "run", None, body)
        return read_resource(PlaybookRun, self._connection.send(call))

    def answer_playbook(
        self, run: str, step: str, *, agrees: bool, reason: str = ""
    ) -> PlaybookRun:
        """Answer a step that asks; a no needs a reason. The same answer again changes nothing."""
        body = {"step": step, "agrees": agrees, "reason": reason}
        return read_resource(PlaybookRun, self._connection.send(_act(run, "answer", body)))

    def cancel_playbook(self, run: str, *, reason: str = "") -> PlaybookRun:
        """Ask a run to end, and what it made with it; raises `Conflict` when it has ended."""
        body = {"reason": reason}
        return read_resource(PlaybookRun, self._connection.send(_act(run, "cancel", body)))

    def wait_for_playbook(
        self,
        run: str,
        *,
        timeout_s: float = 3600.0,
        on_change: Callable[[PlaybookRun], None] | None = None,
    ) -> PlaybookRun:
        """Wait until a run has ended, and return it; `on_change` is called with each change.

        Raises
        ------
        TransientError
            It took longer than `timeout_s`; it goes on.
        """
        until_s, seen = time.monotonic() + timeout_s, 0
        while True:
            now = self.get(PlaybookRun, run)
            if now.metadata.resource_version != seen and on_change is not None:
                on_change(now)
            seen = now.metadata.resource_version
            if now.finished:
                return now
            if time.monotonic() > until_s:
                raise TransientError(f"{run} has not ended after {timeout_s:g} s")
            time.sleep(_POLL_S)


def _act(run: str, verb: str, body: Mapping[str, object]) -> Call:
    return calls.act(PlaybookRun, run, verb, None, body)
