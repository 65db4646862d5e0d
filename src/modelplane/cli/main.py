"""The entry point: finds the command's module, runs it, tells errors.

Called by the ``modelplane`` script. Only typer is imported here, so that ``--help`` and shell
completion answer at once; what a command needs is imported with its module.
"""

from __future__ import annotations

import difflib
import importlib
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from modelplane.cli.failures import tell_failures
from modelplane.errors import InvalidResource

SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Run modelplane": {
        "up": ("platform", "Start the control plane, the agent and the gateways."),
        "down": ("platform", "Stop everything that `up` started."),
        "demo": ("demonstration", "Watch three real versions go through rollouts, live."),
        "status": ("overview", "Show every environment: what serves, what moves, what is wrong."),
        "logs": ("logs", "Show the log of a process or a model server."),
    },
    "Models": {
        "push": ("pushing", "Register a version of a model with its artifact."),
        "registry": (
            "registry",
            "Search, label, correct, sign and check what is registered.",
        ),
        "dataset": ("datasets", "Register versions of data."),
        "lineage": ("lineage", "Show what something came from, and what depends on it."),
        "reproduce": ("reproducing", "Run again what made a version, and compare predictions."),
        "predict": ("inference", "Ask a deployment for one prediction, through its gateway."),
        "pipeline": ("pipelines", "Run validation pipelines, and see what they found."),
        "contract": ("contracts", "Publish what consumers expect, and ask what may be deployed."),
    },
    "Declare": {
        "apply": ("manifests", "Make the resources in manifests what is declared."),
        "diff": ("manifests", "Show what `apply` would change."),
        "validate": ("manifests", "Check manifests without a server and print what they mean."),
        "get": ("reading", "List resources, show one, or watch them."),
        "describe": ("reading", "Show everything about one resource, for people."),
        "delete": ("reading", "Delete a resource."),
        "explain": ("explaining", "Say what a kind or a field means."),
    },
    "Roll out": {
        "promote": ("promotion", "Promote a version of a deployment to an environment."),
        "rollout": ("rollouts", "Follow and steer rollouts."),
        "traffic": ("traffic", "See and explain who gets which version."),
        "policy": ("policies", "Try policies on a version, and replay them over the past."),
        "approvals": ("approvals", "See who has to agree to what, and delegate."),
        "approve": ("approvals", "Agree to a promotion that you are asked about."),
        "reject": ("approvals", "Refuse a promotion that you are asked about."),
    },
    "Watch": {
        "predictions": ("predictions", "See and export what models predicted."),
        "feedback": ("feedback", "Tell what turned out to be true."),
        "quality": ("quality", "See how right versions are, by labels."),
        "drift": ("drift", "See whether inputs and outputs are still as they were."),
        "alert": ("alerts", "See what is wrong, and ask for quiet."),
        "playbook": ("playbooks", "See, run and answer what is done about alerts."),
        "training": ("training", "See, start and cancel trainings of models."),
    },
    "Administer": {
        "auth": ("auth", "Ask who one is, and who may do what."),
        "ca": ("ca", "See and renew the certificate authority behind mutual TLS."),
        "token": ("tokens", "Create, list and revoke tokens."),
        "audit": ("audit", "Read, verify and export the audit log."),
        "evidence": ("evidence", "Export and check the evidence of promotions."),
        "notification": ("notifications", "See what was sent, send dead letters again."),
        "backup": ("storage", "Copy the state into an archive."),
        "restore": ("storage", "Make a state directory from an archive."),
        "gc": ("storage", "Remove what nothing refers to any more."),
        "version": ("about", "Show the versions of modelplane and of what it runs on."),
    },
}
"""Every command by section: the module below `modelplane.cli` that holds it, and one line."""

COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class RootGroup(TyperGroup):
    """The commands, each imported when it is asked for; failures are told in one place."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return all commands in the order of help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import and return one command; None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"modelplane.cli.{COMMANDS[cmd_name][0]}")
        return typer.main.get_group(module.app).get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that was asked for; one that does not exist gets a suggestion."""
        if args[0] not in COMMANDS:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else "see modelplane --help"
            raise InvalidResource(f"no command {args[0]!r}", hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands by section, without importing them."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, line) for name, (_, line) in commands.items()])

    def invoke(self, ctx: Any) -> Any:
        """Run the command; a failure becomes words on stderr and an exit code."""
        with tell_failures(ctx):
            return super().invoke(ctx)


app = typer.Typer(
    name="modelplane",
    cls=RootGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Begin with `modelplane up`, or see it all at work with `modelplane demo`.",
)


@app.callback()
def root(
    context: typer.Context,
    state: Annotated[
        Path | None,
        typer.Option("--state", metavar="DIR", help="State directory; default ./.modelplane."),
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", metavar="URL", help="Address of the API.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    """Take model versions from training to full production traffic, and keep them healthy there.

    The three options may also stand behind any command.
    """
    context.meta["modelplane.state"] = state
    context.meta["modelplane.url"] = url
    context.meta["modelplane.debug"] = debug


def main() -> None:
    """Run the command line."""
    app()
