"""``registry …``: the group; its commands stand in the modules named here."""

from __future__ import annotations

from modelplane.cli import (
    registry_check,
    registry_history,
    registry_labels,
    registry_search,
    registry_signing,
    sources,
)
from modelplane.cli.session import make_app

app = make_app()
registry = make_app()
app.add_typer(
    registry,
    name="registry",
    help="Search, label, correct, sign and check what is registered.",
)

for module in (
    registry_search,
    registry_labels,
    registry_history,
    registry_check,
    registry_signing,
    sources,
):
    registry.registered_commands += module.commands.registered_commands
