"""The gates' part of the client: pipelines, contracts, approvals, evidence, who may do what.

A part of `Client`; holds no rules.
"""

from __future__ import annotations

from modelplane.client.registering import RegistryClient


class GateClient(RegistryClient):
    """Runs pipelines, answers approvals, fetches evidence."""
