"""The evidence of a promotion: one bundle that anybody can check without the server. Pure.

Built by `controllers.evidence` when a promotion is over, checked by `client.evidence`. A bundle
holds the resources a promotion rests on as the exact texts that were stored, and the audit
records that carry the digests of those texts, linked up to a signed head. Whoever alters a text
has to alter its record, then every later record, then the head, and lacks the key for that.

Signatures are the caller's to make and to check.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, ValidationError

from modelplane.decisions.audit_chain import AuditRecord, SignedHead, hash_record
from modelplane.errors import InvalidResource
from modelplane.resources.meta import Part, Resource, ResourceKey

FORMAT: Literal["modelplane.dev/evidence/v1"] = "modelplane.dev/evidence/v1"
SIGNED_PREFIX = b"modelplane evidence v1\n"
"""Stands before what is signed, so that no signature over something else fits."""

MAX_SEGMENT = 20_000
"""Longest unbroken piece of the audit log in a bundle; beyond it only the records concerned."""

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class Document(Part):
    """One resource as it was stored: the very texts whose digests the audit log holds."""

    kind: str
    environment: str | None = None
    name: str
    uid: str
    resource_version: int
    spec: str
    status: str

    @property
    def key(self) -> ResourceKey:
        """What names it."""
        return ResourceKey(self.kind, self.environment, self.name)


class Bundle(Part):
    """Everything that shows how a revision came to an environment, or why it did not.

    Attributes
    ----------
    segment
        ``whole``: the records follow each other without a gap up to `head`, but for `outlying`
        ones before them. ``records``: the log between them was too long to be taken in.
    """

    format: Literal["modelplane.dev/evidence/v1"] = FORMAT
    promotion: str = Field(description="`ENVIRONMENT/NAME`.")
    made_at: datetime
    documents: tuple[Document, ...]
    segment: Literal["whole", "records"] = "whole"
    outlying: tuple[AuditRecord, ...] = Field(
        default=(), description="Records from before the promotion was asked for."
    )
    records: tuple[AuditRecord, ...] = ()
    head: SignedHead
    public_key: str = Field(default="", description="PEM; what verifies both signatures.")
    signature: str = Field(default="", description="Ed25519 over `signed_text`, hex.")


class Check(Part):
    """One thing that was checked: whether it holds, and what was found."""

    name: str
    passed: bool
    message: str


def document_of(resource: Resource[Any, Any]) -> Document:
    """Return `resource` as a bundle holds it."""
    metadata = resource.metadata
    return Document(
        kind=resource.kind,
        environment=metadata.environment,
        name=metadata.name,
        uid=metadata.uid,
        resource_version=metadata.resource_version,
        spec=resource.spec.model_dump_json(by_alias=True),
        status=resource.status.model_dump_json(by_alias=True),
    )


def signed_text(bundle: Bundle) -> bytes:
    """Return what the signature of `bundle` covers: all of it but the signature and its key."""
    fields = bundle.to_dict()
    fields.pop("signature", None)
    fields.pop("publicKey", None)
    return SIGNED_PREFIX + _CANONICAL.encode(fields).encode()


def make_bundle(
    promotion: ResourceKey,
    resources: Sequence[Resource[Any, Any]],
    own: Sequence[AuditRecord],
    between: Sequence[AuditRecord] | None,
    head: SignedHead,
    *,
    now: datetime,
) -> Bundle:
    """Put a bundle together.

    Parameters
    ----------
    promotion
        Which one; its resource is among `resources`.
    resources
        Everything it rests on, as stored.
    own
        The audit records of all of these.
    between
        The log from the first record of the promotion to `head`, without a gap; None when that
        is longer than `MAX_SEGMENT`.
    head
        The newest signed link.
    now
        The time, UTC.
    """
    documents = tuple(document_of(resource) for resource in resources)
    inside = {record.sequence for record in between or ()}
    others = sorted(
        (record for record in own if record.sequence not in inside), key=lambda r: r.sequence
    )
    return Bundle(
        promotion=f"{promotion.environment}/{promotion.name}",
        made_at=now,
        documents=documents,
        segment="records" if between is None else "whole",
        outlying=() if between is None else tuple(others),
        records=tuple(others) if between is None else tuple(between),
        head=head,
    )


def read_bundle(data: object) -> Bundle:
    """Return the bundle in plain data.

    Raises
    ------
    InvalidResource
        It is none, or of a format that this release does not know.
    """
    found = data.get("format") if isinstance(data, Mapping) else None
    if found != FORMAT:
        raise InvalidResource(
            f"this is no evidence of format {FORMAT}"
            + (f", but {str(found)[:80]!r}" if found is not None else ""),
            hint="make one with: modelplane evidence export PROMOTION -e ENVIRONMENT",
        )
    try:
        return Bundle.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InvalidResource(f"the evidence is damaged at {place}: {first['msg']}") from None


def check_chain(bundle: Bundle) -> list[Check]:
    """Check the records: each one's hash, their links, and that they end at the signed head."""
    checks = []
    records = [*bundle.outlying, *bundle.records]
    altered = [r.sequence for r in records if hash_record(r) != r.hash]
    checks.append(
        Check(
            name="records",
            passed=not altered,
            message=f"record {altered[0]} does not match its hash"
            if altered
            else f"{len(records)} audit records match their hashes",
        )
    )
    if bundle.segment == "records":
        message = (
            "the log between the records was too long to be included: they are vouched for by "
            "the signature; compare their hashes with modelplane audit export"
        )
        return [*checks, Check(name="chain", passed=True, message=message)]
    return [*checks, _check_links(bundle)]


def _check_links(bundle: Bundle) -> Check:
    records, head = bundle.records, bundle.head
    if not records:
        return Check(name="chain", passed=False, message="there are no records")
    for before, after in pairwise(records):
        if after.sequence != before.sequence + 1 or after.previous_hash != before.hash:
            return Check(
                name="chain",
                passed=False,
                message=f"record {after.sequence} is not the link after {before.sequence}",
            )
    last = records[-1]
    if (last.sequence, last.hash) != (head.sequence, head.hash):
        return Check(
            name="chain",
            passed=False,
            message=f"the records end with {last.sequence}, the signed head is {head.sequence}",
        )
    return Check(
        name="chain",
        passed=True,
        message=f"records {records[0].sequence} to {last.sequence} are linked without a gap, up to "
        "the signed head",
    )


def check_documents(bundle: Bundle) -> list[Check]:
    """Check that each document is what its audit record says was stored."""
    by_change = {(r.kind, r.resource_version): r for r in (*bundle.outlying, *bundle.records)}
    untied, altered = [], []
    for document in bundle.documents:
        record = by_change.get((document.kind, document.resource_version))
        if record is None or record.uid != document.uid:
            untied.append(str(document.key))
        elif not _is_digest(document.spec, record.details.get("spec")) or not _is_digest(
            document.status, record.details.get("status")
        ):
            altered.append(str(document.key))
    if altered:
        message = f"{altered[0]} is not what the audit log says was stored"
    elif untied:
        message = f"no audit record tells of {untied[0]}"
    else:
        message = f"{len(bundle.documents)} documents are what the audit log says was stored"
    return [Check(name="documents", passed=not (altered or untied), message=message)]


def digest_text(text: str) -> str:
    """Return the SHA-256 of a text, hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def _is_digest(text: str, digest: object) -> bool:
    """Whether `digest` begins the digest of `text`; releases before this wrote 16 digits."""
    return isinstance(digest, str) and len(digest) >= 16 and digest_text(text).startswith(digest)
