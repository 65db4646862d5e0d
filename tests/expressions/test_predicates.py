"""Predicates: what may be written, what is refused and where, and what missing data means.

That Envoy says the same is tested in `tests/proxy/test_predicates.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.expressions.predicates import Predicate, RequestFacts, compile_predicate
from modelplane.expressions.regular_expressions import (
    MAX_PROGRAM,
    estimate_program,
    find_regex_fault,
)
from modelplane.resources.strategy import MAX_PREDICATE_CHARS
from modelplane.resources.traffic_split import InputType

INPUTS: Mapping[str, InputType] = {"amount": "number", "merchant": "text", "new card": "truth"}


def compiled(text: str, inputs: Mapping[str, InputType] | None = None) -> Predicate:
    found = compile_predicate(text, inputs)
    assert isinstance(found, Predicate), found
    return found


def faults(text: str, inputs: Mapping[str, InputType] | None = None) -> list[str]:
    found = compile_predicate(text, inputs)
    assert not isinstance(found, Predicate)
    return [str(fault) for fault in found]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1, column 1: Syntax error"),
        ("user.region == 'west' ||", "line 1, column 25: Syntax error"),
        ("region == 'west'", "column 1: unknown name 'region'; names begin with user., input."),
        ("user == 'west'", "column 1: user is not a value; write user.region"),
        ("user.Region == 'west'", "column 1: a user's attribute is of a-z, 0-9 and _"),
        ("user.a.b == 'x'", "column 1: there is no .b here"),
        ("user['a'] == 'x'", "column 1: brackets stand behind request.headers and input only"),
        ("request.hots == 'x'", "unknown name 'request.hots'; did you mean 'request.host'?"),
        ("request.heders['a'] == 'x'", "did you mean 'request.headers'?"),
        ("request.headers.a == 'x'", "write request.headers['a']"),
        ("request.headers == 'x'", "request.headers is a map"),
        ("request.headers[user.a] == 'x'", "a header's name is a text in quotes"),
        ("request.headers['a b'] == 'x'", "no header is named 'a b'"),
        ("request.headers[':path'] == 'x'", "no header is named ':path'"),
        ("request.headers['Authorization'] == 'x'", "keeps the header 'authorization'"),
        ("'x-modelplane-version' in request.headers", "keeps the header 'x-modelplane-version'"),
        ("request.headers['host'] == 'x'", "write request.host"),
        ("user.a == 'x' &&\n user.b == 7", "line 2, column 9: '==' does not go with text and a n"),
        ("user.a", "user.a is text, not true or false; compare it"),
        ("input.n + 1", "this is a number, not true or false"),
        ("user.a + 'b' == 'ab'", "column 1: user.a is text, not a number"),
        ("user.a < 1", "'<' does not go with text and a number"),
        ("input.a == true && input.a < false", "'<' does not go with true and false"),
        ("input.a == input.b", "the types of input.a and input.b are not known"),
        ("user.a in []", "behind `in` stands a list such as"),
        ("user.a in ['x', 1]", "column 17: this is a number, not text"),
        ("user.a in [user.b]", "column 12: a list holds constants only"),
        ("['x'] == ['x']", "a list stands behind `in` only"),
        ("has(user.a)", "column 5: has() is not offered"),
        ("['a'].exists(x, x == user.a)", "all, exists, filter and map are not offered"),
        ("user.a == null", "null is not offered"),
        ("user.a == b'x'", "write a number, a text in quotes, true or false"),
        ("input.n > 1u", "write a number, a text in quotes, true or false"),
        ("input.n > 1e999", "write a number, a text in quotes, true or false"),
        ("{'a': 1} == {}", "maps and messages are not offered"),
        ("user.a == 'x' ? true : false", "? : is not offered here"),
        ("input.n % 2 == 1", "% is not offered here"),
        ("user.a.lowerAscii() == 'x'", "there is no function 'lowerAscii'"),
        ("user.a.startWith('x')", "did you mean 'startsWith'?"),
        ("user.a.startsWith('x', 'y')", "startsWith is written user.region.startsWith('west')"),
        ("timestamp(user.a) > timestamp('x')", "timestamp() is not offered here"),
        ("string(input.n) == '1'", "string() is not offered here"),
        ("user.a.matches(user.b)", "a regular expression is a text in quotes"),
        ("user.a.matches('(')", "column 16: bad regular expression: missing )"),
        ("user.a.matches('a(?=b)')", "bad regular expression: invalid perl operator"),
        ("user.a.matches('[a-z]{200}')", "too large for the gateway: about 208 steps"),
        ("true", "reads nothing of the request"),
        ("1 < 2", "reads nothing of the request"),
        ("1 + " * 60 + "input.n > 1", "recursion depth"),
        ("(" * 11 + "input.n" + " + 1)" * 11 + " > 1", "nested too deep: 10 levels"),
        (f"user.a == '{'x' * 1000}'", f"has 1012 characters; {MAX_PREDICATE_CHARS} is the most"),
    ],
)
def test_what_a_gateway_could_not_do_is_refused_with_its_place(text: str, says: str) -> None:
    assert says in faults(text)[0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("input.amout > 2", "the model has no input 'amout'; did you mean 'amount'?"),
        ("input['newcard']", "the model has no input 'newcard'; did you mean 'new card'?"),
        ("input.amount == 'x'", "'==' does not go with a number and text"),
        ("input.merchant", "input.merchant is text, not true or false"),
        ("input.merchant + 1 > 2", "input.merchant is text, not a number"),
        ("!input['new card'] && input.amount.startsWith('1')", "input.amount is a number, not te"),
    ],
)
def test_inputs_have_the_names_and_types_of_the_models_signature(text: str, says: str) -> None:
    assert says in faults(text, INPUTS)[0]


def test_what_a_predicate_reads_is_known() -> None:
    text = "user.plan_id == 'a' && (input.b > 1 || input.b < 0 || request.headers['X-C'] == 'c')"
    predicate = compiled(text)
    assert predicate.user_names == ("x-user-plan-id",)
    assert predicate.input_names == ("b",)
    assert predicate.reads_body
    assert not compiled("user.a == 'x' && request.path == '/x'").reads_body
    facts = RequestFacts(headers={"x-user-plan-id": "a"}, inputs={"b": "two"})
    assert predicate.describe(facts) == (
        "user.plan_id is 'a', input.b is not a number, request.headers['x-c'] is missing"
    )


def test_cookies_are_not_told() -> None:
    facts = RequestFacts(headers={"cookie": "session=secret"})
    assert "secret" not in compiled("request.headers['cookie'] == 'a'").describe(facts)


@pytest.mark.parametrize(
    "text",
    ["input.a > 1", "input.a >= 1.0 && input.a != 5", "(input.a + 1) / 2 > 1", "input.a in [2, 3]"],
)
@pytest.mark.parametrize("value", [2, 2.0])
def test_whole_numbers_are_numbers(text: str, value: float) -> None:
    assert compiled(text).evaluate(RequestFacts(inputs={"a": value}))
    assert not compiled(text).evaluate(RequestFacts(inputs={"a": True}))
    assert not compiled(text).evaluate(RequestFacts(inputs={"a": 10**400}))


def test_text_that_is_no_text_makes_it_false() -> None:
    assert not compiled("user.a != 'x'").evaluate(RequestFacts(headers={"x-user-a": "\ud800"}))


@pytest.mark.parametrize("value", ["x" * 4097, "a\0b"])
def test_text_that_the_gateway_does_not_read_is_missing(value: str) -> None:
    assert not compiled("input.a != 'x'").evaluate(RequestFacts(inputs={"a": value}))


# -- Kleene's logic: true means true whatever the missing values would be ------------------------

ATOMS = ("user.a == 'x'", "user.b != 'x'", "input.c > 1", "input.d", "!input.d")
predicates = st.recursive(
    st.sampled_from(ATOMS),
    lambda below: st.one_of(
        below.map(lambda text: f"!({text})"),
        st.tuples(below, st.sampled_from(("&&", "||")), below).map(
            lambda parts: f"({' '.join(parts)})"
        ),
    ),
    max_leaves=6,
)
present = st.fixed_dictionaries(
    {
        "x-user-a": st.sampled_from(("x", "y")),
        "x-user-b": st.sampled_from(("x", "y")),
        "c": st.sampled_from((0.0, 2.0)),
        "d": st.booleans(),
    }
)


def facts_of(values: Mapping[str, object]) -> RequestFacts:
    headers = {name: str(value) for name, value in values.items() if name.startswith("x-")}
    inputs = {name: value for name, value in values.items() if not name.startswith("x-")}
    return RequestFacts(headers=headers, inputs=inputs)  # type: ignore[arg-type]


@given(predicates, present, st.sets(st.sampled_from(("x-user-a", "x-user-b", "c", "d"))))
def test_what_holds_holds_whatever_is_added(
    text: str, values: Mapping[str, object], missing: set[str]
) -> None:
    predicate = compile_predicate(text)
    if not isinstance(predicate, Predicate):  # nested deeper than is allowed
        return
    fewer = {name: value for name, value in values.items() if name not in missing}
    if predicate.evaluate(facts_of(fewer)):
        assert predicate.evaluate(facts_of(values))


@given(predicates, present)
def test_with_all_values_there_a_predicate_or_its_opposite_holds(
    text: str, values: Mapping[str, object]
) -> None:
    predicate, opposite = compile_predicate(text), compile_predicate(f"!({text})")
    if isinstance(predicate, Predicate) and isinstance(opposite, Predicate):
        facts = facts_of(values)
        assert predicate.evaluate(facts) != opposite.evaluate(facts)


@given(st.text(max_size=60))
def test_no_text_breaks_the_compiler(text: str) -> None:
    for written in (text, f"user.a == {text}", f"user.a.matches('{text}')", f"input[{text!r}]"):
        found = compile_predicate(written)
        assert isinstance(found, Predicate) or found[0].message


@pytest.mark.parametrize(
    "pattern",
    [
        "west", "^(west|east)$", "[a-z]{50}", "a{80}", r"^\d{1,3}(\.\d{1,3}){3}$", "(?i)^mobile",
        r".*@example\.com$", r"\bSafari/[0-9]+",
    ],
)  # fmt: skip
def test_everyday_regular_expressions_fit(pattern: str) -> None:
    assert find_regex_fault(pattern) == ""


@pytest.mark.parametrize("pattern", ["a{101}", "[a-z]{200}", r"\pL", ".{20}", "x" * 200])
def test_large_regular_expressions_are_refused(pattern: str) -> None:
    assert estimate_program(pattern) > MAX_PROGRAM
    assert "too large for the gateway" in find_regex_fault(pattern)
