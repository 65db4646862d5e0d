"""Search: the filter and order that people write, made into functions of resources.

The door to the filter language, which is MLflow's: ``metrics.accuracy > 0.9 and tags.team =
'risk'``. One grammar (`search_grammar`), two sets of names: modelplane's own (`search_fields`)
and MLflow's (`search_mlflow`). Called by the API's lists and by the MLflow-compatible routes; the
command line reads from a filter which metrics to show. Pure.

Use::

    wanted = compile_filter("metrics.accuracy > 0.9 and alias = 'champion'", ModelVersion)
    order = compile_order("metrics.accuracy DESC, name", ModelVersion)
    found = candidates(index, ModelVersion, wanted)            # search_candidates
    page = cut(found, order, index, wanted=wanted, limit=100, token=token, in_plain_order=True)

    wanted = compile_mlflow_filter("name = 'fraud' and tags.team LIKE 'r%'", "version")
    order = compile_mlflow_order(["name ASC", "version_number DESC"], "version")

`Filter` is called with a resource and, where at hand, the registry's index (without it the
aliases of a version are those filled in by whoever read it). `Order.sort` gives a list in a
total order, values that are missing last. `MlflowFilterError` carries MLflow's own message.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NoReturn

from modelplane.decisions.registry_index import RegistryIndex
from modelplane.decisions.search_fields import (
    Field,
    field_names,
    find_field,
    rank_of,
    tie_fields,
)
from modelplane.decisions.search_grammar import (
    COMPARATORS,
    SYMBOLS,
    Comparison,
    FieldName,
    parse_filter,
    parse_order,
    unreadable,
)
from modelplane.decisions.search_matching import (
    Filter,
    Predicate,
    Reader,
    compile_value,
    compile_values,
    conjunction,
)
from modelplane.decisions.search_mlflow import (
    MlflowEntity,
    compile_mlflow_filter,
    compile_mlflow_order,
)
from modelplane.decisions.search_mlflow_clauses import MlflowFilterError
from modelplane.decisions.search_ordering import Order, OrderTerm
from modelplane.resources.fields import suggest
from modelplane.resources.meta import Resource
from modelplane.resources.versions import parse_version, version_order

__all__ = [
    "Filter",
    "MlflowEntity",
    "MlflowFilterError",
    "Order",
    "compile_filter",
    "compile_mlflow_filter",
    "compile_mlflow_order",
    "compile_order",
    "named_fields",
    "required_text",
    "uses",
]

_FITTING: dict[str, frozenset[str]] = {
    "text": frozenset({"=", "!=", "LIKE", "ILIKE", "IN", "NOT IN", "IS NULL", "IS NOT NULL"}),
    "number": frozenset({*SYMBOLS, "IS NULL", "IS NOT NULL"}),
    "flag": frozenset({"=", "!="}),
}
_FITTING |= {
    "texts": _FITTING["text"],
    "time": _FITTING["number"],
    "version": _FITTING["text"] | _FITTING["number"],
}
_IN_WORDS = {
    "text": "text in single quotes",
    "texts": "text in single quotes",
    "number": "a number",
    "time": "a time like '2026-01-31' or '2026-01-31T12:00:00Z'",
    "version": "a semantic version like '1.2.0'",
    "flag": "true or false",
}


def compile_filter(text: str, kind: type[Resource[Any, Any]]) -> Filter:
    """Return the filter of `kind` that `text` says; an empty one lets everything through.

    Parameters
    ----------
    text
        Comparisons joined by AND. Comparators are ``= != < <= > >= LIKE ILIKE IN (…) NOT IN (…)
        IS NULL`` and ``IS NOT NULL``, as far as they fit the field.
    kind
        One of `search_fields.SEARCHED`.

    Raises
    ------
    InvalidResource
        It cannot be read, or names what `kind` does not have; says where, and what was meant.
    """
    comparisons = parse_filter(text)
    return conjunction(comparisons, [_compile(one, kind) for one in comparisons])


def compile_order(text: str, kind: type[Resource[Any, Any]]) -> Order:
    """Return the order of `kind` that `text` says, ties broken by name and number.

    Raises
    ------
    InvalidResource
        It cannot be read, or names what `kind` does not have or cannot be ordered by.
    """
    terms = []
    for sorting in parse_order(text):
        field = _field(kind, sorting.name, "orderBy", sorting.position)
        if field.type == "texts":
            message = f"{field.name} has many values: nothing can be ordered by it"
            raise unreadable("orderBy", "the order cannot be followed", message, sorting.position)
        rank = rank_of(field)
        terms.append(OrderTerm(field.name, field.read, rank, sorting.descending, in_table=True))
    ties = tuple(OrderTerm(f.name, f.read) for f in tie_fields(kind))
    return Order(tuple(terms), ties)


def named_fields(filter_: str, order: str, kind: type[Resource[Any, Any]]) -> list[Field]:
    """Return the fields that a filter and an order speak of, each once: what a table shows."""
    names = [c.name for c in parse_filter(filter_)] + [s.name for s in parse_order(order)]
    fields = [find_field(kind, name.group, name.key) for name in names]
    return list({field.name: field for field in fields if field}.values())


def required_text(wanted: Filter, kind: type[Resource[Any, Any]], field: str) -> str | None:
    """Return the text that a field must equal for the filter to hold; None: there is none."""
    for comparison in wanted.comparisons:
        found = find_field(kind, comparison.name.group, comparison.name.key)
        is_equal = comparison.comparator == "=" and isinstance(comparison.value, str)
        if found is not None and found.name == field and is_equal:
            return str(comparison.value)
    return None


def uses(wanted: Filter, kind: type[Resource[Any, Any]], field: str) -> bool:
    """Whether a filter speaks of a field."""
    names = [comparison.name for comparison in wanted.comparisons]
    fields = [find_field(kind, name.group, name.key) for name in names]
    return any(found is not None and found.name == field for found in fields)


def _compile(comparison: Comparison, kind: type[Resource[Any, Any]]) -> Predicate:
    field = _field(kind, comparison.name, "filter", comparison.position)
    comparator = comparison.comparator
    if comparator not in _FITTING[field.type]:
        fitting = ", ".join(c for c in COMPARATORS if c in _FITTING[field.type])
        _refuse(comparison, f"{field.name} does not take {comparator}; it takes {fitting}")
    wanted = _wanted(comparison, field)
    if field.type == "texts":
        return compile_values(field.read, comparator, wanted)
    if field.type == "version" and comparator in {"<", "<=", ">", ">="}:
        return compile_value(_ranked(field), comparator, wanted, column=f"rank of {field.name}")
    return compile_value(field.read, comparator, wanted, column=field.name)


def _ranked(field: Field) -> Reader:
    rank = rank_of(field)
    assert rank is not None, "versions have a rank"

    def read(resource: Any, index: RegistryIndex | None) -> Any:
        value = field.read(resource, index)
        return None if value is None else rank(value)

    return read


def _wanted(comparison: Comparison, field: Field) -> Any:
    """Return the value that a comparison wants, in the type of what the field reads."""
    value, comparator = comparison.value, comparison.comparator
    if value is None:
        return None
    if field.type == "version" and not comparator.endswith("LIKE"):
        texts = value if isinstance(value, tuple) else (value,)
        versions = tuple(_version(comparison, field, text) for text in texts)
        if isinstance(value, tuple):
            return versions
        return version_order(versions[0]) if "<" in comparator or ">" in comparator else versions[0]
    if field.type == "time" and isinstance(value, str):
        return _seconds(comparison, field, value)
    is_text = isinstance(value, str | tuple)
    if field.type == "flag" and isinstance(value, bool):
        return value
    if field.type == "number" and isinstance(value, int | float) and not isinstance(value, bool):
        return value
    if field.type in {"text", "texts", "version"} and is_text:
        return value
    return _refuse(comparison, f"{field.name} is compared with {_IN_WORDS[field.type]}")


def _version(comparison: Comparison, field: Field, text: Any) -> str:
    try:
        return parse_version(text)
    except (ValueError, AttributeError):
        hint = "; for the integer write number" if isinstance(text, int) else ""
        _refuse(comparison, f"{field.name} is compared with {_IN_WORDS[field.type]}{hint}")


def _seconds(comparison: Comparison, field: Field, text: str) -> float:
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        _refuse(comparison, f"{field.name} is compared with {_IN_WORDS[field.type]}")


def _refuse(comparison: Comparison, message: str) -> NoReturn:
    raise unreadable("filter", "the filter cannot be used", message, comparison.position)


def _field(kind: type[Resource[Any, Any]], name: FieldName, parameter: str, position: int) -> Field:
    field = find_field(kind, name.group, name.key)
    if field is None:
        known = field_names(kind)
        message = f"a {kind.__name__} has no field {name}; {suggest(str(name), known)}"
        if not name.group and "metrics.NAME" in known:
            message += f" (a metric is written metrics.{name})"
        raise unreadable(parameter, "no such field", message, position)
    return field
