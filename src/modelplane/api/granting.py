"""Changes of roles, bindings and tokens: refused when they mean nothing or lock everybody out.

Used by `applying` and `tokens`. Loads what `decisions.role_checks` needs; decides nothing.
"""

from __future__ import annotations

from datetime import datetime

from modelplane.decisions.role_checks import (
    check_admin_remains,
    check_binding,
    check_binding_name,
    check_role_unused,
)
from modelplane.ports.store import Store
from modelplane.resources.environment import Environment
from modelplane.resources.role import Role, RoleBinding
from modelplane.resources.token import Token


async def check_binding_applied(store: Store, binding: RoleBinding, now: datetime) -> None:
    """Raise unless `binding` may be written; see `check_binding` and `check_admin_remains`."""
    roles, _ = await store.list(Role)
    environments, _ = await store.list(Environment)
    places = [environment.metadata.name for environment in environments]
    check_binding(binding, [role.metadata.name for role in roles], places)
    before = await store.find(RoleBinding, binding.metadata.name)
    if before is not None and before.spec.role == "admin":
        others = await _bindings_without(store, binding.metadata.name)
        check_admin_remains(await _tokens(store), [*others, binding], now)


async def check_binding_deleted(store: Store, binding: RoleBinding, now: datetime) -> None:
    """Raise `Conflict` unless `binding` may go."""
    check_binding_name(binding)
    if binding.spec.role == "admin":
        others = await _bindings_without(store, binding.metadata.name)
        check_admin_remains(await _tokens(store), others, now)


async def check_role_deleted(store: Store, role: Role) -> None:
    """Raise `Conflict` unless `role` may go."""
    check_role_unused(role, (await store.list(RoleBinding))[0])


async def check_token_revoked(store: Store, token: Token, now: datetime) -> None:
    """Raise `Conflict` when nobody could do everything once `token` is gone."""
    others = [t for t in await _tokens(store) if t.metadata.name != token.metadata.name]
    check_admin_remains(others, await _bindings_without(store, ""), now)


async def _bindings_without(store: Store, name: str) -> list[RoleBinding]:
    return [b for b in (await store.list(RoleBinding))[0] if b.metadata.name != name]


async def _tokens(store: Store) -> list[Token]:
    return list((await store.list(Token))[0])
