"""A predicate says the same in the control plane and in the real Envoy."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from modelplane.adapters.proxy.predicates import compile_matcher
from modelplane.expressions.predicates import Predicate, RequestFacts, compile_predicate
from tests.proxy.matching import host_of, matching_envoy

WEST = {"x-user-region": "west"}


def compiled(text: str) -> Predicate:
    predicate = compile_predicate(text)
    assert isinstance(predicate, Predicate), (text, predicate)
    return predicate


TABLE: list[tuple[str, RequestFacts, bool]] = [
    ("user.region == 'west'", RequestFacts(headers=WEST), True),
    ("user.region == 'west'", RequestFacts(headers={"x-user-region": "east"}), False),
    ("user.region == 'west'", RequestFacts(), False),
    ("user.region != 'west'", RequestFacts(), False),
    ("!(user.region == 'west')", RequestFacts(), False),
    ("user.region == ''", RequestFacts(headers={"x-user-region": ""}), True),
    ("user.region == ''", RequestFacts(), False),
    ("user.region == 'west' || user.plan == 'pro'", RequestFacts(headers=WEST), True),
    ("user.region == 'west' && user.plan == 'pro'", RequestFacts(headers=WEST), False),
    ("user.region == 'west' && !(user.plan == 'pro')", RequestFacts(headers=WEST), False),
    ("user.region == 'west,east'", RequestFacts(headers={"x-user-region": "west,east"}), True),
    ("user.name == 'Žofie 中'", RequestFacts(headers={"x-user-name": "Žofie 中"}), True),
    ("size(user.name) == 7", RequestFacts(headers={"x-user-name": "Žofie 中"}), True),
    ("user.plan_id in ['a', 'b']", RequestFacts(headers={"x-user-plan-id": "b"}), True),
    ("'x-beta' in request.headers", RequestFacts(headers={"x-beta": ""}), True),
    ("!('x-beta' in request.headers)", RequestFacts(), True),
    ("request.headers['X-Beta'].startsWith('on')", RequestFacts(headers={"x-beta": "on"}), True),
    ("request.method == 'PUT'", RequestFacts(method="PUT"), True),
    ("request.path == '/v2/models/a'", RequestFacts(path="/v2/models/a?b=c"), True),
    ("request.path.endsWith('/infer')", RequestFacts(path="/v2/models/a/infer"), True),
    ("user.ua.matches('^Mob(ile)? [0-9]+$')", RequestFacts(headers={"x-user-ua": "Mob 7"}), True),
    ("user.a.matches('a') || user.b == 'b'", RequestFacts(headers={"x-user-b": "b"}), True),
    ("input.amount > 200", RequestFacts(inputs={"amount": 200.5}), True),
    ("input.amount > 200", RequestFacts(inputs={"amount": 200}), False),
    ("input.amount > 200", RequestFacts(inputs={"amount": "300"}), False),
    ("input.amount != 200", RequestFacts(inputs={"amount": "300"}), False),
    ("input.amount != 200", RequestFacts(inputs={"amount": True}), False),
    ("!(input.amount in [1, 2])", RequestFacts(inputs={"amount": "1"}), False),
    ("input.amount != 200", RequestFacts(), False),
    ("input.amount != 200 || user.region == 'west'", RequestFacts(headers=WEST), True),
    ("input.amount == 1 || input.amount == 'one'", RequestFacts(inputs={"amount": "one"}), True),
    ("input.flag", RequestFacts(inputs={"flag": True}), True),
    ("!input.flag", RequestFacts(inputs={"flag": False}), True),
    ("!input.flag", RequestFacts(inputs={"flag": 0}), False),
    ("input['a b'] + 1 == -input.c / 2", RequestFacts(inputs={"a b": 1, "c": -4.0}), True),
    ("input.a / 0 > 1", RequestFacts(inputs={"a": 1}), True),
]  # fmt: skip


@pytest.mark.slow
def test_rows_of_the_table_hold_in_both() -> None:
    predicates = [compiled(text) for text, _, _ in TABLE]
    wrong = []
    with matching_envoy([compile_matcher(predicate) for predicate in predicates]) as envoy:
        for index, (text, given, expected) in enumerate(TABLE):
            facts = replace(given, host=host_of(index))
            found = predicates[index].evaluate(facts), envoy.holds(index, facts)
            if found != (expected, expected):
                wrong.append((text, facts, found))
    assert not wrong


NAMES = ("a", "b", "c")
TEXTS = ("", "x", "west", "East", "10", "é中", "a,b", "true", "x y", "-1", "0")
NUMBERS = (0.0, 1.0, -1.0, 2.5, 10.0, 1e9, -0.5)


class Writing:
    """Random predicates and requests that meet each other often."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def predicate(self, depth: int = 3) -> str:
        draw = self.random
        kind = draw.random() if depth else 1.0
        if kind < 0.25:
            return f"!({self.predicate(depth - 1)})"
        if kind < 0.75:
            symbol = draw.choice((" && ", " || "))
            return "(" + symbol.join(self.predicate(depth - 1) for _ in range(2)) + ")"
        return draw.choice((self.texts, self.numbers, self.truths))()

    def texts(self) -> str:
        draw = self.random
        name, value = self.text(), repr(draw.choice(TEXTS))
        others = ", ".join(repr(draw.choice(TEXTS)) for _ in range(draw.randint(1, 3)))
        pattern = draw.choice(("^a", "[0-9]+", "^$", "x|w", "(?i)EAST", ".", r"\\w\\W"))
        return draw.choice(
            (
                f"{name} {draw.choice(('==', '!=', '<', '<=', '>', '>='))} {value}",
                f"{name} == {self.text(known=True)}",
                f"{name} in [{others}]",
                f"{name}.{draw.choice(('startsWith', 'endsWith', 'contains'))}({value})",
                f"{name}.matches('{pattern}')",
                f"size({name}) {draw.choice(('==', '<', '>'))} {draw.randint(0, 4)}",
            )
        )

    def text(self, *, known: bool = False) -> str:
        draw, name = self.random, self.random.choice(NAMES)
        of_request = ("request.method", "request.path", "request.host")
        header = f"request.headers['x-{name}']"
        names = [f"user.{name}", header, draw.choice(of_request)]
        return draw.choice(names if known else [*names, f"input.{name}"])

    def numbers(self) -> str:
        draw = self.random
        symbol = draw.choice(("==", "!=", "<", "<=", ">", ">="))
        if draw.random() < 0.2:
            return f"input.{draw.choice(NAMES)} in [{draw.choice(NUMBERS)}, {draw.choice(NUMBERS)}]"
        return f"{self.number()} {symbol} {draw.choice(NUMBERS)}"

    def number(self, depth: int = 1) -> str:
        draw = self.random
        if depth and draw.random() < 0.4:
            parts = self.number(depth - 1), self.number(depth - 1)
            return f"({draw.choice(('+', '-', '*', '/')).join(parts)})"
        if draw.random() < 0.2:
            return f"-input.{draw.choice(NAMES)}"
        return f"input.{draw.choice(NAMES)}"

    def truths(self) -> str:
        draw, name = self.random, self.random.choice(NAMES)
        return draw.choice(
            (f"input.{name}", f"input.{name} != true", f"'x-{name}' in request.headers")
        )

    def request(self, index: int) -> RequestFacts:
        draw = self.random
        headers = {
            f"{prefix}{name}": draw.choice(TEXTS)
            for prefix in ("x-user-", "x-")
            for name in NAMES
            if draw.random() < 0.6
        }
        inputs = {
            name: draw.choice((*NUMBERS, *TEXTS[:5], True, False, True, False, 3))
            for name in NAMES
            if draw.random() < 0.6
        }
        method, path = draw.choice(("GET", "POST")), draw.choice(("/", "/x", "/west?a=b"))
        return RequestFacts(method, path, host_of(index), headers, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [5])
def test_random_predicates_say_the_same_in_both(seed: int) -> None:
    writing = Writing(seed)
    predicates = [compiled(writing.predicate()) for _ in range(300)]
    held, wrong = 0, []
    with matching_envoy([compile_matcher(predicate) for predicate in predicates]) as envoy:
        for index, predicate in enumerate(predicates):
            for _ in range(20):
                facts = writing.request(index)
                here, there = predicate.evaluate(facts), envoy.holds(index, facts)
                held += here
                if here != there:
                    wrong.append((predicate.text, facts, here, there))
    assert not wrong
    assert 1000 < held < 5000  # both answers are common, or little was compared


@pytest.mark.slow
def test_the_deepest_and_longest_predicates_are_taken() -> None:
    chain = " || ".join(f"user.a{i} == '{i}'" for i in range(50))
    deep = "user.a == 'x'"
    for i in range(8):
        deep = f"({deep} {('&&', '||')[i % 2]} input.b{i} > 1)"
    arithmetic = "input.a" + " + (1" * 7 + ")" * 7 + " > 3"
    widest = "user.a.matches('[a-z]{50}')"
    predicates = [compiled(text) for text in (chain, deep, arithmetic, widest)]
    with matching_envoy([compile_matcher(predicate) for predicate in predicates]) as envoy:
        assert envoy.holds(0, RequestFacts(headers={"x-user-a49": "49"}))
        assert envoy.holds(
            1, RequestFacts(headers={"x-user-a": "x"}, inputs={f"b{i}": 2 for i in range(8)})
        )
        assert envoy.holds(2, RequestFacts(inputs={"a": 1}))
        assert envoy.holds(3, RequestFacts(headers={"x-user-a": "x" * 50}))


PATTERNS = (
    "west", "^(west|east)$", "[a-z]{50}", "a{80}", r"^\d{1,3}(\.\d{1,3}){3}$", "(?i)^mobile",
    "(?i)" + "ks" * 8, "[^a]{4}", ".{5}", r"(\w+ ){9}", "é{20}", "[à-ü]x", "(a|b|c|d){10}",
    r"[\w.]+@[\w.]+", "(((a{3}){3}){3})", "x{0,40}", r"\Qa.b\E+", "[[:alpha:]]{5}", r"\x41{60}",
)  # fmt: skip


@pytest.mark.slow
def test_envoy_takes_every_regular_expression_that_is_not_refused() -> None:
    written = [f"user.a.matches('''{pattern}''')".replace("\\", "\\\\") for pattern in PATTERNS]
    taken = [found for each in written if isinstance(found := compile_predicate(each), Predicate)]
    assert len(taken) > len(PATTERNS) / 2
    with matching_envoy([compile_matcher(predicate) for predicate in taken]) as envoy:
        assert envoy.holds(0, RequestFacts(headers={"x-user-a": "north-west"}))
