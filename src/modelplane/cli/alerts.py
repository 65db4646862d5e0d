"""``alert …``: what is wrong now, what was, and asking for quiet."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

import typer
from pydantic import ValidationError

from modelplane.cli import words
from modelplane.cli.columns import headers_of, rows_of
from modelplane.cli.columns_alerts import moment, phase_of, since_of
from modelplane.cli.options import Format, Output, Plain, PlainOutput, Reason
from modelplane.cli.output import print_json, print_table, print_yaml, remark
from modelplane.cli.session import Session, command, make_app
from modelplane.errors import InvalidResource, NotFound
from modelplane.resources.alerting import Alert, Matcher, Silence, SilenceSpec
from modelplane.resources.meta import API_VERSION, Metadata
from modelplane.resources.quantities import parse_duration

app = make_app()
alert = make_app()
app.add_typer(alert, name="alert", help="See what is wrong, and ask for quiet.")

_ORDER = {"Firing": 0, "Pending": 1, "Resolved": 2}
_MOST_CHANGES = 200

Name = Annotated[
    str, typer.Argument(metavar="ALERT", help="Its name, or how it begins when that is enough.")
]


@command(
    alert,
    "list",
    examples=[
        "modelplane alert list",
        "modelplane alert list --all -o json",
        "modelplane alert list 'environment=\"production\"'",
    ],
)
def list_(
    session: Session,
    *,
    matchers: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MATCHER]...", help='Only those with: severity="page".'),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", "-a", help="Those that are over, too.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """List the alerts that are pending or firing, and since when."""
    wanted = [_matcher(text) for text in matchers or ()]
    items = [
        item
        for item in session.client.list(Alert).items
        if (everything or item.status.phase != "Resolved")
        and all(matcher.matches(item.spec.labels) for matcher in wanted)
    ]
    items.sort(key=lambda item: (_ORDER[item.status.phase], item.metadata.name))
    documents = [item.to_dict() for item in items]
    if output is Format.JSON:
        print_json({"apiVersion": API_VERSION, "kind": "AlertList", "items": documents})
    elif output is Format.YAML:
        print_yaml(documents)
    elif output is Format.NAME:
        for item in items:
            typer.echo(f"alert/{item.metadata.name}")
    elif items:
        # The age of the resource says nothing here: an alert is the same one each time.
        rows = [row[:-1] for row in rows_of(items, session.now())]
        print_table(headers_of(Alert)[:-1], rows)
    else:
        remark("nothing is wrong" if not (wanted or everything) else "there are no such alerts")


@command(alert, "show", examples=["modelplane alert show ReplicaDown", "modelplane alert show Re"])
def show(session: Session, *, name: Name, output: PlainOutput = Plain.TEXT) -> None:
    """Show one alert: its labels, since when, who was told, and what was done."""
    found, now = _find(session, name), session.now()
    if output is Plain.JSON:
        print_json(found.to_dict())
        return
    spec, status = found.spec, found.status
    since = since_of(found)
    typer.echo(f"{found.metadata.name}")
    lines = [
        ("Phase", f"{phase_of(found)}{f' for {words.age(since, now)}' if since else ''}"),
        ("Episode", str(status.episode)),
        ("From", f"{spec.source}{f', rules {spec.rules}' if spec.rules else ''}"),
        ("Labels", words.labels(spec.labels)),
        ("Value", f"{status.value:g}" if status.value is not None else ""),
        ("People", _told(found)),
        ("Silenced by", status.silenced_by),
        ("Playbook run", status.run),
        ("Done", status.closing),
        *((name.capitalize(), text) for name, text in status.annotations.items()),
    ]
    for label, text in lines:
        if text:
            typer.echo(f"  {label:<13} {text}")
    if status.history:
        typer.echo("  History")
        for change in status.history[-10:]:
            said = f"  {change.message}" if change.message else ""
            typer.echo(f"    {moment(change.at):<20} {change.phase}{said}")


@command(
    alert,
    "history",
    examples=["modelplane alert history", "modelplane alert history ReplicaDown -o json"],
)
def history(
    session: Session,
    *,
    name: Annotated[str | None, typer.Argument(metavar="[ALERT]", help="Only this one's.")] = None,
    output: PlainOutput = Plain.TEXT,
) -> None:
    """List what alerts did, the newest last."""
    alerts = [_find(session, name)] if name else session.client.list(Alert).items
    changes = sorted(
        ((change, one) for one in alerts for change in one.status.history),
        key=lambda pair: (pair[0].at, pair[1].metadata.name),
    )[-_MOST_CHANGES:]
    if output is Plain.JSON:
        print_json([{"alert": one.metadata.name, **change.to_dict()} for change, one in changes])
        return
    rows = [
        [moment(change.at), one.metadata.name, change.phase, change.message]
        for change, one in changes
    ]
    if rows:
        print_table(["AT", "ALERT", "PHASE", "MESSAGE"], rows)
    else:
        remark("nothing has happened")


@command(
    alert,
    "silence",
    examples=[
        "modelplane alert silence 'alertname=\"ReplicaDown\"' --for 2h --comment 'new disks'",
        "modelplane alert silence 'deployment=\"fraud\"' 'severity!=\"critical\"' --comment test",
    ],
)
def silence(
    session: Session,
    *,
    matchers: Annotated[
        list[str], typer.Argument(metavar="MATCHER...", help='All must hold: severity="page".')
    ],
    comment: Annotated[str, typer.Option("--comment", "-c", help="Why.")],
    length: Annotated[str, typer.Option("--for", metavar="TIME", help="How long.")] = "1h",
    name: Annotated[
        str | None, typer.Option("--name", help="What it is called; default by the time.")
    ] = None,
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """Keep people and playbooks from being told of some alerts for a while."""
    now = session.now()
    made = _make_silence(matchers, comment, now, now + timedelta(seconds=_seconds(length)), name)
    done = session.client.apply(made, reason=reason)
    if output is Plain.JSON:
        print_json(done.resource.to_dict())
    else:
        typer.echo(f"silence/{made.metadata.name} until {moment(made.spec.ends_at)}")


@command(alert, "unsilence", examples=["modelplane alert unsilence silence-20260105-090000"])
def unsilence(
    session: Session,
    *,
    name: Annotated[str, typer.Argument(metavar="SILENCE", help="Its name.")],
    reason: Reason = "",
    output: PlainOutput = Plain.TEXT,
) -> None:
    """End a silence now; it stays to be looked at."""
    found, now = session.client.get(Silence, name), session.now()
    if found.spec.ends_at > now:
        # A second ago: who applies it may have a clock that is a little behind.
        ended = found.with_spec(starts_at=None, ends_at=now - timedelta(seconds=1))
        found = _silence_of(session.client.apply(ended, reason=reason).resource)
        said = f"silence/{name} ended"
    else:
        said = f"silence/{name} was over already"
    if output is Plain.JSON:
        print_json(found.to_dict())
    else:
        typer.echo(said)


def _silence_of(resource: object) -> Silence:
    assert isinstance(resource, Silence)
    return resource


def _find(session: Session, name: str) -> Alert:
    """Return the alert that is called so, or the only one whose name begins so."""
    try:
        return session.client.get(Alert, name)
    except NotFound:
        items = session.client.list(Alert).items
        near = [item for item in items if item.metadata.name.startswith(name)]
        if len(near) == 1:
            return near[0]
        if not near:
            raise
        names = ", ".join(item.metadata.name for item in near[:5])
        raise InvalidResource(f"{len(near)} alerts begin with {name!r}: {names}") from None


def _told(found: Alert) -> str:
    status = found.status
    if not status.notified or status.notified_episode != status.episode:
        return "were not told of this episode"
    words_of = {
        "firing": "were told that it fires",
        "flapping": "were told that it comes and goes; not again until it rests",
        "resolved": "were told that it is over",
    }
    return words_of[status.notified]


def _make_silence(
    matchers: list[str], comment: str, now: datetime, ends_at: datetime, name: str | None
) -> Silence:
    try:
        return Silence(
            metadata=Metadata(name=name or f"silence-{now:%Y%m%d-%H%M%S}"),
            spec=SilenceSpec(
                matchers=tuple(_matcher(text) for text in matchers),
                starts_at=None,
                ends_at=ends_at,
                comment=comment,
            ),
        )
    except ValidationError as error:
        raise InvalidResource(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


def _matcher(text: str) -> Matcher:
    try:
        return Matcher.model_validate(text)
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InvalidResource(said, hint="quote it for the shell: 'severity=\"page\"'") from None


def _seconds(text: str) -> float:
    try:
        return max(1.0, parse_duration(text))
    except ValueError as error:
        raise InvalidResource(f"--for: {error}") from None
