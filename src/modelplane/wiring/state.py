"""The state directory: made, checked, and given its first contents.

Called by the control plane before anything else. Secrets lie in files of mode 0600; the store
holds only their digests.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from pathlib import Path

from modelplane.client.signing import make_key_pair
from modelplane.decisions.built_in_rules import built_in_rules, renewed
from modelplane.decisions.roles import BUILT_IN_BINDINGS, BUILT_IN_ROLES, FIRST_BINDINGS
from modelplane.errors import NoSpace, TerminalError
from modelplane.ports.store import AnyResource, Store, Transaction
from modelplane.resources.alerting import AlertRules
from modelplane.resources.environment import Environment, EnvironmentSpec, Gateway
from modelplane.resources.meta import Metadata, Subject
from modelplane.resources.role import RoleBinding
from modelplane.resources.token import Token, TokenSpec
from modelplane.settings import STATE_FORMAT, Paths, Settings

SUBJECT = Subject(name="system:start")
_TOKENS = {"admin": ("admin",), "agent": ("system:agents",)}


def prepare_state(paths: Paths) -> None:
    """Make the directory and its secrets; refuse one that a newer release wrote.

    Raises
    ------
    TerminalError
        When the directory cannot be used; nothing in it was changed.
    NoSpace
        When the disk is full.
    """
    try:
        paths.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if paths.version.exists():
            found = paths.version.read_text().strip()
            if not found.isdigit() or int(found) > STATE_FORMAT:
                raise TerminalError(
                    f"{paths.state_dir} has state format {found[:20]}, this modelplane reads "
                    f"{STATE_FORMAT}",
                    hint="use the newer modelplane that wrote it, or another --state directory",
                )
        for directory in (
            paths.logs,
            paths.artifacts,
            paths.agent,
            paths.processes,
            paths.audit,
            paths.secrets,
            paths.signing,
        ):
            directory.mkdir(mode=0o700, exist_ok=True)
        prepare_runtime_dir(paths)
        make_key_pair(paths.signing / "key.pem")
        for file in (paths.admin_token, paths.agent_token, paths.gateway_token, paths.link_key):
            if not file.exists():
                _write_whole(file, f"mp_{secrets.token_urlsafe(32)}")
        if not paths.version.exists():
            _write_whole(paths.version, str(STATE_FORMAT))
    except OSError as error:
        if error.errno == 28:
            raise NoSpace(f"the disk of {paths.state_dir} is full") from error
        raise TerminalError(
            f"{paths.state_dir} cannot be used: {error.strerror}",
            hint="choose another with --state",
        ) from error


def prepare_runtime_dir(paths: Paths) -> None:
    """Make the directory of sockets and keys, or take it back; called by both processes.

    It may lie where everybody can make one of that name. Raises `TerminalError` when it is not
    this user's own.
    """
    directory = paths.runtime_dir
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise TerminalError(
            f"{directory} is not a directory of this user",
            hint="remove it, or set XDG_RUNTIME_DIR to a directory that nobody else writes to",
        )
    directory.chmod(0o700)


def _write_whole(file: Path, text: str) -> None:
    """Write a line whole or not at all, and never readable by others, not even for a moment."""
    temporary = file.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.rename(file)


async def ensure_first_resources(store: Store, settings: Settings) -> None:
    """Create what exists from the start: tokens, roles, environments; follow changed settings."""
    await _ensure_tokens(store, settings.paths)
    await ensure_roles(store)
    await ensure_rules(store)
    gateways = (
        ("staging", 10, settings.staging_port, 7081),
        ("production", 20, settings.production_port, 7082),
    )
    for name, order, wanted_port, default_port in gateways:
        existing = await store.find(Environment, name)
        transaction = Transaction(SUBJECT, reason="settings")
        if existing is None:
            gateway = Gateway(
                host=settings.gateway_host or "127.0.0.1", port=wanted_port or default_port
            )
            spec = EnvironmentSpec.model_validate(
                {"stage": name, "order": order, "gateway": gateway.to_dict()}
            )
            transaction.create(Environment(metadata=Metadata(name=name), spec=spec))
        else:
            before = existing.spec.gateway
            gateway = before.with_(
                host=settings.gateway_host or before.host, port=wanted_port or before.port
            )
            if gateway == before:
                continue
            transaction.update(existing.with_spec(gateway=gateway))
        await store.commit(transaction)


async def _ensure_tokens(store: Store, paths: Paths) -> None:
    files = {"admin": paths.admin_token, "agent": paths.agent_token}
    for name, groups in _TOKENS.items():
        digest = hashlib.sha256(files[name].read_text().strip().encode()).hexdigest()
        existing = await store.find(Token, name)
        spec = TokenSpec(groups=groups, digest=digest)
        transaction = Transaction(SUBJECT, reason="start")
        if existing is None:
            transaction.create(Token(metadata=Metadata(name=name), spec=spec))
        elif existing.spec.digest != digest:
            transaction.update(existing.with_(spec=spec))
        else:
            continue
        await store.commit(transaction)


async def ensure_roles(store: Store) -> None:
    """Keep the built-in roles as this release has them; the first time, bind them to groups.

    The bindings come once, with the roles: whoever deletes one does not want it back.
    """
    transaction = Transaction(SUBJECT, reason="start")
    is_first = True
    built_in: tuple[AnyResource, ...] = (*BUILT_IN_ROLES, *BUILT_IN_BINDINGS)
    for wanted in built_in:
        existing = await store.find(type(wanted), wanted.metadata.name)
        if existing is None:
            transaction.create(wanted)
        elif existing.spec != wanted.spec:
            transaction.update(existing.with_(spec=wanted.spec))
        is_first = is_first and existing is None
    for binding in FIRST_BINDINGS if is_first else ():
        if await store.find(RoleBinding, binding.metadata.name) is None:
            transaction.create(binding)
    if transaction:
        await store.commit(transaction)


async def ensure_rules(store: Store) -> None:
    """Keep the alert rules that modelplane ships as this release has them, unless people did."""
    transaction = Transaction(SUBJECT, reason="start")
    wanted = built_in_rules()
    existing = await store.find(AlertRules, wanted.metadata.name)
    if existing is None:
        transaction.create(wanted)
    elif (newer := renewed(existing)) is not None:
        transaction.update(newer)
    if transaction:
        await store.commit(transaction)
