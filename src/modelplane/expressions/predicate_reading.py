"""Reads the text of a predicate into terms, or says what is wrong with it and where.

Called by `predicates`. Pure. The library parses; names, types and functions are checked here,
because Envoy acknowledges a name it does not know and a comparison of two types, and then never
matches them. Allowed is what the library and Envoy both have, and nothing else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from cel.expr import checked_pb2
from cel_expr_python import cel
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError

from modelplane.expressions.cel import ExpressionFault, fault_at, library_faults
from modelplane.expressions.predicate_terms import (
    USER_HEADER,
    Constant,
    Datum,
    Operation,
    Term,
)
from modelplane.expressions.regular_expressions import find_regex_fault
from modelplane.resources.fields import suggest
from modelplane.resources.traffic_split import InputType

MAX_DEPTH = 10
"""Levels of operators in each other; a chain of ``&&`` or of ``||`` is one."""

_COMPARISONS = frozenset({"_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_"})
_ARITHMETIC = frozenset({"_+_", "_-_", "_*_", "_/_"})
_TEXT_FUNCTIONS = ("startsWith", "endsWith", "contains", "matches")
_FUNCTIONS = (*_TEXT_FUNCTIONS, "size")
_FUNCTION_FORMS = {name: f"user.region.{name}('west')" for name in _TEXT_FUNCTIONS}
_SYMBOLS = {"_%_": "%", "_?_:_": "? :", "_[_]": "[ ]", "@in": "in"}
_WORDS: dict[InputType | None, str] = {
    "number": "a number",
    "text": "text",
    "truth": "true or false",
    None: "of a type that is not known",
}
_REQUEST = ("method", "path", "host", "headers")
_USER_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_HEADER_NAME = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,100}")
_MAX_INPUT_NAME = 100
_HIDDEN = re.compile(
    r"x-modelplane-.*|x-envoy-.*|x-forwarded-.*|x-request-id|authorization|proxy-.*|host"
    r"|connection|keep-alive|te|trailer|transfer-encoding|upgrade|content-length|expect"
)
"""Headers that the gateway sets, changes or keeps to itself."""


class _Refused(Exception):
    def __init__(self, expr: Any, message: str, name: str = "") -> None:
        super().__init__(message)
        self.expr, self.message, self.name = expr, message, name


def read_predicate(
    text: str, inputs: Mapping[str, InputType]
) -> Term | tuple[ExpressionFault, ...]:
    """Return the term of type truth that `text` means, or its faults.

    Parameters
    ----------
    text
        CEL.
    inputs
        Types of the inputs by name; empty: any name, of the type that its use says.
    """
    try:
        packed = any_pb2.Any.FromString(_environment().compile(text).serialize())
        checked: Any = checked_pb2.CheckedExpr.FromString(packed.value)
    except DecodeError:
        return (ExpressionFault(1, 1, "is nested too deep"),)
    except Exception as error:  # RuntimeError, with the faults as text
        return _describe(str(error), text)
    reader = _Reader(inputs)
    try:
        term = reader.read(checked.expr, 1)
        return reader.must_be("truth", term, checked.expr)
    except _Refused as refused:
        place = checked.source_info.positions.get(_first(refused.expr).id, 0)
        return (fault_at(text, place, refused.message, refused.name),)


@lru_cache(maxsize=1)
def _environment() -> Any:
    return cel.NewEnv(variables=dict.fromkeys(("user", "request", "input"), cel.Type.DYN))


class _Reader:
    """Turns CEL's syntax tree into terms."""

    def __init__(self, inputs: Mapping[str, InputType]) -> None:
        self._inputs = inputs

    def read(self, expr: Any, depth: int) -> Term:
        """Return the term of `expr`, whose type may still be open."""
        if depth > MAX_DEPTH:
            raise _Refused(expr, f"is nested too deep: {MAX_DEPTH} levels are the most")
        match expr.WhichOneof("expr_kind"):
            case "const_expr":
                return _read_constant(expr)
            case "select_expr":
                return self._read_select(expr)
            case "call_expr":
                return self._read_call(expr, depth)
            case "ident_expr":
                name = expr.ident_expr.name
                raise _Refused(expr, f"{name} is not a value; write {_example(name)}")
            case "list_expr":
                raise _Refused(expr, "a list stands behind `in` only: user.region in ['west']")
            case "comprehension_expr":
                words = "all, exists, filter and map are not offered: gateways lack them"
                raise _Refused(expr, words)
            case _:
                raise _Refused(expr, "maps and messages are not offered")

    def must_be(self, wanted: InputType, term: Term, expr: Any) -> Term:
        """Return `term` as what it has to be."""
        if term.type is None and isinstance(term, Datum):
            return replace(term, type=wanted)
        if term.type != wanted:
            what = f"{term} is" if isinstance(term, Datum) else "this is"
            hint = "; compare it: `… == 'x'`" if wanted == "truth" else ""
            raise _Refused(expr, f"{what} {_WORDS[term.type]}, not {_WORDS[wanted]}{hint}")
        return term

    def _read_select(self, expr: Any) -> Term:
        select = expr.select_expr
        if select.test_only:
            words = "has() is not offered; what is missing never makes a predicate true"
            raise _Refused(expr, words)
        root = select.operand.WhichOneof("expr_kind") == "ident_expr"
        match select.operand.ident_expr.name if root else "":
            case "user":
                if not _USER_NAME.fullmatch(select.field):
                    words = "a user's attribute is of a-z, 0-9 and _, 40 at the most"
                    raise _Refused(expr, f"{words}, got {select.field[:60]!r}")
                return Datum("user", USER_HEADER + select.field.replace("_", "-"), "text")
            case "input":
                return self._read_input(expr, select.field)
            case "request":
                if select.field not in _REQUEST:
                    name = f"request.{select.field}"
                    known = [f"request.{each}" for each in _REQUEST]
                    raise _Refused(expr, f"unknown name {name!r}; {suggest(name, known)}", name)
                if select.field == "headers":
                    raise _Refused(expr, "request.headers is a map; write request.headers['name']")
                return Datum("request", select.field, "text")
            case _:
                raise _Refused(expr, f"there is no .{select.field[:60]} here; {_fields_hint(expr)}")

    def _read_input(self, expr: Any, name: str) -> Datum:
        if not self._inputs:
            if not 0 < len(name) <= _MAX_INPUT_NAME:
                raise _Refused(expr, f"an input's name has 1 to {_MAX_INPUT_NAME} characters")
            return Datum("input", name, None)
        if name not in self._inputs:
            words = f"the model has no input {name[:100]!r}; {suggest(name, self._inputs)}"
            raise _Refused(expr, words, f"input.{name}")
        return Datum("input", name, self._inputs[name])

    def _read_call(self, expr: Any, depth: int) -> Term:
        call = expr.call_expr
        function = call.function
        arguments = [*([call.target] if call.HasField("target") else []), *call.args]
        if function in {"_&&_", "_||_"}:
            parts = list(_chain(expr, function))
            return Operation(function, self._read_all("truth", parts, depth), "truth")
        if function == "!_":
            return Operation(function, self._read_all("truth", arguments, depth), "truth")
        if function in _COMPARISONS:
            return self._read_comparison(expr, arguments, depth)
        if function in _ARITHMETIC or function == "-_":
            return Operation(function, self._read_all("number", arguments, depth), "number")
        if function == "@in":
            return self._read_in(arguments, depth)
        if function == "_[_]":
            return self._read_index(expr, *arguments)
        if function == "size" and len(arguments) == 1:
            return Operation(function, self._read_all("text", arguments, depth), "number")
        if function in _TEXT_FUNCTIONS and len(arguments) == 2:
            terms = self._read_all("text", arguments, depth)
            if function == "matches":
                _check_regex(arguments[1], terms[1])
            return Operation(function, terms, "truth")
        name = _SYMBOLS.get(function, f"{function}()")
        raise _Refused(expr, f"{name} is not offered here; functions are {', '.join(_FUNCTIONS)}")

    def _read_all(self, wanted: InputType, exprs: list[Any], depth: int) -> tuple[Term, ...]:
        return tuple(self.must_be(wanted, self.read(each, depth + 1), each) for each in exprs)

    def _read_comparison(self, expr: Any, arguments: list[Any], depth: int) -> Term:
        function = expr.call_expr.function
        left, right = (self.read(each, depth + 1) for each in arguments)
        of_type = left.type or right.type
        if of_type is None:
            words = f"the types of {left} and {right} are not known; compare them with a constant"
            raise _Refused(expr, words)
        types = (left.type or of_type, right.type or of_type)
        if types[0] != types[1]:
            words = " and ".join(_WORDS[each] for each in types)
            raise _Refused(expr, f"{function.strip('_')!r} does not go with {words}")
        terms = self.must_be(of_type, left, expr), self.must_be(of_type, right, expr)
        if of_type == "truth" and function not in {"_==_", "_!=_"}:
            raise _Refused(expr, f"{function.strip('_')!r} does not go with true and false")
        return Operation(function, terms, "truth")

    def _read_in(self, arguments: list[Any], depth: int) -> Term:
        item, container = arguments
        if _is_headers(container):
            return Datum("presence", _header_name(item), "truth")
        if container.WhichOneof("expr_kind") != "list_expr" or not container.list_expr.elements:
            words = "behind `in` stands a list such as ['west', 'east'], or request.headers"
            raise _Refused(container, words)
        elements = container.list_expr.elements
        constants = [self.read(each, depth + 1) for each in elements]
        for each, constant in zip(elements, constants, strict=True):
            if not isinstance(constant, Constant):
                raise _Refused(each, "a list holds constants only")
            self.must_be(constants[0].type or "text", constant, each)
        of_type = constants[0].type or "text"
        term = self.must_be(of_type, self.read(item, depth + 1), item)
        return Operation("@in", (term, Operation("[]", tuple(constants), of_type)), "truth")

    def _read_index(self, expr: Any, operand: Any, key: Any) -> Term:
        if _is_headers(operand):
            return Datum("header", _header_name(key), "text")
        if operand.ident_expr.name == "input":
            name = self.read(key, 1)
            if isinstance(name, Constant) and isinstance(name.value, str):
                return self._read_input(expr, name.value)
        if operand.WhichOneof("expr_kind") == "select_expr":
            self.read(operand, 1)
        words = "brackets stand behind request.headers and input only, with a name in quotes"
        raise _Refused(expr, words)


def _read_constant(expr: Any) -> Constant:
    constant = expr.const_expr
    match constant.WhichOneof("constant_kind"):
        case "bool_value":
            return Constant(bool(constant.bool_value))
        case "int64_value":
            return Constant(float(constant.int64_value))
        case "double_value" if math.isfinite(constant.double_value):
            return Constant(float(constant.double_value))
        case "string_value":
            return Constant(str(constant.string_value))
        case "null_value":
            words = "null is not offered; what is missing or null never makes a predicate true"
            raise _Refused(expr, words)
        case _:
            raise _Refused(expr, "write a number, a text in quotes, true or false")


def _check_regex(expr: Any, term: Term) -> None:
    if not isinstance(term, Constant):
        raise _Refused(expr, "a regular expression is a text in quotes")
    fault = find_regex_fault(str(term.value))
    if fault:
        raise _Refused(expr, fault)


def _chain(expr: Any, function: str) -> Iterator[Any]:
    """Yield the parts of a chain of one operator."""
    if expr.call_expr.function != function:
        yield expr
        return
    for part in expr.call_expr.args:
        yield from _chain(part, function)


def _is_headers(expr: Any) -> bool:
    select = expr.select_expr
    root = select.operand.ident_expr.name
    return select.field == "headers" and root == "request" and not select.test_only


def _header_name(expr: Any) -> str:
    if expr.const_expr.WhichOneof("constant_kind") != "string_value":
        raise _Refused(expr, "a header's name is a text in quotes")
    name = str(expr.const_expr.string_value.lower())
    if not _HEADER_NAME.fullmatch(name):
        raise _Refused(expr, f"no header is named {name[:60]!r}")
    if _HIDDEN.fullmatch(name):
        hint = "; write request.host" if name == "host" else ""
        raise _Refused(expr, f"the gateway keeps the header {name!r} from predicates{hint}")
    return name


def _first(expr: Any) -> Any:
    """Return the part of an expression that begins it, for names; itself for the others."""
    while expr.WhichOneof("expr_kind") == "select_expr":
        expr = expr.select_expr.operand
    if expr.call_expr.function == "_[_]":
        return _first(expr.call_expr.args[0])
    return expr


def _example(name: str) -> str:
    return {"user": "user.region", "input": "input.amount"}.get(name, "request.method")


def _fields_hint(expr: Any) -> str:
    operand = expr.select_expr.operand
    if _is_headers(operand):
        return f"write request.headers['{expr.select_expr.field[:60]}']"
    return "names are user.NAME, input.NAME and request.NAME, without further dots"


def _describe(error: str, text: str) -> tuple[ExpressionFault, ...]:
    faults = []
    for fault in library_faults(error, text, {}):
        if not fault.name:
            faults.append(fault)
            continue
        short = fault.name[:60]
        if fault.name in _FUNCTIONS:
            words = f"{short} is written {_FUNCTION_FORMS.get(short, 'size(user.region)')}"
        elif re.search(rf"\b{re.escape(fault.name)}\s*\(", text):
            words = f"there is no function {short!r}; {suggest(short, _FUNCTIONS)}"
        else:
            words = f"unknown name {short!r}; names begin with user., input. or request."
        faults.append(replace(fault, message=words))
    return tuple(faults)
