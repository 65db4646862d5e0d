"""The client for scripts and people: the CLI, and ``from modelplane import Client``.

Holds no rules: requests come from `calls`, answers go through `answers`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from modelplane.client import calls
from modelplane.client.answers import (
    Applied,
    EventReader,
    Listing,
    Prediction,
    read_applied,
    read_object,
    read_prediction,
    read_resource,
)
from modelplane.client.calls import Call
from modelplane.client.connection import Connection
from modelplane.client.endpoint import find_endpoint
from modelplane.client.history import correction_call, fetch_moves, history_call, read_named
from modelplane.client.lineage import lineage_call, read_lineage
from modelplane.client.listing import Pages
from modelplane.client.pushing import (
    VersionRecord,
    command_tree,
    describe_dataset_push,
    describe_push,
)
from modelplane.client.reproduction import (
    answer_dataset_push,
    guarded_transport,
    record_push,
    recording_folder,
)
from modelplane.client.routed import is_routed
from modelplane.client.transport import (
    STREAM_TIMEOUT,
    gateway_url,
    predict_request,
)
from modelplane.decisions.history import Named
from modelplane.decisions.lineage import MAX_DEPTH, Direction, Lineage
from modelplane.errors import NotFound, TerminalError, TransientError
from modelplane.ports.store import AuditRecord, Change
from modelplane.resources.dataset import DatasetVersion
from modelplane.resources.environment import Environment
from modelplane.resources.meta import DEFAULT_ENVIRONMENT, Resource
from modelplane.resources.model import AliasMove, ModelVersion
from modelplane.resources.model_deployment import ModelDeployment
from modelplane.resources.promotion import FINISHED_PROMOTION, Promotion
from modelplane.resources.rollout import Rollout
from modelplane.resources.token import Token

R = TypeVar("R", bound=Resource[Any, Any])

_POLL_S = 0.25


class Client:
    """Speaks to the API; use it as a context manager, or `close` it.

    Parameters
    ----------
    url, token, state
        Where the API is and what opens it; see `endpoint.find_endpoint`.
    timeout_s
        How long one request may take to connect, and to go on after each pause.
    transport
        Replaces the network, in tests.

    Examples
    --------
    >>> with Client() as client:  # doctest: +SKIP
    ...     client.push("fraud", version="1.2.0", artifact="model.skops", metrics={"auc": 0.93})
    ...     client.promote("fraud", "1.2.0", to="staging")
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        state: str | Path | None = None,
        timeout_s: float = 10.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.endpoint = find_endpoint(url, token, state)
        self._connection = Connection(self.endpoint, timeout_s, transport or guarded_transport())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    # -- resources ------------------------------------------------------------------------

    def get(self, kind: type[R], name: str, environment: str | None = None) -> R:
        """Return one resource; raises `NotFound`."""
        return read_resource(kind, self._connection.send(calls.get(kind, name, environment)))

    def find(self, kind: type[R], name: str, environment: str | None = None) -> R | None:
        """Return one resource, or None."""
        try:
            return self.get(kind, name, environment)
        except NotFound:
            return None

    def list(
        self,
        kind: type[R],
        environment: str | None = None,
        *,
        labels: Mapping[str, str] | None = None,
        filter_string: str = "",
        order_by: str = "",
        limit: int | None = None,
    ) -> Listing[R]:
        """Return a kind's resources, of all environments when none is named.

        The registry's kinds take a filter and an order in the language of MLflow's search:
        ``metrics.auc > 0.9 and tags.team = 'risk'`` and ``metrics.auc DESC, name``.
        """
        call = calls.list_(kind, environment, labels, filter_string, order_by)
        pages = Pages(kind, call, limit)
        while pages.next is not None:
            pages.take(self._connection.send(pages.next))
        return pages.listing

    def apply(self, resource: R, *, dry_run: bool = False, reason: str = "") -> Applied[R]:
        """Declare what `resource` should be; its status is not sent."""
        body = self._connection.send(calls.apply(resource, dry_run=dry_run, reason=reason))
        return read_applied(type(resource), body)

    def delete(
        self, kind: type[R], name: str, environment: str | None = None, *, reason: str = ""
    ) -> R:
        """Delete one resource and return it as it was; raises `NotFound`, `Conflict`."""
        return read_resource(
            kind, self._connection.send(calls.delete(kind, name, environment, reason))
        )

    def put_status(self, resource: R, *, if_unchanged: bool = False) -> R:
        """Report the status of this very resource; for agents."""
        call = calls.put_status(resource, if_unchanged=if_unchanged)
        return read_resource(type(resource), self._connection.send(call))

    def act(
        self,
        kind: type[Resource[Any, Any]],
        name: str,
        verb: str,
        environment: str | None = None,
        **body: Any,
    ) -> dict[str, Any]:
        """Do `verb` to a resource and return the answer as plain data."""
        return read_object(self._connection.send(calls.act(kind, name, verb, environment, body)))

    def send(self, call: Call, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Send any call and return the answer as plain data.

        `timeout_s` is for answers that take long; left out, the client's own.
        """
        timeout = None if timeout_s is None else httpx.Timeout(10.0, read=timeout_s)
        return read_object(self._connection.send(call, timeout))

    def watch(self, kind: type[R], since: int, environment: str | None = None) -> Iterator[Change]:
        """Yield the changes of a kind after resource version `since`, until something ends it.

        Raises
        ------
        Conflict
            With code ``expired``: list again, and watch from there.
        TransientError
            The connection was lost, or the server stops: watch again from the last version seen.
        """
        call = calls.watch(kind, since, environment)
        events = EventReader(kind, since)
        with self._connection.stream(call, STREAM_TIMEOUT) as response:
            for line in response.iter_lines():
                change = events.read(line)
                if change is not None:
                    yield change
        raise TransientError("the watch was ended by the server")

    # -- versions -------------------------------------------------------------------------

    def push(
        self,
        name: str,
        version: str,
        artifact: str | Path | None = None,
        **record: Unpack[VersionRecord],
    ) -> Applied[ModelVersion]:
        """Push one version of a model: its bytes and what made it.

        Parameters
        ----------
        name, version
            The model, and a semantic version of it.
        artifact
            A file or folder; may be left out when a command needs none.
        **record
            What else is known of it: the fields of `pushing.VersionRecord`.

        Returns
        -------
        Applied
            ``created``; or ``unchanged`` when these bytes are there under this version already.

        Raises
        ------
        InvalidResource
            Something is missing or not valid; nothing was registered.
        Conflict
            The version exists with other bytes.
        """
        with command_tree(record.get("command", ())) as only_command:
            path = Path(artifact) if artifact is not None else only_command
            body = describe_push(name, version, path, record)
            recording = recording_folder()
            if recording is not None:
                return record_push(recording, path, body)
            self._connection.upload(path, body["artifact"]["digest"])
        call = Call("POST", f"{calls.PREFIX}/model-versions", body=body)
        return read_applied(ModelVersion, self._connection.send(call))

    def push_dataset(
        self, name: str, data: Any, *, version: str | None = None, description: str = ""
    ) -> Applied[DatasetVersion]:
        """Register a version of a dataset; the data stays where it is.

        `data` is a path, a data frame or a reference: see `datasets.describe_data`. `version` is
        what to call it; left out, what the data's tool calls it, or the next number. The answer
        is ``unchanged`` when this very data is registered already.
        """
        body = describe_dataset_push(name, data, version, description)
        if recording_folder() is not None:
            return answer_dataset_push(body)
        call = Call("POST", f"{calls.PREFIX}/dataset-versions", body=body)
        return read_applied(DatasetVersion, self._connection.send(call))

    def download_artifact(self, digest: str, destination: Path) -> None:
        """Download an artifact as the folder `destination`, whole and verified or not at all.

        Raises
        ------
        NotFound
            Nothing is stored under `digest`.
        TerminalError
            The bytes do not have the digest: they were altered.
        """
        self._connection.download(digest, destination)

    def tag_version(self, name: str, tags: Mapping[str, str | None]) -> ModelVersion:
        """Set tags of ``MODEL@VERSION``; None removes one."""
        answer = self.act(ModelVersion, name, "tag", tags=dict(tags))
        return ModelVersion.model_validate(answer["resource"])

    def set_alias(
        self, name: str, alias: str, *, remove: bool = False, reason: str = ""
    ) -> ModelVersion:
        """Make `alias` name ``MODEL@VERSION`` and no other version of the model, or remove it."""
        answer = self.act(ModelVersion, name, "alias", alias=alias, remove=remove, reason=reason)
        return ModelVersion.model_validate(answer["resource"])

    def describe_version(self, name: str, description: str) -> ModelVersion:
        """Replace the description of ``MODEL@VERSION``."""
        answer = self.act(ModelVersion, name, "describe", description=description)
        return ModelVersion.model_validate(answer["resource"])

    def correct_version(self, name: str, field: str, value: Any, *, reason: str) -> ModelVersion:
        """Say what `field` of ``MODEL@VERSION`` should have been; the record itself stays."""
        body = self._connection.send(correction_call(name, field, value, reason))
        return read_applied(ModelVersion, body).resource

    def history(self, model: str, *, limit: int = 500, **only: str | None) -> tuple[AliasMove, ...]:
        """Return the newest moves of a model's aliases, champions and challengers, newest first.

        `environment` and `alias` leave out those of others.
        """
        return tuple(fetch_moves(self._connection.send, model, limit, only))

    def history_at(self, model: str, at: datetime, **only: str | None) -> tuple[Named, ...]:
        """Return what aliases, champions and challengers were at a moment, who did it and why.

        `at` without a time zone is local; `environment` and `alias` leave out others.
        """
        return read_named(self._connection.send(history_call(model, only, at=at)))

    # -- lineage --------------------------------------------------------------------------

    def lineage(self, of: str, *, direction: Direction = "both", depth: int = MAX_DEPTH) -> Lineage:
        """Return what `of` came from (up) and what depends on it (down), as nodes and edges.

        `of` is ``MODEL``, ``MODEL@VERSION``, ``dataset/NAME@VERSION``, ``ENVIRONMENT/DEPLOYMENT``
        or ``run/ID``; raises `NotFound`.
        """
        return read_lineage(self._connection.send(lineage_call(of, direction, depth)))

    # -- deployments ----------------------------------------------------------------------

    def promote(
        self,
        deployment: str,
        version: str | None = None,
        *,
        to: str = DEFAULT_ENVIRONMENT,
        reason: str = "",
    ) -> Applied[ModelDeployment]:
        """Ask that environment `to` run `version` (left out: what serves before it)."""
        call = calls.act(
            ModelDeployment, deployment, "promote", None,
            {"version": version, "to": to, "reason": reason},
        )  # fmt: skip
        return read_applied(ModelDeployment, self._connection.send(call))

    def undo(
        self, deployment: str, environment: str = DEFAULT_ENVIRONMENT, *, reason: str = ""
    ) -> Applied[ModelDeployment]:
        """Go back to the revision that was stable before the last finished rollout."""
        call = calls.act(ModelDeployment, deployment, "undo", environment, {"reason": reason})
        return read_applied(ModelDeployment, self._connection.send(call))

    def pause(
        self, deployment: str, environment: str = DEFAULT_ENVIRONMENT, *, reason: str = ""
    ) -> Applied[Rollout]:
        """Keep the running rollout's weight as it is."""
        return self._ask_of_rollout(deployment, "pause", environment, reason)

    def resume(
        self, deployment: str, environment: str = DEFAULT_ENVIRONMENT, *, reason: str = ""
    ) -> Applied[Rollout]:
        """Let a paused rollout go on."""
        return self._ask_of_rollout(deployment, "resume", environment, reason)

    def promote_rollout(
        self, deployment: str, environment: str = DEFAULT_ENVIRONMENT, *, reason: str = ""
    ) -> Applied[Rollout]:
        """Finish the running rollout now, without more evidence."""
        return self._ask_of_rollout(deployment, "promote-rollout", environment, reason)

    def rollback(
        self, deployment: str, environment: str = DEFAULT_ENVIRONMENT, *, reason: str = ""
    ) -> Applied[Rollout]:
        """Take the running rollout back."""
        return self._ask_of_rollout(deployment, "rollback", environment, reason)

    def _ask_of_rollout(
        self, deployment: str, verb: str, environment: str, reason: str
    ) -> Applied[Rollout]:
        call = calls.act(ModelDeployment, deployment, verb, environment, {"reason": reason})
        return read_applied(Rollout, self._connection.send(call))

    def wait_for_rollout(
        self,
        deployment: str,
        environment: str = DEFAULT_ENVIRONMENT,
        *,
        timeout_s: float = 600.0,
        on_change: Callable[[Rollout], None] | None = None,
    ) -> Rollout | None:
        """Wait until the deployment's latest promotion is over and in force; return its rollout.

        Parameters
        ----------
        deployment, environment
            What to wait for.
        timeout_s
            How long at the most.
        on_change
            Called with the rollout each time it has changed.

        Returns
        -------
        Rollout or None
            Finished, in whatever phase; None when the promotion needed no rollout.

        Raises
        ------
        TerminalError
            The promotion ended without a rollout and without success.
        TransientError
            It took longer than `timeout_s`; it goes on.
        """
        until_s = time.monotonic() + timeout_s
        seen = 0
        while True:
            current = self.get(ModelDeployment, deployment, environment)
            if current.status.promotion is None:
                return None
            promotion = self.get(Promotion, current.status.promotion, environment)
            name = promotion.status.rollout
            rollout = self.find(Rollout, name, environment) if name else None
            if rollout is not None and rollout.metadata.resource_version != seen:
                seen = rollout.metadata.resource_version
                if on_change is not None:
                    on_change(rollout)
            if promotion.status.phase in FINISHED_PROMOTION and is_routed(self, promotion):
                if rollout is None and promotion.status.phase != "Done":
                    status = promotion.status
                    raise TerminalError(f"{name or deployment}: {status.phase}: {status.message}")
                return rollout
            if time.monotonic() > until_s:
                raise TransientError(f"{deployment} is still rolling out after {timeout_s:g} s")
            time.sleep(_POLL_S)

    def traffic(
        self, deployment: str, environment: str = DEFAULT_ENVIRONMENT, *, seconds: int = 60
    ) -> dict[str, Any]:
        """Return what each live version answered in the last `seconds`.

        `metrics` of a version holds what its model servers said of themselves, by replica.
        """
        path = calls.resource_path(ModelDeployment, deployment, ":traffic")
        query: dict[str, str | int] = {"environment": environment, "seconds": seconds}
        return read_object(self._connection.send(Call("GET", path, query)))

    def predict(
        self,
        deployment: str,
        request: Mapping[str, Any],
        *,
        environment: str = DEFAULT_ENVIRONMENT,
        user_id: str | None = None,
        gateway: str | None = None,
        timeout_s: float = 60.0,
    ) -> Prediction:
        """Send one Open Inference Protocol request through the environment's gateway."""
        if gateway is None:
            gateway = gateway_url(self.get(Environment, environment), self.endpoint)
        url = f"{gateway}/v2/models/{deployment}/infer"
        sent = predict_request(url, request, self.endpoint, user_id, timeout_s)
        answer = self._connection.send_request(sent, gateway)
        return read_prediction(answer.status_code, answer.headers, answer.content, url)

    # -- tokens and audit -----------------------------------------------------------------

    def create_token(
        self, name: str, groups: tuple[str, ...] = (), *, expires_in: str | None = None
    ) -> tuple[Token, str]:
        """Make a token; returns it and its secret, which is shown this once."""
        answer = self.act(Token, name, "create", groups=list(groups), expiresIn=expires_in)
        return Token.model_validate(answer["resource"]), str(answer["secret"])

    def revoke_token(self, name: str) -> None:
        """Make a token worthless; raises `NotFound`."""
        self.act(Token, name, "revoke")

    def audit(
        self,
        after: int = 0,
        limit: int = 100,
        *,
        last: int | None = None,
        kind: str | None = None,
        name: str | None = None,
        environment: str | None = None,
    ) -> tuple[AuditRecord, ...]:
        """Return audit records in order: the first `limit` with a sequence above `after`.

        With `last`, the newest that many instead (1 to 1,000).
        """
        call = calls.audit(after, limit, last=last, kind=kind, name=name, environment=environment)
        data = read_object(self._connection.send(call))
        return tuple(AuditRecord.model_validate(item) for item in data["items"])

    def verify_audit(self) -> dict[str, Any]:
        """Check the audit chain: ``{verified, records, faults: [{sequence, kind, message}]}``."""
        call = Call("GET", f"{calls.PREFIX}/audit:verify")
        return read_object(self._connection.send(call, httpx.Timeout(10.0, read=600.0)))

    def export_audit(self) -> Iterator[bytes]:
        """Yield the whole audit log as JSON lines in pieces; the last line is the signed head."""
        call = Call("GET", f"{calls.PREFIX}/audit:export")
        with self._connection.stream(call, STREAM_TIMEOUT) as response:
            yield from response.iter_bytes()
