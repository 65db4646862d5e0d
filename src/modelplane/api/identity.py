"""Who asks: from a bearer token to a subject.

Called for every request under ``/api``. Secrets are compared by their SHA-256 and never stored
or logged.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from datetime import datetime

from modelplane.decisions.authorization import AGENT_GROUP
from modelplane.errors import Unauthenticated
from modelplane.ports.clock import Clock
from modelplane.ports.store import Store
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.token import Token, TokenSpec

_REFRESH_S = 1.0
"""Tokens changed by another process are noticed after this many seconds; our own at once."""


def digest_secret(secret: str) -> str:
    """Return the SHA-256 of a secret, hex; secrets are random, so no slow hash is needed."""
    return hashlib.sha256(secret.encode()).hexdigest()


def make_token(
    name: str, groups: tuple[str, ...], secret: str, *, expires_at: datetime | None = None
) -> Token:
    """Return the token resource that `secret` will stand for.

    Raises
    ------
    pydantic.ValidationError
        When `name` is not a name.
    """
    spec = TokenSpec(groups=groups, digest=digest_secret(secret), expires_at=expires_at)
    return Token(metadata=Metadata(name=name), spec=spec)


def subject_of(token: Token) -> Subject:
    """Return whom a token stands for; an agent's name is marked as part of the system."""
    name = token.metadata.name
    is_agent = AGENT_GROUP in token.spec.groups
    return Subject(name=f"system:{name}" if is_agent else name, groups=token.spec.groups)


class Identities:
    """The tokens, held by the digest of their secret."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._tokens: dict[str, Token] = {}
        self._fresh_until_s = float("-inf")
        self._loading = asyncio.Lock()
        self.revoking = asyncio.Lock()

    def forget(self) -> None:
        """Read the tokens anew at the next request: one was made or revoked."""
        self._fresh_until_s = float("-inf")

    async def identify(self, authorization: str | None) -> Subject:
        """Return the subject of an ``Authorization`` header.

        Raises
        ------
        Unauthenticated
            No bearer token, or one that is not known or has expired.
        """
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise Unauthenticated(
                "this needs a token",
                hint="send 'Authorization: Bearer TOKEN'; the CLI reads MODELPLANE_TOKEN or the "
                "state directory's admin-token",
            )
        digest = digest_secret(secret.strip())
        await self._refresh()
        token = self._tokens.get(digest)
        if token is None or not hmac.compare_digest(token.spec.digest, digest):
            raise Unauthenticated("the token is not known, or was revoked")
        if token.spec.expires_at is not None and token.spec.expires_at <= self._clock.now():
            raise Unauthenticated(f"the token {token.metadata.name!r} has expired")
        return subject_of(token)

    async def _refresh(self) -> None:
        if self._clock.monotonic_s() < self._fresh_until_s:
            return
        async with self._loading:
            now_s = self._clock.monotonic_s()
            if now_s < self._fresh_until_s:
                return
            tokens, _ = await self._store.list(Token)
            self._tokens = {token.spec.digest: token for token in tokens}
            self._fresh_until_s = now_s + _REFRESH_S
