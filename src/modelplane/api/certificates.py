"""Certificates for the proxies of agents, and the authority that signs them.

``POST /certificates``, ``GET /authorities`` and what to trust, ``POST /authorities:rotate``. Only
agents are certified, and only as what runs in an environment that exists: the identity follows
from that and is never read from the request. Keys never come here.
"""

from __future__ import annotations

import asyncio

from fastapi import Request
from starlette.responses import Response

from modelplane.api.access import Context, context_of
from modelplane.api.answers import json_response
from modelplane.api.bodies import parse_part, take_fields
from modelplane.api.deployments import load_environment
from modelplane.api.routes import Routes
from modelplane.decisions.roles import AGENT_GROUP
from modelplane.errors import Forbidden, NotFound
from modelplane.ports.identity import CertificateAuthority
from modelplane.ports.store import Transaction
from modelplane.resources.certificates import CertificateRequest


def add_certificate_routes(routes: Routes) -> None:
    """Add the routes of certificates."""

    async def issue(request: Request) -> Response:
        """Certify a new key of an agent's proxy (body: workload, request)."""
        context = context_of(request)
        subject = await context.admit(request, "act", "Certificate")
        if AGENT_GROUP not in subject.groups:
            raise Forbidden(
                "only agents are certified", hint="they ask by themselves, with their own token"
            )
        asked = parse_part(CertificateRequest, await context.read_object(request))
        workload = asked.workload
        await load_environment(context.store, workload.environment, path="workload.environment")
        issued = await asyncio.to_thread(_authority(context).issue, asked)
        transaction = Transaction(subject)
        transaction.note("certify", identity=issued.identity, until=issued.not_after.isoformat())
        await context.store.commit(transaction)
        return json_response(issued.to_dict(), 201)

    async def trust(request: Request) -> Response:
        """Return whom to trust: the authorities whose certificates may still be in use."""
        context = context_of(request)
        await context.admit(request, "get", "Certificate")
        bundle = await asyncio.to_thread(_authority(context).trust)
        if bundle is None:
            raise NotFound("no certificate was ever asked for")
        return json_response(bundle.to_dict())

    async def status(request: Request) -> Response:
        """Return how the authorities stand: which signs, which joins, which leaves and when."""
        context = context_of(request)
        await context.admit(request, "get", "Certificate")
        return json_response((await asyncio.to_thread(_authority(context).status)).to_dict())

    async def rotate(request: Request) -> Response:
        """Begin to hand over to a new authority; 409 while another handover is under way."""
        context = context_of(request)
        subject = await context.admit(request, "apply", "Certificate")
        reason = take_fields(await context.read_object(request), reason=str).get("reason", "")
        standing = await asyncio.to_thread(_authority(context).rotate)
        transaction = Transaction(subject, reason)
        newest = standing.authorities[-1]
        transaction.note("rotate", authority=newest.number, fingerprint=newest.fingerprint)
        await context.store.commit(transaction)
        return json_response(standing.to_dict())

    routes.add("POST", "/certificates", issue, tag="Certificate", operation_id="certify")
    routes.add("GET", "/authorities", status, tag="Certificate", operation_id="listAuthorities")
    routes.add("GET", "/authorities:trust", trust, tag="Certificate", operation_id="getTrust")
    routes.add(
        "POST", "/authorities:rotate", rotate, tag="Certificate", operation_id="rotateAuthority"
    )


def _authority(context: Context) -> CertificateAuthority:
    authority = context.dependencies.authority
    if authority is None:
        raise NotFound("this control plane certifies nobody")
    return authority
