"""Plans with rules, drawn at random."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from modelplane.decisions.routing import (
    TOTAL_WEIGHT,
    Endpoint,
    Mirror,
    RoutePlan,
    Rule,
    Segment,
    Variant,
)
from modelplane.decisions.traffic import rule_name
from modelplane.resources.limits import Limits
from modelplane.resources.strategy import Slice

PREDICATES = (
    "user.region == 'west'",
    "user.plan == 'pro' || user.region != 'east'",
    "input.amount > 200.0",
    "input.amount <= 10.0 && user.region in ['west', 'south']",
    "request.headers['x-tier'].startsWith('g')",
    "!(request.path.endsWith('/infer'))",
)
INPUTS: dict[str, Any] = {"amount": "number"}

_texts = st.text("ab1-_.", min_size=1, max_size=6)


@st.composite
def ruled_plans(draw: st.DrawFn, deployment: str = "d") -> RoutePlan:
    """Draw a plan: versions, rules over predicates and one for everybody, shadows, settings."""
    variants = [_variant(deployment, 0, "stable")]
    variants += [
        _variant(deployment, number, draw(st.sampled_from(["candidate", "candidate", "shadow"])))
        for number in range(1, draw(st.integers(1, 5)))
    ]
    clusters = [v.cluster for v in variants if v.role != "shadow"]
    shadows = [v.cluster for v in variants if v.role == "shadow"]
    predicates = draw(st.lists(st.sampled_from(PREDICATES), unique=True, max_size=3))
    rules = tuple(
        Rule(
            rule_name(predicate),
            predicate,
            draw(_texts),
            _segments(draw, clusters),
            tuple(Mirror(c, draw(st.integers(1, TOTAL_WEIGHT))) for c in shadows),
        )
        for predicate in (*predicates, "")
    )
    return RoutePlan(
        deployment,
        1,
        tuple(variants),
        rules=rules,
        input_types=draw(st.sampled_from([{}, INPUTS])),
        sticky_cookie=draw(st.sampled_from(["", "uid"])),
        slices=draw(st.sampled_from([(), (Slice(by="user.region", values=("west", "ö")),)])),
        allow_override=draw(st.booleans()),
        shield=draw(st.booleans()),
        limits=draw(st.sampled_from([Limits(), Limits.model_validate({"maxBody": "1MiB"})])),
    )


def _variant(deployment: str, number: int, role: Any) -> Variant:
    replica = Endpoint(f"r{number}", f"unix:/tmp/{deployment}-{number}")
    return Variant(f"{deployment}.{number}", f"1.{number}.0", role, 0, (replica,))


def _segments(draw: st.DrawFn, clusters: Sequence[str]) -> tuple[Segment, ...]:
    """Draw ranges, of which one cluster may have several."""
    cuts = draw(st.lists(st.integers(1, TOTAL_WEIGHT - 1), unique=True, max_size=6))
    bounds = [0, *sorted(cuts), TOTAL_WEIGHT]
    return tuple(
        Segment(draw(st.sampled_from(clusters)), end - start)
        for start, end in itertools.pairwise(bounds)
    )


def sample(strategy: st.SearchStrategy[RoutePlan], count: int) -> list[RoutePlan]:
    """Return the same `count` examples each time."""
    found: list[RoutePlan] = []

    @settings(max_examples=count, database=None, derandomize=True, phases=[Phase.generate])
    @given(strategy)
    def collect(plan: RoutePlan) -> None:
        found.append(plan)

    collect()
    return found
