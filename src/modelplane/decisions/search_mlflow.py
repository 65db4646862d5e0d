"""Filters and orders as MLflow's registry takes them: its names, its messages.

Called by the MLflow-compatible routes through `search`. What is accepted, and what is said of
the rest, follows MLflow 3.17 (``SearchModelVersionUtils``, ``SearchModelUtils`` and its SQL
store): comparisons side by side are joined, prompts are left out unless they are asked for.
Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from modelplane.decisions.search_fields import created_at, updated_at
from modelplane.decisions.search_grammar import (
    SYMBOLS,
    Comparison,
    FieldName,
    Value,
    Word,
    strip_quotes,
)
from modelplane.decisions.search_matching import (
    AnyResource,
    Filter,
    Predicate,
    Reader,
    compile_value,
    conjunction,
)
from modelplane.decisions.search_mlflow_clauses import (
    Clause,
    MlflowFilterError,
    read_words,
    split_clauses,
)
from modelplane.decisions.search_ordering import Order, OrderTerm

MlflowEntity = Literal["model", "version"]
"""A registered model or a model version."""

PROMPT_TAG = "mlflow.prompt.is_prompt"
_ENTITY_TYPES = ("attribute", "tag", "tags")
_STRING_COMPARATORS = frozenset({"=", "!=", "LIKE", "ILIKE", "IN", "NOT IN"})
_TAG_COMPARATORS = frozenset({"=", "!=", "LIKE", "ILIKE"})


def milliseconds(seconds: float | None) -> int | None:
    """Return a time in MLflow's unit."""
    return None if seconds is None else int(seconds * 1000)


def _made(resource: Any, _: object) -> int | None:
    time = created_at(resource)
    return milliseconds(time.timestamp() if time else None)


def _changed(resource: Any, _: object) -> int | None:
    time = updated_at(resource)
    return milliseconds(time.timestamp() if time else None)


def _run_id(version: Any, _: object) -> str:
    """Return the run's id, empty where there is none: to MLflow that is a value like another."""
    run_id: str = version.spec.training.run_id
    return "" if run_id == "unknown" else run_id


@dataclass(frozen=True, slots=True)
class _Names:
    """What one entity can be searched and ordered by."""

    attributes: Mapping[str, Reader]
    lists: frozenset[str]
    orders: Mapping[str, Reader]
    ties: tuple[tuple[str, bool], ...]
    default: tuple[str, ...] = ()
    numbers: frozenset[str] = frozenset()


_NAMES: dict[MlflowEntity, _Names] = {
    "model": _Names(
        attributes={"name": lambda m, _: m.metadata.name},
        lists=frozenset({"name"}),
        orders={
            "name": lambda m, _: m.metadata.name,
            "timestamp": _changed,
            "last_updated_timestamp": _changed,
        },
        ties=(("name", False),),
    ),
    "version": _Names(
        attributes={
            "name": lambda v, _: v.spec.model,
            "run_id": _run_id,
            "source_path": lambda v, _: v.spec.source,
            "version_number": lambda v, _: v.spec.number,
        },
        lists=frozenset({"name", "run_id"}),
        orders={
            "name": lambda v, _: v.spec.model,
            "version_number": lambda v, _: v.spec.number,
            "creation_timestamp": _made,
            "last_updated_timestamp": _changed,
        },
        ties=(("name", False), ("version_number", True)),
        default=("last_updated_timestamp DESC",),
        numbers=frozenset({"version_number"}),
    ),
}
_NUMERIC = ("creation_timestamp", "last_updated_timestamp", "version_number")


def compile_mlflow_filter(text: str | None, entity: MlflowEntity) -> Filter:
    """Return the filter that MLflow's search of `entity` makes of `text`.

    Tombstones never match; prompts only when the filter asks for them.

    Raises
    ------
    MlflowFilterError
        MLflow refuses it.
    """
    comparisons = [_read(clause, entity) for clause in split_clauses(text or "")]
    comparisons = [_check(comparison, entity) for comparison in comparisons]
    predicates: list[Predicate] = [_is_alive if entity == "version" else _any]
    if not _asks_for_prompts(comparisons):
        comparisons = [c for c in comparisons if not _is_prompt_tag(c)]
        predicates.append(_is_no_prompt)
    predicates += [_compile(comparison, entity) for comparison in comparisons]
    return conjunction(comparisons, predicates)


def compile_mlflow_order(order_by: Sequence[str] | None, entity: MlflowEntity) -> Order:
    """Return the order that MLflow's search of `entity` makes of its ``order_by``.

    Raises
    ------
    MlflowFilterError
        MLflow refuses it.
    """
    names = _NAMES[entity]
    terms: list[OrderTerm] = []
    for clause in order_by or names.default:
        key, descending = _read_order(clause, entity)
        key = "last_updated_timestamp" if key == "timestamp" else key
        if any(term.name == key for term in terms):
            raise MlflowFilterError(f"`order_by` contains duplicate fields: {list(order_by or ())}")
        terms.append(OrderTerm(key, names.orders[key], descending=descending))
    named = {term.name for term in terms}
    terms += [
        OrderTerm(key, names.orders[key], descending=descending)
        for key, descending in names.ties
        if key not in named
    ]
    return Order((*terms, OrderTerm("place", lambda r, _: r.metadata.name)))


# -- reading a filter ---------------------------------------------------------------------------


def _read(clause: Clause, entity: MlflowEntity) -> Comparison:
    """Return a comparison whose field exists and whose value is of a type that MLflow takes."""
    if not clause.right:
        raise MlflowFilterError("Invalid comparison clause. Expected 3 tokens found 2")
    if clause.left.kind != "name":
        raise MlflowFilterError(
            f"Invalid comparison clause. Expected 'Identifier' found '{clause.left.text}'"
        )
    name = _read_field(clause.left.text, entity)
    read = _read_tag_value if name.group else _read_attribute_value
    value = read(name.key, clause, entity)
    return Comparison(name, clause.comparator, value, clause.left.position)


def _read_field(text: str, entity: MlflowEntity) -> FieldName:
    group, dot, key = text.partition(".")
    if not dot:
        group, key = "attribute", text
    elif group not in _ENTITY_TYPES:
        raise MlflowFilterError(
            f"Invalid entity type '{group}'. Valid entity types are {_ENTITY_TYPES}"
        )
    known = _NAMES[entity].attributes
    if group == "attribute" and key not in known:
        raise MlflowFilterError(
            f"Invalid attribute key '{key}' specified. Valid keys are '{_as_set(known)}'"
        )
    return FieldName("" if group == "attribute" else "tags", strip_quotes(key))


def _read_tag_value(_key: str, clause: Clause, _entity: MlflowEntity) -> Value:
    text = _text_of(clause.right)
    if text is None:
        raise MlflowFilterError(
            f"Expected a quoted string value for tag (e.g. 'my-value'). Got value {clause.written}"
        )
    return text


def _read_attribute_value(key: str, clause: Clause, entity: MlflowEntity) -> Value:
    names, words = _NAMES[entity], clause.right
    text = _text_of(words)
    if text is not None:
        return text
    if words[0].text == "(":
        if key not in names.lists:
            raise MlflowFilterError(
                f"Only {sorted(names.lists)} attributes support comparison with a list of "
                "quoted string values."
            )
        return _read_list(words[1:-1])
    if words[0].kind == "number" and entity == "version":
        if key not in names.numbers:
            raise MlflowFilterError(
                f"Only the '{_as_set(_NUMERIC)}' attributes support comparison with numeric values."
            )
        number = words[0].text
        return number if set(number).isdisjoint(".eE") else float(number)
    raise MlflowFilterError(
        "Expected a quoted string value or a list of quoted string values for attributes. "
        f"Got value {clause.written}"
    )


def _text_of(words: Sequence[Word]) -> str | None:
    """Return a quoted text; None when there is something else."""
    word = words[0]
    if len(words) > 1 or word.kind not in {"text", "name"} or word.keyword == "NULL":
        return None
    if word.kind == "text" or word.is_quoted:
        return word.text[1:-1]
    raise MlflowFilterError(
        "Parameter value is either not quoted or unidentified quote types used for string value "
        f"{word.text}. Use either single or double quotes."
    )


def _read_list(words: Sequence[Word]) -> tuple[str, ...]:
    items, commas = words[::2], words[1::2]
    start = "While parsing a list in the query, expected "
    if not words:
        raise MlflowFilterError(f"{start}a non-empty list of string values, but got empty list")
    is_list = all(w.text == "," for w in commas) and all(w.kind != "symbol" for w in items)
    if not is_list or not all(w.kind in {"text", "number"} or w.is_quoted for w in items):
        raise MlflowFilterError(
            f"{start}a non-empty list of string values, but got ill-formed list."
        )
    if any(w.kind == "number" for w in items):
        shown = ", ".join(w.text for w in items) + ("," if len(items) == 1 else "")
        raise MlflowFilterError(
            f"{start}string value, punctuation, or whitespace, but got different type in list: "
            f"({shown})"
        )
    return tuple(w.text[1:-1] for w in items)


def _whole(key: str, value: Value) -> int:
    if isinstance(value, str) and len(value) < 40:
        try:
            return int(value)
        except ValueError:
            pass
    raise MlflowFilterError(f"Invalid value for numeric attribute '{key}': {value!r}")


def _check(comparison: Comparison, entity: MlflowEntity) -> Comparison:
    """Return a comparison that fits its field."""
    name, comparator = comparison.name, comparison.comparator
    if name.group:
        if comparator not in _TAG_COMPARATORS:
            raise MlflowFilterError(f"Invalid comparator for tag: {comparator}")
        return comparison
    if name.key in _NAMES[entity].numbers:
        if comparator not in SYMBOLS:
            raise MlflowFilterError(f"Invalid comparator for attribute {name.key}: {comparator}")
        return replace(comparison, value=_whole(name.key, comparison.value))
    is_list = isinstance(comparison.value, tuple)
    if comparator not in _STRING_COMPARATORS or is_list != (comparator in {"IN", "NOT IN"}):
        raise MlflowFilterError(f"Invalid comparator for attribute: {comparator}")
    return comparison


# -- matching -----------------------------------------------------------------------------------


def _compile(comparison: Comparison, entity: MlflowEntity) -> Predicate:
    key = comparison.name.key
    read = _tag_reader(key) if comparison.name.group else _NAMES[entity].attributes[key]
    return compile_value(read, comparison.comparator, comparison.value)


def _tag_reader(key: str) -> Reader:
    return lambda resource, _: resource.status.tags.get(key)


def _any(_resource: AnyResource, _index: object) -> bool:
    return True


def _is_alive(version: Any, _: object) -> bool:
    return bool(version.status.deleted_at is None)


def _is_no_prompt(resource: Any, _: object) -> bool:
    return bool(resource.status.tags.get(PROMPT_TAG) != "true")


def _is_prompt_tag(comparison: Comparison) -> bool:
    return comparison.name == FieldName("tags", PROMPT_TAG)


def _asks_for_prompts(comparisons: Sequence[Comparison]) -> bool:
    first = next(filter(_is_prompt_tag, comparisons), None)
    if first is None:
        return False
    return (first.comparator, str(first.value).lower()) in {("=", "true"), ("!=", "false")}


# -- orders -------------------------------------------------------------------------------------


def _read_order(clause: str, entity: MlflowEntity) -> tuple[str, bool]:
    """Return the key that a clause orders by, and whether backwards."""
    unparsed = MlflowFilterError(f"Invalid order_by clause '{clause[:200]}'. Could not be parsed.")
    words = read_words(clause, unparsed.message)
    if not 1 <= len(words) <= 2 or any(w.kind != "name" for w in words) or words[0].keyword:
        raise unparsed
    if len(words) == 2 and words[1].keyword not in {"ASC", "DESC"}:
        raise MlflowFilterError(f"Invalid ordering key in order_by clause '{clause}'.")
    descending = len(words) == 2 and words[1].keyword == "DESC"
    text = words[0].text
    if entity == "model" and len(words) == 1:
        return _find_model_order(text), descending  # MLflow leaves the quotes of a lone key
    text = text.replace("`", "").replace('"', "")
    find = _find_model_order if entity == "model" else _find_version_order
    return find(text), descending


def _find_model_order(key: str) -> str:
    if key not in _NAMES["model"].orders:
        raise MlflowFilterError(
            f"Invalid order by key '{key}' specified. Valid keys are "
            f"'{_as_set(('name', 'timestamp'))}'"
        )
    return key


def _find_version_order(text: str) -> str:
    known = _NAMES["version"].orders
    group, dot, key = text.partition(".")
    if not dot:
        group, key = "attribute", group
    if group not in _ENTITY_TYPES:
        raise MlflowFilterError(
            f"Invalid entity type '{group}'. Valid entity types are {_ENTITY_TYPES}"
        )
    if key not in known:
        what = "attribute key" if group == "attribute" else "order by key"
        shown = f"'{_as_set(known)}'" if group == "attribute" else _as_set(known)
        raise MlflowFilterError(f"Invalid {what} '{key}' specified. Valid keys are {shown}")
    return key


def _as_set(names: Mapping[str, Any] | Sequence[str]) -> str:
    return "{" + ", ".join(repr(name) for name in sorted(names)) + "}"
