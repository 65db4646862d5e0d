"""Splits with several rollouts: rules by predicate, ranges that stay, mirrors, slices."""

from __future__ import annotations

from typing import Any

from modelplane.decisions.agent_routing import plan_route
from modelplane.decisions.routing import TOTAL_WEIGHT
from modelplane.decisions.traffic import decide_split, rule_name
from modelplane.resources.rollout import Rollout
from modelplane.resources.strategy import Strategy
from modelplane.resources.traffic_split import TrafficSplit, TrafficSplitSpec
from tests.decisions.worlds import V1, V2, V3, deployment, metadata, replica, revision, rollout

WEST = "user.region == 'west'"


def canary(predicate: str = "", **more: Any) -> Strategy:
    return Strategy.model_validate({"canary": {"predicate": predicate, **more}})


def live(version: Any, ordinal: int, weight_pct: float, strategy: Strategy) -> Rollout:
    made = rollout(weight_pct=weight_pct, candidate=version, ordinal=ordinal, lane=f"p{ordinal}/v")
    named = made.with_(metadata=metadata(f"delay-{ordinal}", uid=f"{ordinal}-uid-of-delay"))
    return named.with_status(strategy=strategy)


FLEET = (replica(V1), replica(V2), replica(V3))


def split_of(spec: TrafficSplitSpec | None) -> TrafficSplit:
    assert spec is not None
    split = TrafficSplit(metadata=metadata("delay"), spec=spec)
    plan_route(split)  # raises when no gateway could do it
    return split


def shares(spec: TrafficSplitSpec) -> dict[str, dict[str, int]]:
    names = {V1.digest: "v1", V2.digest: "v2", V3.digest: "v3"}
    found: dict[str, dict[str, int]] = {}
    for rule in spec.rules:
        held = found.setdefault(rule.name, {})
        for segment in rule.segments:
            name = names[segment.revision]
            held[name] = held.get(name, 0) + segment.width
    return found


def test_a_predicate_s_candidate_is_met_under_its_rule_only() -> None:
    west = live(V2, 2, 10, canary(WEST))
    everybody = live(V3, 3, 5, canary())
    spec = split_of(decide_split(deployment(), (west, everybody), FLEET, None)).spec
    assert shares(spec) == {
        rule_name(WEST): {"v2": 1000, "v3": 500, "v1": 8500},
        "default": {"v3": 500, "v1": 9500},
    }
    assert [rule.predicate for rule in spec.rules] == [WEST, ""]
    assert spec.steps == {"2-uid-of-delay": 1, "3-uid-of-delay": 1}


def test_two_candidates_under_one_predicate_share_its_rule() -> None:
    one, other = live(V2, 2, 10, canary(WEST)), live(V3, 3, 20, canary(WEST))
    spec = split_of(decide_split(deployment(), (one, other), FLEET, None)).spec
    assert shares(spec)[rule_name(WEST)] == {"v2": 1000, "v3": 2000, "v1": 7000}
    assert shares(spec)["default"] == {"v1": TOTAL_WEIGHT}


def test_users_stay_while_another_version_comes_grows_and_goes() -> None:
    alone = split_of(decide_split(deployment(), (live(V2, 2, 10, canary()),), FLEET, None))
    both = split_of(
        decide_split(
            deployment(), (live(V2, 2, 20, canary()), live(V3, 3, 30, canary())), FLEET, alone
        )
    )
    last = split_of(decide_split(deployment(), (live(V3, 3, 30, canary()),), FLEET, both))
    salts = {split.spec.rules[-1].salt for split in (alone, both, last)}
    assert len(salts) == 1, "another salt would move everybody"

    def places(split: TrafficSplit, digest: str) -> set[int]:
        line = [s.revision for s in split.spec.rules[-1].segments for _ in range(s.width)]
        return {place for place, revision in enumerate(line) if revision == digest}

    assert places(alone, V2.digest) < places(both, V2.digest)
    assert places(both, V3.digest) == places(last, V3.digest)


def test_a_later_rollout_has_other_users() -> None:
    first = split_of(decide_split(deployment(), (live(V2, 2, 10, canary()),), FLEET, None))
    quiet = split_of(decide_split(deployment(), (), FLEET, first))
    second = split_of(decide_split(deployment(), (live(V3, 3, 10, canary()),), FLEET, quiet))
    assert first.spec.rules[-1].salt != second.spec.rules[-1].salt


def test_more_than_all_is_never_given() -> None:
    greedy = (live(V2, 2, 80, canary()), live(V3, 3, 50, canary()))
    spec = split_of(decide_split(deployment(), greedy, FLEET, None)).spec
    left = {"v1": 100, "v2": 8000, "v3": 1900}
    assert shares(spec)["default"] == left, "without stable nothing could be judged"


def test_who_grows_takes_no_user_from_a_younger_version() -> None:
    before = (live(V2, 2, 10, canary()), live(V3, 3, 60, canary()))
    grown = (live(V2, 2, 90, canary()), live(V3, 3, 60, canary()))
    first = split_of(decide_split(deployment(), before, FLEET, None))
    second = split_of(decide_split(deployment(), grown, FLEET, first)).spec
    assert shares(second)["default"] == {"v1": 100, "v2": 3900, "v3": 6000}
    assert [variant.weight_pct for variant in second.variants] == [1, 39, 60]


def test_a_rule_that_is_new_leaves_users_on_the_versions_that_are_for_everybody() -> None:
    both = (live(V2, 2, 10, canary()), live(V3, 3, 20, canary()))
    begun = split_of(decide_split(deployment(), both, FLEET, None))
    first = split_of(decide_split(deployment(), both[1:], FLEET, begun))
    fourth = revision("4.0.0")
    west = live(fourth, 4, 30, canary(WEST))
    fleet = (*FLEET, replica(fourth))
    second = split_of(decide_split(deployment(), (both[1], west), fleet, first)).spec
    everybody, rule = first.spec.rules[-1], second.rules[0]
    assert (rule.predicate, rule.salt) == (WEST, everybody.salt)
    before = [s.revision for s in everybody.segments for _ in range(s.width)]
    after = [s.revision for s in rule.segments for _ in range(s.width)]
    moved = {(old, new) for old, new in zip(before, after, strict=True) if old != new}
    assert moved == {(V1.digest, fourth.digest)}


def test_a_shadow_gets_copies_and_no_share() -> None:
    strategy = Strategy.model_validate({"shadow": {"percentage": 25}})
    shadow = live(V2, 2, 0, strategy).with_status(mirror_pct=25)
    spec = split_of(decide_split(deployment(), (shadow,), FLEET, None)).spec
    assert shares(spec) == {"default": {"v1": TOTAL_WEIGHT}}
    (mirror,) = spec.rules[-1].mirrors
    assert (mirror.revision, mirror.percentage) == (V2.digest, 25)
    assert [v.role for v in spec.variants] == ["stable", "shadow"]
    gone = decide_split(deployment(), (shadow,), (replica(V1),), None)
    assert gone is not None
    assert gone.rules[-1].mirrors == (), "nothing is copied to what does not run"


def test_slices_of_all_that_runs_are_counted() -> None:
    def sliced(*values: str) -> Strategy:
        return canary(analysis={"slices": [{"by": "user.region", "values": values}]})

    rollouts = (live(V2, 2, 5, sliced("west")), live(V3, 3, 5, sliced("west", "east")))
    spec = split_of(decide_split(deployment(), rollouts, FLEET, None)).spec
    assert [(part.by, part.values) for part in spec.slices] == [("user.region", ("west", "east"))]


def test_who_is_who_may_come_from_a_claim_or_a_cookie() -> None:
    world = deployment()
    claim = decide_split(world.with_spec(user_claim="account_id"), (), FLEET, None)
    cookie = decide_split(world.with_spec(user_cookie="visitor"), (), FLEET, None)
    assert claim is not None
    assert cookie is not None
    assert claim.user_header == "x-user-account-id"
    assert (cookie.user_cookie, cookie.user_header) == ("visitor", "x-user-id")
