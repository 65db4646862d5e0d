"""The store on a SQLite file: implements `ports.store.Store`.

Made by `wiring`, used by the API and the controllers through the port. One thread writes
(`writer`), a few read; nothing blocks the event loop. Other processes may use the same file: what
they commit is seen within a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Engine

from modelplane.adapters.store.auditing import NoteFault, find_head_fault, verify_log
from modelplane.adapters.store.backup import copy_database
from modelplane.adapters.store.connections import make_engine, prepare_database, translated
from modelplane.adapters.store.documents import ResourceCache
from modelplane.adapters.store.operations import Claim, Commit, Operation, Prune, Renew
from modelplane.adapters.store.queries import (
    Selection,
    newest_change,
    read_audit,
    read_changes,
    read_evidence,
    read_kind,
    read_resource,
    read_signed_head,
)
from modelplane.adapters.store.signing import HeadKeeper
from modelplane.adapters.store.staging import Staging
from modelplane.adapters.store.writer import Result, Writer
from modelplane.decisions.audit_chain import GENESIS, ChainFault, ChainReport
from modelplane.errors import ModelplaneError, NotFound, TransientError
from modelplane.ports.clock import Clock
from modelplane.ports.store import (
    AnyResource,
    AuditRecord,
    Change,
    ChangePage,
    Lease,
    R,
    Transaction,
)
from modelplane.resources.kinds import KINDS
from modelplane.resources.meta import ResourceKey

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """What may be tuned.

    Attributes
    ----------
    keep_changes
        Entries that the change log keeps at the least.
    max_queued
        Transactions that may wait to be written; more are refused.
    max_cached
        Parsed resources kept in memory.
    readers
        Threads that read.
    busy_timeout_s
        How long to wait for another process's lock, seconds.
    poll_interval_s
        How often to look for commits of other processes, seconds.
    """

    keep_changes: int = 10_000
    max_queued: int = 1_024
    max_cached: int = 20_000
    readers: int = 3
    busy_timeout_s: float = 5.0
    poll_interval_s: float = 1.0


class SqliteStore:
    """Durable state in one file.

    Parameters
    ----------
    path
        The database file; made when it is not there.
    clock
        Tells the time that metadata, leases and audit records carry.
    new_uid
        Returns a new unique id at each call.
    audit_dir
        Where the signing key and the signed head of the audit log lie.
    options
        What may be tuned.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        new_uid: Callable[[], str],
        audit_dir: Path,
        options: StoreOptions | None = None,
    ) -> None:
        self._path = path
        self._clock = clock
        self._new_uid = new_uid
        self._audit_dir = audit_dir
        self._options = options or StoreOptions()
        self._cache = ResourceCache(self._options.max_cached)
        self._opened: _Opened | None = None
        self._latest = 0
        self._changed_at: dict[str, int] = {}
        self._news = asyncio.Event()

    async def open(self) -> None:
        """Open the file, or make it; start to write and to follow other processes.

        Raises
        ------
        TerminalError
            When the file is of a newer release, damaged, or something else; it stays untouched.
        TransientError
            When another process holds it locked; `NoSpace` on a full disk.
        """
        loop = asyncio.get_running_loop()
        opened, fault = await asyncio.to_thread(self._open, loop)
        self._opened = opened
        if fault is not None:
            await self._write(NoteFault(fault))
        opened.poller = loop.create_task(self._poll(), name="store-poll")

    async def close(self) -> None:
        """Write what is queued, then let go of the file; closing twice changes nothing."""
        opened, self._opened = self._opened, None
        if opened is None:
            return
        if opened.poller is not None:
            opened.poller.cancel()
            with suppress(asyncio.CancelledError):
                await opened.poller
        await asyncio.to_thread(opened.close)
        self._announce(self._latest)  # who watches learns that it is over

    async def get(self, kind: type[R], name: str, environment: str | None = None) -> R:
        """Return one resource; raises `NotFound`."""
        found = await self.find(kind, name, environment)
        if found is None:
            raise NotFound(f"{ResourceKey(kind.__name__, environment, name)} does not exist")
        return found

    async def find(self, kind: type[R], name: str, environment: str | None = None) -> R | None:
        """Return one resource, or None."""
        key = ResourceKey(kind.__name__, environment, name)
        return cast("R | None", await self._read(partial(read_resource, key=key)))

    async def list(
        self,
        kind: type[R],
        environment: str | None = None,
        *,
        labels: Mapping[str, str] = {},
        prefix: str = "",
    ) -> tuple[Sequence[R], int]:
        """Return a kind's resources in name order and the resource version they are at."""
        selection = Selection(kind.__name__, environment, prefix)
        found, version = await self._read(
            partial(read_kind, selection=selection, cache=self._cache)
        )
        if labels:
            wanted = labels.items()
            found = [one for one in found if wanted <= one.metadata.labels.items()]
        return cast("list[R]", found), version

    def newest_version(self, kinds: Sequence[type[AnyResource]] = ()) -> int:
        """Return the version at which some of `kinds` changed last, as far as is known here."""
        names = [kind.__name__ for kind in kinds] or KINDS
        return max((self._changed_at.get(name, 0) for name in names), default=0)

    async def changes(self, since: int, kinds: Sequence[type[AnyResource]] = ()) -> ChangePage:
        """Return the first changes after version `since`; raises as `watch` does."""
        names = [kind.__name__ for kind in kinds]
        return await self._read(partial(read_changes, since=since, kinds=names, cache=self._cache))

    async def commit(self, transaction: Transaction) -> Sequence[AnyResource]:
        """Apply all of `transaction`, durably, and return the written resources in order.

        Cancelled while it waits, the transaction may still be applied.

        Raises
        ------
        Conflict
            When an expected version or the fence has passed.
        InvalidResource
            When a resource holds a value that could not be read back.
        TransientError
            When too many transactions wait, or the file is locked; `NoSpace` on a full disk.
        """
        if not transaction:
            return ()
        operation = Commit(transaction, self._new_uid)
        return cast("Sequence[AnyResource]", await self._write(operation))

    async def watch(
        self, since: int, kinds: Sequence[type[AnyResource]] = ()
    ) -> AsyncIterator[Change]:
        """Yield changes after version `since` in order, for ever; all kinds when none is named.

        Raises
        ------
        Conflict
            With code ``expired`` when changes after `since` are no longer in the log.
        TransientError
            When the store is closed.
        """
        names = [kind.__name__ for kind in kinds]
        while True:
            page = await self.changes(since, kinds)
            for change in page.changes:
                yield change
            since = page.through
            while not page.more and not self._has_news(since, names):
                since = max(since, self._latest)
                await self._news.wait()

    async def claim(self, name: str, holder: str, ttl_s: float) -> Lease | None:
        """Take a lease that is free, expired or already `holder`'s; None when another has it."""
        return cast("Lease | None", await self._write(Claim(name, holder, ttl_s)))

    async def renew(self, lease: Lease, ttl_s: float) -> Lease | None:
        """Extend a lease; None when it was lost."""
        return cast("Lease | None", await self._write(Renew(lease, ttl_s)))

    async def audit(
        self,
        after: int = 0,
        limit: int = 1000,
        *,
        last: int | None = None,
        kind: str | Sequence[str] | None = None,
        name: str | None = None,
        environment: str | None = None,
    ) -> Sequence[AuditRecord]:
        """Return the first audit records after `after`, or the `last` newest, in order."""
        only = {"kind": kind, "name": name, "environment": environment}
        return await self._read(partial(read_audit, after=after, limit=limit, last=last, only=only))

    async def evidence(self, rollout_uids: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """Return the stored evidence of the rollouts that have any."""
        return await self._read(partial(read_evidence, rollout_uids=rollout_uids))

    async def verify_audit(self) -> ChainReport:
        """Check the whole audit log against its signed heads and name each bad record."""
        heads = self._require().heads
        witnesses = await asyncio.to_thread(heads.read_witnesses)
        return await self._read(partial(verify_log, witnesses=witnesses, heads=heads))

    async def prune(self) -> int:
        """Shorten the change log now; return the newest change that is gone."""
        return cast("int", await self._write(Prune(self._options.keep_changes)))

    async def backup(self, to: Path) -> None:
        """Copy the database, its signed head and the public key into the new folder `to`.

        Others read and write meanwhile; the copy is of one moment.

        Raises
        ------
        Conflict
            When `to` exists.
        NoSpace
            When the copy does not fit; nothing is left of it.
        """
        heads = self._require().heads
        await self._read(partial(copy_database, to=to, public_key=heads.public_key()))

    def _open(self, loop: asyncio.AbstractEventLoop) -> tuple[_Opened, ChainFault | None]:
        options = self._options
        make = partial(make_engine, self._path, busy_timeout_s=options.busy_timeout_s)
        write_engine = make(writes=True, connections=1)
        try:
            with translated(self._path):
                prepare_database(write_engine, self._path)
            heads = HeadKeeper(self._audit_dir)
        except BaseException:
            write_engine.dispose()
            raise
        read_engine = make(writes=False, connections=options.readers)

        def on_done(results: Sequence[Result], staging: Staging | None) -> None:
            for resource in staging.resources if staging else ():
                self._cache.put(resource)
            with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
                loop.call_soon_threadsafe(self._settle, results, staging)

        writer = Writer(
            write_engine,
            self._path,
            heads=heads,
            clock=self._clock,
            max_queued=options.max_queued,
            keep_changes=options.keep_changes,
            on_done=on_done,
        )
        opened = _Opened(write_engine, read_engine, writer, heads, options.readers)
        writer.start()
        try:
            return opened, self._check_head(opened)
        except BaseException:
            opened.close()
            raise

    def _check_head(self, opened: _Opened) -> ChainFault | None:
        """Compare the head file with the log; what contradicts it is kept and returned."""
        heads = opened.heads
        with translated(self._path):
            head = heads.read()
            with opened.read_engine.begin() as connection:
                self._latest = newest_change(connection)
                signed = read_signed_head(connection)
                fault = find_head_fault(connection, head, heads)
            if fault is not None and head is not None:
                heads.set_aside(head.sequence)
            if fault is not None or head is None:
                heads.write(signed or heads.sign(0, GENESIS, self._clock.now()))
        return fault

    def _require(self) -> _Opened:
        if self._opened is None:
            raise TransientError("the store is closed")
        return self._opened

    async def _write(self, operation: Operation) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._require().writer.submit(operation, future)
        return await future

    def _settle(self, results: Sequence[Result], staging: Staging | None) -> None:
        """Wake who waits for a group, then who watches."""
        for future, outcome in results:
            if future.done():  # its caller was cancelled
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        if staging is not None and staging.changes:
            first = staging.changes[0].resource_version
            kinds = {change.key.kind for change in staging.changes}
            # After a gap another process wrote too, and nobody said of what kinds.
            self._announce(staging.version, kinds if first == self._latest + 1 else KINDS)

    async def _read(self, function: Callable[[Connection], T]) -> T:
        opened = self._require()

        def run() -> T:
            with translated(self._path), opened.read_engine.begin() as connection:
                return function(connection)

        return await asyncio.get_running_loop().run_in_executor(opened.readers, run)

    async def _poll(self) -> None:
        """Notice what other processes committed."""
        while True:
            await asyncio.sleep(self._options.poll_interval_s)
            with suppress(ModelplaneError):  # who reads next will meet it
                self._announce(await self._read(newest_change))

    def _announce(self, version: int, kinds: Iterable[str] = KINDS) -> None:
        """Wake who watches: changes of `kinds` up to `version` are there to be read."""
        if version > self._latest or self._opened is None:
            self._latest = max(version, self._latest)
            self._changed_at.update(dict.fromkeys(kinds, version))
            self._news.set()
            self._news = asyncio.Event()

    def _has_news(self, since: int, kinds: Sequence[str]) -> bool:
        """Whether a watch of `kinds` that has seen everything up to `since` should read."""
        if self._opened is None:
            return True
        return any(self._changed_at.get(kind, 0) > since for kind in kinds or KINDS)


class _Opened:
    """What is held while the store is open."""

    def __init__(
        self,
        write_engine: Engine,
        read_engine: Engine,
        writer: Writer,
        heads: HeadKeeper,
        readers: int,
    ) -> None:
        self.write_engine = write_engine
        self.read_engine = read_engine
        self.writer = writer
        self.heads = heads
        self.readers = ThreadPoolExecutor(readers, thread_name_prefix="store-reader")
        self.poller: asyncio.Task[None] | None = None

    def close(self) -> None:
        """End the threads and close the file."""
        self.writer.close()
        self.readers.shutdown(wait=True, cancel_futures=True)
        self.read_engine.dispose()
        self.write_engine.dispose()
