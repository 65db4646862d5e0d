"""The audit log's check and its signed head, in the form the API sends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from modelplane.adapters.store.signing import HeadKeeper
from modelplane.adapters.store.sqlite import SqliteStore
from modelplane.settings import Paths


class AuditProof:
    """What proves the audit log: a full check, and the head with the key that signed it."""

    def __init__(self, store: SqliteStore, paths: Paths) -> None:
        self._store = store
        self._paths = paths
        self._heads = HeadKeeper(paths.audit)

    def sign(self, data: bytes) -> str:
        """Sign evidence with the audit log's key, hex."""
        return self._heads.sign_bytes(data)

    async def verify(self) -> Mapping[str, Any]:
        """Check the chain; ``faults`` names each record that is wrong."""
        report = await self._store.verify_audit()
        faults = [
            {"sequence": fault.sequence, "kind": fault.kind, "message": fault.message}
            for fault in report.faults
        ]
        return {
            "verified": report.ok,
            "records": report.records,
            "faults": faults,
            "omitted": report.omitted,
        }

    async def signed_head(self) -> Mapping[str, Any] | None:
        """Return the signed head and the public key, or None before the first record."""
        return await asyncio.to_thread(self._read_head)

    def _read_head(self) -> Mapping[str, Any] | None:
        head, key = self._paths.audit / "head.json", self._paths.audit / "key.pub"
        if not head.is_file() or not key.is_file():
            return None
        signed: dict[str, Any] = json.loads(head.read_text())
        return {**signed, "publicKey": key.read_text()}
