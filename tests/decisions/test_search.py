"""The filter language: what is read, what matches, in which order, and what is said of mistakes."""

from __future__ import annotations

import fnmatch
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelplane.decisions.registry_index import RegistryIndex
from modelplane.decisions.search import (
    compile_filter,
    compile_order,
    named_fields,
    required_text,
    uses,
)
from modelplane.decisions.search_candidates import candidates
from modelplane.decisions.search_fields import SEARCHED, field_names, find_field
from modelplane.decisions.search_grammar import (
    COMPARATORS,
    Comparison,
    FieldName,
    Sorting,
    format_filter,
    format_order,
    parse_filter,
    parse_order,
)
from modelplane.decisions.search_matching import compile_like
from modelplane.errors import InvalidResource
from modelplane.resources.dataset import DatasetReference, DatasetVersion, DatasetVersionSpec
from modelplane.resources.meta import Metadata
from modelplane.resources.model import (
    Correction,
    Model,
    ModelStatus,
    ModelVersion,
    ModelVersionSpec,
    ModelVersionStatus,
    Training,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def version(model: str = "fraud", number: int = 1, **changes: Any) -> ModelVersion:
    status = changes.pop("status", {})
    semantic = changes.pop("version", f"{number}.0.0")
    spec = ModelVersionSpec(model=model, version=semantic, number=number, **changes)
    name = Metadata(name=f"{model}@{semantic}", created_at=NOW + timedelta(days=number))
    return ModelVersion(metadata=name, spec=spec, status=ModelVersionStatus(**status))


def correction(field: str, value: Any) -> Correction:
    return Correction(field=field, value=value, subject="ann", at=NOW, reason="measured again")


FRAUD = version(
    metrics={"accuracy": 0.93, "f1-score": 0.5},
    parameters={"depth": "6"},
    author="ann",
    flavour="sklearn",
    training=Training(run_id="r1", git_commit="abc123"),
    datasets=(DatasetReference(name="transactions", version="3", digest="sha256:aa"),),
    status={"tags": {"team": "risk", "a b": "it's"}, "aliases": ("champion",)},
)

MATCHES = [
    "",
    "metrics.accuracy > 0.9 and tags.team = 'risk'",
    "metric.accuracy >= .93 AND Tags.team = 'risk'".replace("Tags", "tags"),
    "metrics.accuracy <= 0.93 AND metrics.accuracy != 1",
    "metrics.f1-score = 5e-1",
    "metrics.`f1-score` < 1",
    "tags.\"a b\" = 'it''s'",
    "tag.`a b` LIKE 'it%'",
    'author = "ann"',
    "params.depth = '6' and parameters.depth != '7' and param.depth IN ('5', '6')",
    "author NOT IN ('bob')",
    "name = 'fraud' and model LIKE 'fr%'",
    "attribute.author ILIKE 'AN_'",
    "version = '1' and version = 'v1.0.0' and version < '1.0.1' and version >= '1.0.0-rc.1'",
    "version LIKE '1.%'",
    "number = 1 and version_number < 2",
    "run_id = 'r1' and git_commit LIKE 'abc%'",
    "flavor = 'sklearn' and flavour != 'onnx'",
    "alias = 'champion' and alias LIKE 'ch%' and aliases IN ('x', 'champion')",
    "alias != 'challenger' and alias NOT IN ('challenger')",
    "dataset = 'transactions' and dataset = 'transactions@3' and dataset.digest LIKE 'sha256:%'",
    "created > '2026-03-01' and created <= '2026-03-02T13:00:00+01:00'",
    "source IS NULL and tags.team IS NOT NULL and metrics.other IS NULL",
    "deleted = false and deleted != true",
    "stage = 'None'",
]
MISSES = [
    "metrics.accuracy > 0.93",
    "metrics.other > 0",
    "metrics.other != 0",
    "tags.other != 'x'",
    "tags.team = 'Risk'",
    "tags.team LIKE 'R%'",
    "author IN ('bob')",
    "alias = 'challenger'",
    "alias != 'champion'",
    "alias IS NULL",
    "dataset = 'transactions@2'",
    "version > '1.0.0'",
    "source LIKE '%'",
    "created > '2026-03-02T12:00:00Z'",
    "deleted = true",
    "tags.team = 'risk' and metrics.accuracy < 0.9",
]


@pytest.mark.parametrize("text", MATCHES)
def test_it_matches(text: str) -> None:
    assert compile_filter(text, ModelVersion)(FRAUD)


@pytest.mark.parametrize("text", MISSES)
def test_it_does_not_match(text: str) -> None:
    assert not compile_filter(text, ModelVersion)(FRAUD)


def test_what_was_corrected_counts() -> None:
    corrected = FRAUD.with_status(
        corrections=(
            correction("metrics.accuracy", 0.7),
            correction("parameters.depth", None),
            correction("training.git_commit", "def456"),
        )
    )
    assert compile_filter("metrics.accuracy = 0.7 and params.depth IS NULL", ModelVersion)(
        corrected
    )
    assert compile_filter("git_commit = 'def456'", ModelVersion)(corrected)
    order = compile_order("metrics.accuracy", ModelVersion)
    better = version(number=2, metrics={"accuracy": 0.8})
    assert order.sort([better, corrected]) == [corrected, better]


def test_aliases_come_from_the_model_when_the_index_is_at_hand() -> None:
    index = RegistryIndex()
    stored = FRAUD.with_status(aliases=())
    index.put(stored)
    index.put(Model(metadata=Metadata(name="fraud"), status=ModelStatus(aliases={"prod": "1.0.0"})))
    wanted = compile_filter("alias = 'prod'", ModelVersion)
    assert wanted(stored, index)
    assert candidates(index, ModelVersion, wanted) == [stored]
    assert not wanted(stored)


def test_the_other_kinds_have_their_own_fields() -> None:
    spec = DatasetVersionSpec(dataset="rides", version="2026-01", number=1, digest="md5:a", rows=10)
    data = DatasetVersion(metadata=Metadata(name="rides@2026-01"), spec=spec)
    text = "name = 'rides' and rows >= 10 and digest LIKE 'md5:%' and version = '2026-01'"
    assert compile_filter(text.replace(" and version = '2026-01'", ""), DatasetVersion)(data)
    assert compile_filter("version = '2026-01'", DatasetVersion)(data)
    model = Model(
        metadata=Metadata(name="fraud", labels={"tier": "1"}),
        status=ModelStatus(tags={"team": "risk"}, aliases={"champion": "1.0.0"}),
    )
    assert compile_filter("tags.team = 'risk' and labels.tier = '1'", Model)(model)
    assert compile_filter("name ILIKE 'FRAUD' and alias = 'champion'", Model)(model)
    with pytest.raises(InvalidResource):
        compile_filter("metrics.auc > 1", Model)


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("metrics.accuracy > 0.9 and autor = 'x'", 28, "did you mean 'author'?"),
        ("acuracy > 1", 1, "a metric is written metrics.acuracy"),
        ("name = fraud", 8, "put the text in quotes: 'fraud'"),
        ("name = 'fraud", 8, "the quote ' is not closed"),
        ("name == 'fraud'", 6, "write = for =="),
        ("name <> 'fraud'", 6, "write != for <>"),
        ("name = 'a' or name = 'b'", 12, "joined by AND alone"),
        ("name = 'a' name = 'b'", 12, "expected AND"),
        ("name = 'a' and", 15, "it ends where"),
        ("name LIK 'a'", 6, "did you mean 'LIKE'?"),
        ("name in (1)", 10, "expected a quoted text"),
        ("name in ()", 10, "expected a number or a quoted text"),
        ("name > 'a'", 1, "name does not take >".replace("name", "model")),
        ("metrics.a LIKE 'x'", 1, "metrics.a does not take LIKE"),
        ("metrics.a > '1'", 1, "compared with a number"),
        ("metrics.a = true", 1, "compared with a number"),
        ("author = 5", 1, "compared with text in single quotes"),
        ("version = 3", 1, "for the integer write number"),
        ("version > 'latest'", 1, "a semantic version like '1.2.0'"),
        ("created > 'yesterday'", 1, "a time like '2026-01-31'"),
        ("deleted = 'yes'", 1, "true or false"),
        ("metrics.a > 1e999", 13, "no such number"),
        ("a.`` = 'x'", 1, "expected a name within the quotes"),
        ("name = 'a'; drop", 11, "expected AND"),
        ("name = 'a' § b", 12, "unknown character '§'"),
        ("and = 'a'", 1, "expected a field"),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str, place: int, says: str) -> None:
    with pytest.raises(InvalidResource) as raised:
        compile_filter(text, ModelVersion)
    (fault,) = raised.value.fields
    assert fault.path == "query.filter"
    assert fault.message.startswith(f"at character {place}: ")
    assert says in fault.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("acuracy", "has no field acuracy"),
        ("alias", "nothing can be ordered by it"),
        ("name DSC", "expected ','"),
        ("name, name", "name twice"),
        ("metrics.a > 1", "expected ','"),
    ],
)
def test_a_mistake_in_an_order_is_told(text: str, says: str) -> None:
    with pytest.raises(InvalidResource) as raised:
        compile_order(text, ModelVersion)
    assert raised.value.fields[0].path == "query.orderBy"
    assert says in raised.value.fields[0].message


def test_every_field_that_is_named_can_be_searched_and_ordered() -> None:
    for kind in SEARCHED:
        for name in field_names(kind):
            group, _, key = name.rpartition(".")
            field = find_field(kind, group, key)
            assert field is not None, name
            if field.type != "flag":
                assert compile_filter(f"{name} IS NULL", kind).predicates
            if field.type != "texts":
                assert compile_order(name, kind).terms


def test_what_a_filter_requires_and_speaks_of() -> None:
    wanted = compile_filter("attr.name = 'fraud' and deleted = true", ModelVersion)
    assert required_text(wanted, ModelVersion, "model") == "fraud"
    assert required_text(wanted, ModelVersion, "alias") is None
    assert uses(wanted, ModelVersion, "deleted")
    fields = named_fields("metric.auc > 1 and tags.a = 'b'", "metrics.auc, author", ModelVersion)
    assert [field.name for field in fields] == ["metrics.auc", "tags.a", "author"]


# -- properties ---------------------------------------------------------------------------------

KEYS = st.text(st.characters(exclude_characters='`"', exclude_categories=["C"]), min_size=1)
NAMES = st.builds(
    FieldName, st.sampled_from(["", "metrics", "tags", "a b"]), KEYS | st.text("ab.-", min_size=1)
)
VALUES = (
    st.text()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
)


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    comparator = draw(st.sampled_from(COMPARATORS))
    value: Any = draw(VALUES)
    if comparator.startswith("IS"):
        value = None
    elif comparator.endswith("IN"):
        value = tuple(draw(st.lists(st.text(), min_size=1, max_size=3)))
    return Comparison(draw(NAMES), comparator, value)


@given(st.lists(comparisons(), max_size=4))
def test_what_is_printed_reads_back_the_same(written: list[Comparison]) -> None:
    assert list(parse_filter(format_filter(written))) == written


@given(st.lists(st.builds(Sorting, NAMES, st.booleans()), max_size=3, unique_by=lambda s: s.name))
def test_an_order_that_is_printed_reads_back_the_same(written: list[Sorting]) -> None:
    assert list(parse_order(format_order(written))) == written


@given(
    st.text()
    | st.lists(
        st.sampled_from(
            ["metrics.a", "name", "tags.`b`", "version", "created", ">", "=", "!=", "LIKE", "IN",
             "NOT", "IS", "NULL", "AND", "(", ")", ",", "'x'", '"y"', "1", "-2.5", "true", "alias"]
        )
    ).map(" ".join)
)  # fmt: skip
def test_no_text_crashes_it(text: str) -> None:
    for kind in SEARCHED:
        with suppress(InvalidResource):  # any other error fails the test
            wanted = compile_filter(text, kind)
            assert kind is not ModelVersion or wanted(FRAUD) in {True, False}
        with suppress(InvalidResource):
            assert compile_order(text, kind).text


METRICS = st.dictionaries(st.sampled_from(["a", "b"]), st.floats(-2, 2))
TAGS = st.dictionaries(st.sampled_from(["t", "u"]), st.text("xY%_", max_size=3))
VERSIONS = st.builds(
    lambda model, number, metrics, tags, author: version(
        model, number, metrics=metrics, author=author, status={"tags": tags}
    ),
    st.sampled_from(["m", "n"]), st.integers(1, 5), METRICS, TAGS, st.sampled_from(["", "x", "Y"]),
)  # fmt: skip
CONDITIONS = st.tuples(
    st.sampled_from(["metrics.a", "metrics.b"]),
    st.sampled_from(["=", "!=", "<", "<=", ">", ">="]),
    st.sampled_from([-1.0, 0.0, 0.5, 1.0]),
) | st.tuples(
    st.sampled_from(["tags.t", "tags.u", "author"]),
    st.sampled_from(["=", "!=", "LIKE", "ILIKE", "IN", "NOT IN"]),
    st.text("xY%_", max_size=3),
)


def naive(resource: ModelVersion, field: str, comparator: str, wanted: Any) -> Any:
    group, _, key = field.rpartition(".")
    held: Any = {
        "metrics": resource.spec.metrics.get(key),
        "tags": resource.status.tags.get(key),
        "": resource.spec.author or None,
    }[group]
    if held is None:
        return False
    pattern = str(wanted).replace("%", "*").replace("_", "?")
    results = {
        "=": held == wanted,
        "!=": held != wanted,
        "IN": held == wanted,
        "NOT IN": held != wanted,
        "LIKE": fnmatch.fnmatchcase(str(held), pattern),
        "ILIKE": fnmatch.fnmatchcase(str(held).lower(), pattern.lower()),
    }
    if comparator in results:
        return results[comparator]
    return {
        "<": held < wanted, "<=": held <= wanted, ">": held > wanted, ">=": held >= wanted
    }[comparator]  # fmt: skip


@given(st.lists(VERSIONS), st.lists(CONDITIONS, min_size=1, max_size=3))
def test_it_agrees_with_a_plain_evaluation(
    versions: list[ModelVersion], conditions: list[tuple[str, str, Any]]
) -> None:
    parts = []
    for field, comparator, wanted in conditions:
        shown = repr(wanted) if isinstance(wanted, float) else f"'{wanted}'"
        shown = f"({shown})" if comparator.endswith("IN") else shown
        parts.append(f"{field} {comparator} {shown}")
    compiled = compile_filter(" and ".join(parts), ModelVersion)
    expected = [v for v in versions if all(naive(v, *condition) for condition in conditions)]
    assert compiled.select(versions) == expected
    assert [v for v in versions if compiled(v)] == expected


@given(st.text("ab%_", max_size=8), st.text("abC\n", max_size=8))
def test_like_is_that_of_sql(pattern: str, text: str) -> None:
    regex = "".join({"%": ".*", "_": "."}.get(c, re.escape(c)) for c in pattern)
    assert compile_like(pattern, ignore_case=False)(text) == bool(
        re.fullmatch(regex, text, re.DOTALL)
    )
    assert compile_like(pattern, ignore_case=True)(text) == bool(
        re.fullmatch(regex, text, re.DOTALL | re.IGNORECASE)
    )


@given(st.lists(VERSIONS), st.booleans())
def test_missing_values_come_last_and_ties_go_by_model_and_number(
    versions: list[ModelVersion], descending: bool
) -> None:
    order = compile_order(f"metrics.a {'DESC' if descending else 'ASC'}", ModelVersion)
    sign = -1 if descending else 1

    def place(v: Any) -> Any:
        value = v.spec.metrics.get("a")
        return (value is None, sign * (value or 0), v.spec.model, v.spec.number)

    assert [place(v) for v in order.sort(versions)] == sorted(place(v) for v in versions)


def test_semantic_versions_are_ordered_as_such() -> None:
    versions = [
        version(version=v, number=n) for n, v in enumerate(("1.10.0", "1.9.0", "1.10.0-rc"))
    ]
    ordered = compile_order("version DESC", ModelVersion).sort(versions)
    assert [v.spec.version for v in ordered] == ["1.10.0", "1.10.0-rc", "1.9.0"]


@given(
    st.lists(VERSIONS, unique_by=lambda v: v.metadata.name),
    st.sets(st.integers(0, 5)),
    st.lists(VERSIONS, max_size=3),
)
def test_an_index_leaves_out_nothing_that_matches_and_shows_no_old_values(
    versions: list[ModelVersion], deleted: set[int], changed: list[ModelVersion]
) -> None:
    index = RegistryIndex()
    index.put(Model(metadata=Metadata(name="m"), status=ModelStatus(aliases={"x": "1.0.0"})))
    stored = {
        v.metadata.name: v.with_status(deleted_at=NOW) if v.spec.number in deleted else v
        for v in versions
    }
    for kept in stored.values():
        index.put(kept)
    texts = (
        "", "model = 'm'", "alias = 'x'", "tags.t = 'x'", "deleted = true", "id = 'mv-1'",
        "metrics.a > 0 and number > 1", "author != 'x' and alias IS NULL", "version >= '2'",
    )  # fmt: skip
    orders = ("", "metrics.a DESC, author", "version DESC", "number DESC, metrics.b")
    for resource in (None, *changed):
        if resource is not None:
            index.put(resource)
            stored[resource.metadata.name] = resource
        for text, order_text in product(texts, orders):
            wanted, order = (
                compile_filter(text, ModelVersion), compile_order(order_text, ModelVersion)
            )  # fmt: skip
            asked = [v for v in stored.values() if "deleted" in text or not v.status.deleted_at]
            expected = order.sort([v for v in asked if wanted(v, index)], index)
            may_match = candidates(index, ModelVersion, wanted)
            found = wanted.select(may_match, index)
            assert order.sort(found, index, in_plain_order=True) == expected, (text, order_text)
            if not text:
                assert order.sort(may_match, index, in_plain_order=True) == expected
