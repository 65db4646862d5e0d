"""Silences on two sides: after any changes on either, both say the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from modelplane.decisions.silence_delivery import (
    END_ANNOTATION,
    End,
    ServedSilence,
    Take,
    Tell,
    decide_silences,
    mark,
)
from modelplane.resources.alerting import Matcher, Silence, SilenceSpec
from modelplane.resources.meta import Metadata

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
OURS, OTHERS = "0123456789ab", "ba9876543210"
MATCHERS = (Matcher(name="alertname", value="Down"), Matcher(name="team", value="a"))


def silence(name: str = "night", hours: float = 1, **spec: object) -> Silence:
    fields = {"matchers": MATCHERS, "ends_at": NOW + timedelta(hours=hours), "comment": "a test"}
    return Silence(
        metadata=Metadata(name=name, uid=f"uid-{name}"),
        spec=SilenceSpec.model_validate({**fields, **spec}),
    )


def served(id: str, hours: float = 1, created_by: str = "ada") -> ServedSilence:
    until = NOW + timedelta(hours=hours)
    return ServedSilence(id, MATCHERS, NOW, until, created_by, "a test")


def decide(
    here: list[Silence], there: list[ServedSilence], deleted: frozenset[str] = frozenset()
) -> list[End | Tell | Take]:
    return decide_silences(here, there, instance=OURS, deleted=deleted, now=NOW)


def test_one_that_is_made_here_is_told_of_once() -> None:
    made = silence()
    assert decide([made], []) == [Tell(made)]
    assert decide([made], [served("a", created_by=mark(made, OURS))]) == []


def test_what_a_crash_left_behind_is_known_again_and_twins_are_ended() -> None:
    """It was made there, and the process died before it could write down its id."""
    made = silence(created_by="ada")
    twins = [served(twin, created_by=mark(made, OURS)) for twin in ("a", "b")]
    assert decide([made.with_status(alertmanager_id="b")], twins) == [End("a")]
    assert decide([made], twins) == [End("b")]


def test_one_that_is_over_or_deleted_here_ends_there() -> None:
    made = silence()
    theirs = served("a", created_by=mark(made, OURS))
    assert decide([silence(hours=0)], [theirs]) == [End("a")]
    assert decide([], [theirs]) == [End("a")]


def test_those_of_another_modelplane_are_taken_like_any_other() -> None:
    theirs = served("a", created_by=mark(silence(), OTHERS))
    [taken] = decide([], [theirs])
    assert isinstance(taken, Take)
    assert taken.silence.metadata.name == "alertmanager-a"


def test_an_annotation_that_somebody_spoilt_is_written_anew() -> None:
    theirs = served("a")
    [taken] = decide([], [theirs])
    assert isinstance(taken, Take)
    for spoilt in ("soon", "2026-03-01T12:00:00"):
        metadata = taken.silence.metadata.with_(annotations={END_ANNOTATION: spoilt})
        [again] = decide([taken.silence.with_(metadata=metadata)], [theirs])
        assert isinstance(again, Take)
        assert again.silence.metadata.annotations == taken.silence.metadata.annotations


def test_one_that_is_made_there_is_here_and_ends_with_the_first_side_that_ends_it() -> None:
    [taken] = decide([], [served("a")])
    assert isinstance(taken, Take)
    here = taken.silence
    assert here.spec.matchers == MATCHERS
    assert decide([here], [served("a")]) == []
    ended_here = here.with_spec(ends_at=NOW)
    assert decide([ended_here], [served("a")]) == [End("a")]
    [ended_there] = decide([here], [])
    assert isinstance(ended_there, Take)
    assert ended_there.silence.spec.ends_at == NOW
    assert decide([ended_there.silence], []) == []


def test_one_that_is_prolonged_there_is_prolonged_here_and_back() -> None:
    [taken] = decide([], [served("a")])
    assert isinstance(taken, Take)
    [longer] = decide([taken.silence], [served("a", hours=5)])
    assert isinstance(longer, Take)
    assert longer.silence.spec.ends_at == NOW + timedelta(hours=5)
    shorter = longer.silence.with_spec(ends_at=NOW + timedelta(hours=2))
    assert decide([shorter], [served("a", hours=5)]) == [Tell(shorter, "a")]


def test_one_from_there_that_is_deleted_here_ends_there_and_does_not_come_back() -> None:
    assert decide([], [served("a")], frozenset({"a"})) == [End("a")]


def test_one_that_holds_for_every_alert_stays_there_alone() -> None:
    wide = (Matcher(name="alertname", operator="!=", value="x"),)
    until = NOW + timedelta(hours=1)
    assert decide([], [ServedSilence("a", wide, NOW, until, "ada", "c")]) == []


class TwoSides(RuleBasedStateMachine):
    """People change silences on both sides in any order; looks come in between, crashes too."""

    def __init__(self) -> None:
        super().__init__()
        self.now = NOW
        self.here: dict[str, Silence] = {}
        self.there: dict[str, ServedSilence] = {}
        self.names = 0

    def _alive(self) -> list[ServedSilence]:
        return [s for s in self.there.values() if s.ends_at > self.now]

    @rule(hours=st.integers(1, 5))
    def make_here(self, hours: int) -> None:
        self.names += 1
        made = silence(f"s{self.names}").with_spec(ends_at=self.now + timedelta(hours=hours))
        self.here[made.metadata.name] = made

    @rule(hours=st.integers(1, 5))
    def make_there(self, hours: int) -> None:
        self.names += 1
        made = f"t{self.names}"
        until = self.now + timedelta(hours=hours)
        self.there[made] = ServedSilence(made, MATCHERS, self.now, until, "ada", "a test")

    @precondition(lambda self: self.here)
    @rule(data=st.data(), hours=st.integers(0, 5))
    def move_here(self, data: st.DataObject, hours: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.here)))
        until = self.now + timedelta(hours=hours)
        self.here[name] = self.here[name].with_spec(ends_at=until)

    @precondition(lambda self: self._alive())
    @rule(data=st.data(), hours=st.integers(0, 5))
    def move_there(self, data: st.DataObject, hours: int) -> None:
        chosen = data.draw(st.sampled_from([s.id for s in self._alive()]))
        before = self.there[chosen]
        until = self.now + timedelta(hours=hours)
        self.there[chosen] = ServedSilence(
            chosen, MATCHERS, before.starts_at, until, before.created_by, before.comment
        )

    @rule(minutes=st.integers(1, 90))
    def wait(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @rule(forgets=st.booleans())
    def look(self, forgets: bool) -> None:
        """Do what is decided; a crash forgets to write down what was done there."""
        for action in decide_silences(
            list(self.here.values()), self._alive(), instance=OURS, deleted=(), now=self.now
        ):
            match action:
                case End(id):
                    before = self.there[id]
                    self.there[id] = ServedSilence(
                        id,
                        before.matchers,
                        before.starts_at,
                        self.now,
                        before.created_by,
                        before.comment,
                    )
                case Take(taken):
                    self.here[taken.metadata.name] = taken
                case Tell(told, id):
                    self._tell(told, id, forgets)

    def _tell(self, told: Silence, id: str, forgets: bool) -> None:
        taken = END_ANNOTATION in told.metadata.annotations
        self.names += 1
        made = id or f"t{self.names}"
        by = told.spec.created_by if taken else mark(told, OURS)
        until = told.spec.ends_at
        self.there[made] = ServedSilence(
            made, told.spec.matchers, self.now, until, by, told.spec.comment
        )
        if forgets:
            return
        after = told.with_status(alertmanager_id=made)
        if taken:
            annotations = {**told.metadata.annotations, END_ANNOTATION: until.isoformat()}
            after = after.with_(metadata=told.metadata.with_(annotations=annotations))
        self.here[told.metadata.name] = after

    @invariant()
    def two_looks_make_them_one(self) -> None:
        before = dict(self.here), dict(self.there)
        self.look(forgets=False)
        self.look(forgets=False)
        alive_here = sorted(s.spec.ends_at for s in self.here.values() if s.spec.ends_at > self.now)
        assert alive_here == sorted(s.ends_at for s in self._alive())
        assert not decide_silences(
            list(self.here.values()), self._alive(), instance=OURS, deleted=(), now=self.now
        )
        self.here, self.there = before


TestTwoSides = TwoSides.TestCase
TestTwoSides.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


@given(st.text(max_size=30))
def test_the_mark_tells_which_silence_of_which_modelplane(person: str) -> None:
    made = silence(created_by=person)
    theirs = served("a", created_by=mark(made, OURS))
    assert decide([made], [theirs]) == []
