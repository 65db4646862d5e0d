"""The certificates of this node's proxies: asked for, kept, renewed at half their life.

Used by `gateways` and `inbound`, and run by `agent.Agent`. Keys are made here and never leave the
node. What is in use is kept in files of mode 0600 in the runtime directory, so that an agent and
its proxies can start again while the control plane is away. Whom to trust is asked again and
again, and told to everybody before any new certificate is: that is what lets an authority hand
over to the next without a refused connection.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path

import structlog

from modelplane.agent.control_plane import ControlPlane
from modelplane.decisions.identity import renewal_due, trust_domain_of
from modelplane.errors import ModelplaneError, NotFound
from modelplane.ports.clock import Clock
from modelplane.ports.identity import Credentials, KeyMaker
from modelplane.resources.certificates import CertificateRequest, TrustBundle, Workload

log = structlog.get_logger(__name__)

LOOK_S = 20.0
"""Between two questions whom to trust; far less than an authority takes to begin to sign."""

Present = Callable[[Credentials], Awaitable[None]]
"""Takes credentials and speaks with them from the next connection on."""


class Certificates:
    """The certificates of one node.

    Parameters
    ----------
    control_plane
        Certifies.
    keys
        Makes keys.
    clock
        Time.
    directory
        Where they are kept; made when the first one is, mode 0700.
    """

    def __init__(
        self, control_plane: ControlPlane, keys: KeyMaker, clock: Clock, directory: Path
    ) -> None:
        self._control_plane = control_plane
        self._keys = keys
        self._clock = clock
        self._directory = directory
        self._current: dict[Workload, Credentials] = {}
        self._followers: dict[Workload, Present] = {}

    async def obtain(self, workload: Workload) -> Credentials:
        """Return what is kept for a workload, or ask for it.

        Raises `ModelplaneError` when nothing is kept and nothing can be had.
        """
        known = self._current.get(workload) or self._load(workload)
        if known is None or known.not_after <= self._clock.now():
            known = await self._ask(workload)
            self._keep(workload, known)
        self._current[workload] = known
        return known

    def follow(self, workload: Workload, present: Present) -> None:
        """Tell `present` of each change of a workload's credentials; replaces the one before."""
        self._followers[workload] = present

    def forget(self, workload: Workload) -> None:
        """Look after a workload's certificate no longer, and remove it."""
        self._followers.pop(workload, None)
        self._current.pop(workload, None)
        self._path(workload).unlink(missing_ok=True)

    async def run(self) -> None:
        """Renew what is due, for ever."""
        while True:
            try:
                await self.look()
            except ModelplaneError as error:
                log.warning("certificates_not_renewed", error=str(error))
            await self._clock.sleep(LOOK_S)

    async def look(self) -> None:
        """Learn whom to trust, tell everybody, then renew what is due."""
        if not self._followers:
            return
        try:
            trust = await self._control_plane.get_trust_bundle()
        except NotFound:  # it began anew, and has no authority until somebody asks
            trust = TrustBundle(trust_domain="", authorities="")
        for workload, known in list(self._current.items()):
            same = trust_domain_of(known.identity) == trust.trust_domain
            if same and known.trusted != trust.authorities:
                await self._change(workload, replace(known, trusted=trust.authorities))
        now = self._clock.now()
        for workload, known in list(self._current.items()):
            due = renewal_due(known.not_before, known.not_after, known.identity)
            # Another domain: the control plane began anew and knows none of the old names.
            if now >= due or trust_domain_of(known.identity) != trust.trust_domain:
                await self._renew(workload)

    async def _renew(self, workload: Workload) -> None:
        try:
            await self._change(workload, await self._ask(workload))
        except ModelplaneError as error:  # of this one; the others are to be renewed
            log.warning("certificate_not_renewed", workload=str(workload), error=str(error))

    async def _change(self, workload: Workload, credentials: Credentials) -> None:
        if workload not in self._current:
            return  # forgotten meanwhile
        self._current[workload] = credentials
        self._keep(workload, credentials)
        present = self._followers.get(workload)
        if present is not None:
            await present(credentials)

    async def _ask(self, workload: Workload) -> Credentials:
        key = self._keys.make_key()
        issued = await self._control_plane.request_certificate(
            CertificateRequest(workload=workload, request=key.request)
        )
        credentials = Credentials(
            identity=issued.identity,
            private_key=key.private_key,
            certificate=issued.certificate,
            trusted=issued.trust.authorities,
            not_before=issued.not_before,
            not_after=issued.not_after,
        )
        log.info("certificate", identity=issued.identity, until=issued.not_after.isoformat())
        return credentials

    # On disk ----------------------------------------------------------------------------------

    def _path(self, workload: Workload) -> Path:
        return self._directory / f"{workload.environment}.{workload.role}.json"

    def _keep(self, workload: Workload, credentials: Credentials) -> None:
        path = self._path(workload)
        scratch = path.with_suffix(".new")
        data = asdict(credentials) | {
            "not_before": credentials.not_before.isoformat(),
            "not_after": credentials.not_after.isoformat(),
        }
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            scratch.unlink(missing_ok=True)
            descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(data, file)
            scratch.replace(path)
        except OSError as error:
            log.warning("certificate_not_kept", path=str(path), error=str(error))

    def _load(self, workload: Workload) -> Credentials | None:
        try:
            data = json.loads(self._path(workload).read_text())
            times = {
                name: datetime.fromisoformat(data[name]) for name in ("not_before", "not_after")
            }
            return Credentials(**{**data, **times})
        except (OSError, ValueError, KeyError, TypeError):
            return None  # none, torn, or of another release: asked for anew
