"""Role x verb x kind: the whole table of who may do what."""

from __future__ import annotations

from typing import get_args

import pytest

from modelplane.decisions.authorization import Allowed, Refused, Verb, authorize
from modelplane.resources.kinds import KINDS
from modelplane.resources.meta import Subject

VERBS: tuple[Verb, ...] = get_args(Verb)
THINGS = (*KINDS, "Artifact", "Audit", "Telemetry", "Metrics")
READS = {"get", "list", "watch", "download"}
REPORTS = {("status", "Replica"), ("status", "TrafficSplit"), ("status", "Job")}

ADMIN = Subject(name="admin", groups=("admin",))
AGENT = Subject(name="system:agent", groups=("system:agents",))
READER = Subject(name="ann", groups=("analysts",))
NOBODY = Subject(name="admin", groups=())


def expected(subject: Subject, verb: Verb, kind: str) -> bool:
    if subject is ADMIN or verb in READS:
        return True
    return subject is AGENT and ((verb, kind) in REPORTS or (verb, kind) == ("report", "Telemetry"))


@pytest.mark.parametrize("subject", [ADMIN, AGENT, READER, NOBODY], ids=lambda s: s.groups)
@pytest.mark.parametrize("verb", VERBS)
def test_role_verb_kind(subject: Subject, verb: Verb) -> None:
    for kind in THINGS:
        for environment in (None, "staging", "production"):
            decision = authorize(subject, verb, kind, environment)
            allowed = isinstance(decision, Allowed)
            assert allowed == expected(subject, verb, kind), (verb, kind)


def test_a_refusal_says_who_what_where_and_what_it_takes() -> None:
    decision = authorize(READER, "apply", "ModelDeployment", "production")
    assert isinstance(decision, Refused)
    assert decision.rule == "default-deny"
    for word in ("ann", "apply", "ModelDeployment", "production", "admin"):
        assert word in decision.message
