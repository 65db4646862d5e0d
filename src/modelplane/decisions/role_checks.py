"""What roles, bindings and tokens may be: checked before they are written or removed.

Called by the API when they are applied, deleted or revoked. Pure; each function returns nothing or
raises. Who may write them is decided elsewhere (`authorization`): only role admin.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from modelplane.decisions.authorization import is_limited
from modelplane.decisions.roles import (
    BUILT_IN_BINDING_NAMES,
    BUILT_IN_BINDINGS,
    BUILT_IN_ROLE_NAMES,
    SYSTEM_PREFIX,
    THINGS,
)
from modelplane.errors import Conflict, FieldError, InvalidResource
from modelplane.resources.fields import suggest
from modelplane.resources.kinds import KINDS
from modelplane.resources.role import Role, RoleBinding
from modelplane.resources.token import Token

_LONGEST_GROUP = 63
_SCOPED_NOT_RESOURCES = frozenset({"*", "Audit", "Evidence"})
"""Beside kinds: what can be asked for of one environment."""


def check_role(role: Role) -> None:
    """Raise `Conflict` when `role` is built in, `InvalidResource` when a rule means nothing."""
    name = role.metadata.name
    if name in BUILT_IN_ROLE_NAMES:
        raise Conflict(
            f"role {name} is built in and never changes", hint="make one with another name"
        )
    faults: list[FieldError] = []
    seen: set[str] = set()
    for index, rule in enumerate(role.spec.rules):
        path = f"spec.rules[{index}]"
        if rule.name in seen:
            faults.append(FieldError(f"{path}.name", f"another rule is called {rule.name!r}"))
        seen.add(rule.name)
        unknown = [kind for kind in rule.kinds if kind not in {"*", *THINGS}]
        faults += [
            FieldError(f"{path}.kinds", f"unknown kind {kind[:80]!r}; {suggest(kind, THINGS)}")
            for kind in unknown
        ]
        if rule.stages and not unknown and not any(map(_is_in_environments, rule.kinds)):
            message = f"{', '.join(rule.kinds)} belong to no environment, so this allows nothing"
            faults.append(FieldError(f"{path}.stages", message))
    if faults:
        raise InvalidResource(f"Role {name} is not valid", faults)


def _is_in_environments(kind: str) -> bool:
    return kind in _SCOPED_NOT_RESOURCES or (kind in KINDS and KINDS[kind].scoped)


def check_role_unused(role: Role, bindings: Iterable[RoleBinding]) -> None:
    """Raise `Conflict` when `role` is built in, or while a binding gives it."""
    name = role.metadata.name
    if name in BUILT_IN_ROLE_NAMES:
        raise Conflict(f"role {name} is built in and cannot be deleted")
    users = [b.metadata.name for b in bindings if b.spec.role == name]
    if users:
        raise Conflict(
            f"role {name} is given by {len(users)} bindings: {', '.join(users[:5])}",
            hint="delete them first",
        )


def check_binding(binding: RoleBinding, roles: Iterable[str], environments: Iterable[str]) -> None:
    """Raise `InvalidResource` when `binding` names what does not exist.

    Parameters
    ----------
    binding
        As it was declared.
    roles, environments
        The names of all there are.

    Raises
    ------
    Conflict
        It is built in.
    """
    check_binding_name(binding)
    spec, faults = binding.spec, []
    known = {*roles, *BUILT_IN_ROLE_NAMES}
    if spec.role not in known:
        faults.append(FieldError("spec.role", f"unknown role; {suggest(spec.role, known)}"))
    places = set(environments)
    faults += [
        FieldError(f"spec.environments[{i}]", f"unknown environment; {suggest(place, places)}")
        for i, place in enumerate(spec.environments)
        if place not in places
    ]
    for index, group in enumerate(spec.groups):
        path = f"spec.groups[{index}]"
        if group.startswith(SYSTEM_PREFIX):
            faults.append(FieldError(path, f"{group[:80]} is modelplane's own and has its role"))
        elif not 0 < len(group) <= _LONGEST_GROUP:
            faults.append(FieldError(path, f"must be text of 1 to {_LONGEST_GROUP} characters"))
    if faults:
        raise InvalidResource(f"RoleBinding {binding.metadata.name} is not valid", faults)


def check_binding_name(binding: RoleBinding) -> None:
    """Raise `Conflict` when `binding` is built in."""
    name = binding.metadata.name
    if name in BUILT_IN_BINDING_NAMES:
        raise Conflict(f"role binding {name} is built in and always holds")


def check_admin_remains(
    tokens: Sequence[Token], bindings: Sequence[RoleBinding], now: datetime
) -> None:
    """Raise `Conflict` unless somebody could still do everything.

    Parameters
    ----------
    tokens, bindings
        All as they would be after the change.
    now
        Tokens that have expired by then do not count.
    """
    admins = {
        group
        for binding in (*BUILT_IN_BINDINGS, *bindings)
        if binding.spec.role == "admin" and not is_limited(binding)
        for group in binding.spec.groups
    }
    for token in tokens:
        expires_at = token.spec.expires_at
        if admins.intersection(token.spec.groups) and (expires_at is None or expires_at > now):
            return
    raise Conflict(
        "nobody would be left with role admin",
        hint="first make a token of group admin: modelplane token create NAME --group admin",
    )
