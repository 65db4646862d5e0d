"""Writes docs/commands and docs/resources: ``python -m modelplane.cli.document [DOCS]``.

Run by ``make docs``. Both come from where help and `explain` come from, so they cannot differ;
a test checks that the files are as this writes them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from modelplane.cli.main import COMMANDS, SECTIONS
from modelplane.cli.session import SHARED_OPTIONS
from modelplane.resources.explain import ExplainedField, explain_kind
from modelplane.resources.kinds import KINDS
from modelplane.resources.meta import Resource

HEAD = "<!-- Written by `python -m modelplane.cli.document`; change the source instead. -->\n\n"
_COMPLETION = {"install_completion", "show_completion"}

EXAMPLES: Mapping[str, str] = {
    "Dataset": """\
apiVersion: modelplane.dev/v1
kind: Dataset
metadata:
  name: transactions
  labels: {team: risk}
spec:
  description: Card transactions, one row each, labelled after 90 days
""",
    "ModelSource": """\
apiVersion: modelplane.dev/v1
kind: ModelSource
metadata: {name: mlflow}
spec:
  type: mlflow
  url: http://127.0.0.1:5000
  pollInterval: 30s
  models: ["fraud-*"]
""",
    "Environment": """\
apiVersion: modelplane.dev/v1
kind: Environment
metadata: {name: shadow}
spec:
  stage: staging
  order: 15
  gateway: {port: 7083}
""",
    "ValidationPipeline": """\
pipeline:
  name: quality
  models: [fraud]
  stages:
    - validate:accuracy: {dataset: fraud-test, threshold: 0.92, margin: 0.01}
    - validate:latency: {p95: 50ms, maxSlowdown: 0.2}
    - validate:schema
    - approve:security_scan
  triggers: [on_model_push, {schedule: 0 3 * * *}]
""",
    "AlertRules": """\
apiVersion: modelplane.dev/v1
kind: AlertRules
metadata: {name: fraud}
spec:
  groups:
    - name: fraud
      rules:
        - alert: FraudDrifts
          expr: count by (version) (modelplane_drift_detected{deployment="fraud"} == 1) > 2
          for: 10m
          labels: {severity: page}
          annotations:
            summary: "{{ $value }} features of fraud {{ $labels.version }} drifted"
""",
    "Silence": """\
apiVersion: modelplane.dev/v1
kind: Silence
metadata: {name: new-disks}
spec:
  matchers: ['deployment="fraud"', 'severity!="critical"']
  endsAt: 2026-03-01T12:00:00Z
  comment: The disks of the staging machines are changed
""",
    "Playbook": """\
apiVersion: modelplane.dev/v1
kind: Playbook
metadata: {name: restart-replica}
spec:
  matchers: ['alertname="ReplicaDown"', 'environment="production"']
  steps:
  - {name: restart, restartReplica: {}, timeout: 2m}
  verify: {for: 10s, timeout: 5m}
  limits: {perHour: 3, cooldown: 1m}
""",
    "TrainingTrigger": """\
apiVersion: modelplane.dev/v1
kind: TrainingTrigger
metadata: {name: fraud-retrain}
spec:
  model: fraud
  on:
    dataset: [transactions]
    alerts: ['alertname="DataDrift"', 'model="fraud"']
    schedule: 0 3 * * 0
  run:
    command:
      command: [/srv/training/.venv/bin/python, /srv/training/train.py]
      env: {EPOCHS: "20"}
  timeout: 2h
  debounce: 5m
  cooldown: 6h
  perDay: 3
""",
    "Model": """\
apiVersion: modelplane.dev/v1
kind: Model
metadata: {name: fraud, labels: {team: risk, tier: "1"}}
spec: {description: Is this payment a fraud?}
""",
    "TrafficPolicy": """\
apiVersion: modelplane.dev/v1
kind: TrafficPolicy
metadata:
  name: fraud-2.0.0
  environment: production
spec:
  model: fraud
  version: 2.0.0
  trafficRule:
    canary:
      steps: [10]
      predicate: user.region == 'west'
  monitoringHooks: ["latency_alert>95th", error_alert>1%]
""",
    "ModelDeployment": """\
apiVersion: modelplane.dev/v1
kind: ModelDeployment
metadata: {name: fraud, environment: production}
spec:
  version: 1.2.0
  replicas: 2
  resources: {cpu: 1, memory: 1Gi}
  strategy:
    canary:
      steps: [1, 5, 25, 50]
      minBake: 5m
      deadline: 6h
      analysis:
        metrics: [{name: errors, margin: 0.005}, latency]
        onInconclusive: rollback
""",
    "Job": """\
apiVersion: modelplane.dev/v1
kind: Job
metadata: {name: nightly-check, environment: staging}
spec: {command: [python, check.py], timeout: 30m}
""",
    "PromotionPolicy": """\
apiVersion: modelplane.dev/v1
kind: PromotionPolicy
metadata: {name: production}
spec:
  environments: [production]
  models: {labels: {team: risk}}
  pipelines: [checks]
  conditions:
  - expression: metrics.accuracy >= 0.92
    message: below what the risk team accepts
  freezes:
  - {days: [sat, sun], timezone: Europe/Berlin, reason: weekend}
""",
    "ApprovalPolicy": """\
apiVersion: modelplane.dev/v1
kind: ApprovalPolicy
metadata: {name: risk-engine}
spec:
  team: 风险引擎
  models: {labels: {tier: high}}
  threshold: {accuracy: 96%}
  approvers: {groups: [compliance]}
  quorum: 2
  expiresAfter: 72h
""",
    "NotificationChannel": """\
apiVersion: modelplane.dev/v1
kind: NotificationChannel
metadata: {name: compliance}
spec:
  email:
    host: smtp.example.org
    username: modelplane
    password: smtp-password
    from: modelplane <modelplane@example.org>
    to: [clara@example.org]
  teams: [风险引擎]
  approver: clara
""",
    "Role": """\
apiVersion: modelplane.dev/v1
kind: Role
metadata: {name: releaser}
spec:
  description: Changes how production serves
  rules:
  - {name: look, verbs: [get, list, watch], kinds: ["*"]}
  - {name: deploy, verbs: [apply], kinds: [ModelDeployment], stages: [production]}
""",
    "RoleBinding": """\
apiVersion: modelplane.dev/v1
kind: RoleBinding
metadata: {name: risk-developers}
spec:
  role: developer
  groups: [risk]
  models: {labels: {team: risk}}
""",
}
"""A manifest for each kind that people declare; a test reads them."""


def write_docs(docs: Path) -> list[Path]:
    """Write all pages below `docs` and remove those of commands that are gone; return them."""
    pages = {docs / path: text for path, text in build_pages().items()}
    for folder in (docs / "commands", docs / "resources"):
        folder.mkdir(parents=True, exist_ok=True)
        for old in set(folder.glob("*.md")) - pages.keys():
            old.unlink()
    for path, text in pages.items():
        path.write_text(text)
    return sorted(pages)


def build_pages() -> dict[str, str]:
    """Return every page by its path below the documentation's folder."""
    pages = {"commands/README.md": _command_index(), "resources/README.md": _resource_index()}
    for name in COMMANDS:
        pages[f"commands/{name}.md"] = HEAD + "\n".join(_command_page(name)).rstrip() + "\n"
    for kind in KINDS.values():
        page = "\n".join(_resource_page(kind)).rstrip()
        pages[f"resources/{kind.__name__.lower()}.md"] = f"{HEAD}{page}\n"
    return pages


def load_command(name: str) -> Any:
    """Return one top-level command."""
    module = importlib.import_module(f"modelplane.cli.{COMMANDS[name][0]}")
    group = typer.main.get_group(module.app)
    return group.commands[name]


def walk_commands() -> Iterator[tuple[str, Any]]:
    """Yield every command with its full name: ``rollout watch``."""
    for name in COMMANDS:
        found = load_command(name)
        below = getattr(found, "commands", None)
        if below is None:
            yield name, found
            continue
        for inner, subcommand in below.items():
            yield f"{name} {inner}", subcommand


def own_parameters(command: Any) -> list[Any]:
    """Return a command's parameters without those that every command has."""
    shared = {f"--{name}" for name in SHARED_OPTIONS}
    return [p for p in command.params if not shared & set(p.opts)]


def _command_index() -> str:
    lines = ["# Commands", "", "`modelplane COMMAND --help` says the same in the terminal.", ""]
    for title, commands in SECTIONS.items():
        lines += [f"## {title}", "", "| command | |", "|---|---|"]
        lines += [f"| [{name}]({name}.md) | {line} |" for name, (_, line) in commands.items()]
        lines.append("")
    lines += ["## Options of every command", "", "| option | |", "|---|---|"]
    some = next(walk_commands())[1]
    shared = {f"--{name}" for name in SHARED_OPTIONS}
    lines += [_option_row(p) for p in some.params if shared & set(p.opts)]
    lines += ["| `--help`, `-h` | Show help. |", "", *_CONVENTIONS, ""]
    return HEAD + "\n".join(lines)


_CONVENTIONS = (
    "## Exit codes",
    "",
    "| code | meaning |",
    "|---|---|",
    "| 0 | done |",
    "| 1 | failed; also: a rollout that was followed was not promoted, `diff` found differences |",
    "| 2 | what was given is not valid; nothing was changed |",
    "| 3 | no valid token, or not allowed |",
    "| 4 | not found |",
    "| 5 | conflict: its state does not allow this now |",
    "| 6 | not available now; trying again may help |",
    "| 7 | the audit log was altered |",
    "| 8 | `registry check` found that the registry and the stored files disagree |",
    "| 130 | interrupted |",
    "",
    "Errors go to stderr as `error: …`, then one line for each field, then `hint: …`. With "
    "`-o json` nothing but JSON reaches stdout.",
    "",
    "## Where it finds the control plane",
    "",
    "The address: `--url`, then `MODELPLANE_URL`, then `endpoint.json` in the state directory. "
    "The token: `MODELPLANE_TOKEN`, then `admin-token` in the state directory. The state "
    "directory: `--state`, then `MODELPLANE_STATE`, then `./.modelplane`.",
)


def _command_page(name: str) -> Iterator[str]:
    found = load_command(name)
    below = getattr(found, "commands", None)
    if below is None:
        yield from _describe_command(name, found, "#")
        return
    yield from (f"# modelplane {name}", "", COMMANDS[name][1], "")
    for inner, subcommand in below.items():
        yield from _describe_command(f"{name} {inner}", subcommand, "##")


def _describe_command(name: str, command: Any, level: str) -> Iterator[str]:
    parameters = own_parameters(command)
    arguments = [p for p in parameters if p.param_type_name == "argument"]
    options = [p for p in parameters if p.param_type_name == "option"]
    yield from (f"{level} modelplane {name}", "", _join(command.help), "")
    usage = ["modelplane", name, *(p.metavar or p.name.upper() for p in arguments)]
    usage += [f"{_longest(p)} {p.metavar}" for p in options if p.required]
    yield from ("```", " ".join([*usage, "[OPTIONS]"]), "```", "")
    if arguments:
        yield from ("| argument | |", "|---|---|")
        yield from (f"| `{_escape(p.metavar or p.name)}` | {p.help or ''} |" for p in arguments)
        yield ""
    if options:
        yield from ("| option | |", "|---|---|", *map(_option_row, options), "")
    examples = [line.strip() for line in (command.epilog or "").splitlines()[3:]]
    yield from ("Examples:", "", "```", *examples, "```", "")


def _option_row(option: Any) -> str:
    metavar = f" {option.metavar}" if option.metavar else ""
    names = ", ".join(f"`{name}`" for name in sorted(option.opts, key=len, reverse=True))
    facts = "required" if option.required else _default(option)
    return f"| {names}{_escape(metavar)} | {option.help or ''}{f' ({facts})' if facts else ''} |"


def _default(option: Any) -> str:
    default = getattr(option.default, "value", option.default)
    if default is None or default is False or default in ("", ()) or callable(default):
        return ""
    return f"default {default}"


def _longest(option: Any) -> str:
    return str(max(option.opts, key=len))


def _join(text: str | None) -> str:
    """Return help text with each paragraph on one line."""
    return "\n\n".join(" ".join(part.split()) for part in (text or "").split("\n\n")).strip()


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def _resource_index() -> str:
    lines = [
        "# Resources",
        "",
        "`modelplane explain KIND.FIELD` says the same in the terminal.",
        "",
        "| kind | written by | also called | |",
        "|---|---|---|---|",
    ]
    for kind in KINDS.values():
        explained = explain_kind(kind)
        who = "people" if kind.declared else "the system"
        also = ", ".join(f"`{name}`" for name in (kind.plural, *kind.short_names))
        link = f"[{kind.__name__}]({kind.__name__.lower()}.md)"
        lines.append(f"| {link} | {who} | {also} | {explained.description} |")
    return HEAD + "\n".join(lines) + "\n"


def _resource_page(kind: type[Resource[Any, Any]]) -> Iterator[str]:
    explained = explain_kind(kind)
    parts = {field.name: field for field in explained.fields}
    where = "in an environment" if kind.scoped else "global"
    who = "People declare it." if kind.declared else "Made by the system."
    yield from (f"# {kind.__name__}", "", f"{explained.description} {who} ({where})", "")
    if kind.__name__ in EXAMPLES:
        yield from ("```yaml", EXAMPLES[kind.__name__].rstrip(), "```", "")
    for title in ("metadata", "spec", "status"):
        fields = [field for field in parts[title].walk() if field is not parts[title]]
        if not fields:
            continue
        yield from (f"## {title}", "", parts[title].description, "")
        yield from ("| field | type | default | |", "|---|---|---|---|")
        yield from (_field_row(field, f"{explained.path}.{title}.") for field in fields)
        yield ""


def _field_row(field: ExplainedField, prefix: str) -> str:
    facts = [field.description, f"Limits: {field.limits}." if field.limits else ""]
    facts.append(f"Also written: {field.also_written}." if field.also_written else "")
    default = "required" if field.required else f"`{field.default}`" if field.default else ""
    name = field.path.removeprefix(prefix)
    text = " ".join(fact for fact in facts if fact)
    return f"| `{name}` | {_escape(field.type)} | {_escape(default)} | {_escape(text)} |"


if __name__ == "__main__":
    for page in write_docs(Path(sys.argv[1] if len(sys.argv) > 1 else "docs")):
        typer.echo(page)
