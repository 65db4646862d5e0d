"""What a gateway needs that changes by itself: its certificate and its issuer's keys.

Built by wiring for a gateway that has TLS or verifies tokens. It reads them where they come from,
again and again, checks them, and hands them on as resources that Envoy swaps without closing a
connection. What cannot be read or used changes nothing: the gateway goes on with what it has,
and `fault` says why.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path

import structlog

from modelplane.adapters.proxy.keys import MAX_BYTES, fetch_keys, read_keys
from modelplane.adapters.proxy.tls import (
    ServerCertificate,
    certificate_secret,
    check_certificate,
)
from modelplane.adapters.proxy.tokens import token_filter
from modelplane.adapters.proxy.xds import EXTENSION, SECRET, XdsResource
from modelplane.errors import InvalidResource, ModelplaneError, TransientError
from modelplane.ports.clock import Clock
from modelplane.resources.environment import Gateway, GatewayJwt, GatewayTls

log = structlog.get_logger(__name__)

ReadSecret = Callable[[str], str | None]
"""Returns a secret by its name; None when there is none."""

Use = Callable[[str, XdsResource], None]
"""Takes a resource, by its type, from now on."""

_LOOK_S = 2.0
_FETCH_S = 300.0
_FETCH_AGAIN_S = 10.0


class GatewayCredentials:
    """Follows the certificate and the keys of one gateway.

    Parameters
    ----------
    gateway
        What is declared.
    secret
        Reads secrets.
    kept
        File for the keys of an issuer at a URL, so that a gateway can start while it is down.
    use
        Called with each resource that is to be used.
    clock
        Time.
    fetch
        Reads a URL.
    """

    def __init__(
        self,
        gateway: Gateway,
        secret: ReadSecret,
        kept: Path,
        use: Use,
        *,
        clock: Clock,
        fetch: Callable[[str], Awaitable[str]] = fetch_keys,
    ) -> None:
        self._parts: list[_Certificate | _Keys] = []
        if gateway.tls:
            self._parts.append(_Certificate(gateway.tls, secret, use))
        if gateway.jwt:
            self._parts.append(_Keys(gateway.jwt, kept, use, fetch))
        self._clock = clock

    @property
    def fault(self) -> str:
        """Why what is declared is not in use, in words; empty when it is."""
        return "; ".join(part.fault for part in self._parts if part.fault)

    async def follow(self) -> None:
        """Look for changes until cancelled."""
        while self._parts:
            for part in self._parts:
                before = part.fault
                await part.look(self._clock.now(), self._clock.monotonic_s())
                if part.fault and part.fault != before:
                    log.error("gateway_credentials", fault=part.fault)
            await self._clock.sleep(_LOOK_S)


class _Certificate:
    """The certificate that clients see: two secrets."""

    def __init__(self, declared: GatewayTls, secret: ReadSecret, use: Use) -> None:
        self.fault = ""
        self._declared = declared
        self._secret = secret
        self._use = use
        self._read: tuple[str, str] | None = None
        self._certificate: ServerCertificate | None = None

    async def look(self, now: datetime, _monotonic_s: float) -> None:
        """Read the secrets, and use them when they have changed."""
        try:
            read = self._read_secrets()
            if read != self._read:
                certificate = check_certificate(*read, now)
                self._read, self._certificate = read, certificate
                self._use(SECRET, certificate_secret(certificate))
                log.info("gateway_certificate", expires_at=certificate.expires_at.isoformat())
            self.fault = self._expiry_fault(now)
        except InvalidResource as error:
            serving = "the one before serves on" if self._certificate else "so it does not listen"
            self.fault = f"the gateway's certificate cannot be used, {serving}: {error}"

    def _read_secrets(self) -> tuple[str, str]:
        found = []
        for name in (self._declared.certificate, self._declared.key):
            text = self._secret(name)
            if text is None:
                raise InvalidResource(
                    f"there is no secret {name!r}",
                    hint=f"write it to secrets/{name} in the state directory, mode 600",
                )
            found.append(text)
        return found[0], found[1]

    def _expiry_fault(self, now: datetime) -> str:
        certificate = self._certificate
        if certificate is None or now < certificate.expires_at:
            return ""
        return f"the gateway's certificate expired at {certificate.expires_at:%Y-%m-%d %H:%M} UTC"


class _Keys:
    """The keys of the issuer whose tokens are verified: a file, or a URL and what it said last."""

    def __init__(
        self, jwt: GatewayJwt, kept: Path, use: Use, fetch: Callable[[str], Awaitable[str]]
    ) -> None:
        self.fault = ""
        self._jwt = jwt
        self._kept = kept
        self._use = use
        self._fetch = fetch
        self._text = self._keys = ""
        self._due_s = 0.0

    async def look(self, _now: datetime, monotonic_s: float) -> None:
        """Read the file, or fetch from the URL when it is time, and use what has changed."""
        try:
            if self._jwt.jwks_file is not None:
                self._take(_read_file(Path(self._jwt.jwks_file)))
            elif self._jwt.jwks_url is not None:
                if monotonic_s < self._due_s:
                    return
                self._due_s = monotonic_s + _FETCH_AGAIN_S
                await self._ask(self._jwt.jwks_url)
                self._due_s = monotonic_s + _FETCH_S
            self.fault = ""
        except (ModelplaneError, OSError, ValueError) as error:  # a path may hold a zero byte
            keys = "those it has stay" if self._keys else "so it does not listen"
            self.fault = f"the keys of {self._jwt.issuer} cannot be read, {keys}: {error}"

    async def _ask(self, url: str) -> None:
        if not self._keys:
            with contextlib.suppress(ModelplaneError, OSError):
                where, _, text = _read_file(self._kept).partition("\n")
                if where == url:
                    self._take(text)
        if self._take(await self._fetch(url)):
            _write_file(self._kept, f"{url}\n{self._keys}")

    def _take(self, text: str) -> bool:
        """Use the keys in `text`; return whether they differ from those in use."""
        if text == self._text:
            return False
        keys = read_keys(text)
        self._text = text
        if keys == self._keys:
            return False
        self._keys = keys
        self._use(EXTENSION, token_filter(self._jwt, keys))
        log.info("gateway_keys", issuer=self._jwt.issuer)
        return True


def _read_file(path: Path) -> str:
    if not path.is_file():  # a pipe would hold up the agent until somebody writes
        raise TransientError(f"there is no file {path}")
    with path.open("rb") as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise TransientError(f"{path} is larger than {MAX_BYTES} bytes")
    return text.decode(errors="replace")


def _write_file(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(text)
    scratch.replace(path)
