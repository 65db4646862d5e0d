"""Ports: what the inside needs from the outside, as Protocols.

Decisions, controllers and the agent know these and never an adapter; `wiring` brings the two
together. Each port has one contract suite under tests/contracts that every implementation
passes, the fakes in `modelplane.testing` included.
"""
