"""The registry's part of the client: versions, data, aliases, history, lineage.

A part of `Client`; holds no rules.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Unpack

from modelplane.client import calls
from modelplane.client.answers import Applied, read_applied
from modelplane.client.calls import Call
from modelplane.client.history import correction_call, fetch_moves, history_call, read_named
from modelplane.client.lineage import lineage_call, read_lineage
from modelplane.client.pushing import (
    VersionRecord,
    command_tree,
    describe_dataset_push,
    describe_push,
    patience_s,
)
from modelplane.client.reproduction import answer_dataset_push, record_push, recording_folder
from modelplane.client.resources import ResourceClient
from modelplane.client.signing import Signed, is_available, sign_files
from modelplane.decisions.history import Named
from modelplane.decisions.lineage import MAX_DEPTH, Direction, Lineage
from modelplane.errors import TransientError
from modelplane.resources.dataset import DatasetVersion
from modelplane.resources.model import AliasMove, ModelVersion

_RETRY_S = 1.0


class RegistryClient(ResourceClient):
    """Registers versions and data, and asks what is known of them."""

    # -- versions -------------------------------------------------------------------------

    def push(
        self,
        name: str,
        version: str,
        artifact: str | Path | None = None,
        *,
        sign_key: str | Path | None = None,
        **record: Unpack[VersionRecord],
    ) -> Applied[ModelVersion]:
        """Push one version of a model: its bytes and what made it.

        In a training that a trigger began, a control plane that is away is waited for: nobody
        wants to lose a training to a restart.

        On a machine whose state directory has modelplane's own key the files are signed with
        it, where the extra ``signing`` is installed.

        Parameters
        ----------
        name, version
            The model, and a semantic version of it.
        artifact
            A file or folder; may be left out when a command needs none.
        sign_key
            Private key (PEM) to sign the files with instead of modelplane's own.
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
        until_s = time.monotonic() + patience_s()
        while True:
            try:
                return self._push(name, version, artifact, sign_key, record)
            except TransientError:
                if time.monotonic() >= until_s:
                    raise
            time.sleep(_RETRY_S)

    def _push(
        self,
        name: str,
        version: str,
        artifact: str | Path | None,
        sign_key: str | Path | None,
        record: VersionRecord,
    ) -> Applied[ModelVersion]:
        with command_tree(record.get("command", ())) as only_command:
            path = Path(artifact) if artifact is not None else only_command
            body = describe_push(name, version, path, record)
            recording = recording_folder()
            if recording is not None:
                return record_push(recording, path, body)
            signed = self._sign(path, sign_key)
            self._connection.upload(path, body["artifact"]["digest"])
        call = Call("POST", f"{calls.PREFIX}/model-versions", body=body)
        applied = read_applied(ModelVersion, self._connection.send(call))
        known = {signature.key_id for signature in applied.resource.status.signatures}
        if signed is None or signed.key_id in known:
            return applied
        return replace(applied, resource=self.add_signature(applied.resource.metadata.name, signed))

    def _sign(self, path: Path, key: str | Path | None) -> Signed | None:
        """Sign files that are pushed, with the key that was given or the one of the state."""
        if key is not None:
            return sign_files(path, Path(key))
        own = self.endpoint.signing_key
        return sign_files(path, own) if own is not None and is_available() else None

    def add_signature(self, name: str, signed: Signed) -> ModelVersion:
        """Register a signature over the files of ``MODEL@VERSION``; see `signing.sign_files`."""
        answer = self.act(ModelVersion, name, "sign", bundle=signed.bundle, keyId=signed.key_id)
        return ModelVersion.model_validate(answer["resource"])

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
