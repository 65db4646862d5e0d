"""Signatures of the Open Inference Protocol compared: what would break who uses a model. Pure.

Called by the check `schema`. A new version must accept what the old one accepted (inputs may only
widen) and give what the old one gave (outputs may only narrow); new optional inputs and new
outputs break nobody. Inputs and outputs go by name, their order does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from modelplane.decisions.pacts import Interaction
from modelplane.errors import FieldError, InvalidResource

Side = Literal["inputs", "outputs"]
ANY_SIZE = -1

# Of each numeric datatype: its kind, and how many bits its numbers have without their sign. All
# whole numbers of so many bits are exact in a floating-point type of at least so many.
_NUMBERS: dict[str, tuple[str, int]] = {
    "UINT8": ("u", 8), "UINT16": ("u", 16), "UINT32": ("u", 32), "UINT64": ("u", 64),
    "INT8": ("i", 7), "INT16": ("i", 15), "INT32": ("i", 31), "INT64": ("i", 63),
    "FP16": ("f", 11), "BF16": ("f", 8), "FP32": ("f", 24), "FP64": ("f", 53),
}  # fmt: skip
DATATYPES = frozenset({"BOOL", "BYTES", *_NUMBERS})
_MAX_TENSORS = 10_000
_MAX_RANK = 32


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output.

    Attributes
    ----------
    name, datatype
        As the protocol has them; an empty datatype is any.
    shape
        Sizes, -1 for any; a column when it is not said, as model servers here take it.
    required
        Of an input: whether it must be sent.
    """

    name: str
    datatype: str = ""
    shape: tuple[int, ...] = (ANY_SIZE,)
    required: bool = True


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model takes and gives; without outputs it is not known what it gives."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...] = ()


@dataclass(frozen=True, slots=True)
class SchemaBreak:
    """One thing that breaks a user: where (``inputs.amount``), and what."""

    path: str
    message: str


def read_signature(data: Mapping[str, Any]) -> Signature:
    """Return the signature in a model's metadata or record: ``{inputs: […], outputs: […]}``.

    Raises
    ------
    InvalidResource
        It is none; with every fault and its path.
    """
    faults: list[FieldError] = []
    sides = {side: tuple(_read_side(data.get(side), side, faults)) for side in _SIDES}
    if not faults and not sides["inputs"]:
        faults.append(FieldError("inputs", "at least one is required"))
    if faults:
        raise InvalidResource("the signature is not valid", faults)
    return Signature(sides["inputs"], sides["outputs"])


_SIDES: tuple[Side, Side] = ("inputs", "outputs")


def _read_side(items: Any, side: Side, faults: list[FieldError]) -> Iterator[Tensor]:
    if items is None:
        return
    if not isinstance(items, list) or len(items) > _MAX_TENSORS:
        faults.append(FieldError(side, f"must be a list of at most {_MAX_TENSORS:,} tensors"))
        return
    seen: set[str] = set()
    for index, item in enumerate(items):
        fault = _tensor_fault(item)
        if fault:
            faults.append(FieldError(f"{side}[{index}]", fault))
        elif item["name"] in seen:
            faults.append(FieldError(f"{side}[{index}].name", f"{item['name']!r} stands twice"))
        else:
            seen.add(item["name"])
            yield _read_tensor(item)


def _tensor_fault(item: Any) -> str:
    if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
        return "must be an object with a name"
    if item.get("datatype") is not None and item["datatype"] not in DATATYPES:
        return f"has an unknown datatype {str(item['datatype'])[:40]!r}"
    shape = item.get("shape")
    if shape is not None and not _is_shape(shape):
        return f"has no shape {str(shape)[:40]!r}: a list of sizes, -1 for any"
    return ""


def _is_shape(shape: Any) -> bool:
    return (
        isinstance(shape, list)
        and 0 < len(shape) <= _MAX_RANK
        and all(type(size) is int and size >= ANY_SIZE for size in shape)
    )


def _read_tensor(item: Mapping[str, Any]) -> Tensor:
    return Tensor(
        item["name"],
        item.get("datatype") or "",
        tuple(item.get("shape") or (ANY_SIZE,)),
        required=item.get("required", True) is not False,
    )


# -- one signature against another ----------------------------------------------------------


def compare_signatures(before: Signature, after: Signature) -> tuple[SchemaBreak, ...]:
    """Return how `after` breaks those who were content with `before`; nothing: it does not.

    Examples
    --------
    >>> old = Signature((Tensor("amount", "FP32"),), (Tensor("score", "FP64"),))
    >>> compare_signatures(old, Signature((Tensor("amount", "FP64"),), (Tensor("risk", "FP64"),)))
    (SchemaBreak(path='outputs.score', message='is gone; there are: risk'),)
    """
    return (
        *_compare_inputs(before.inputs, after.inputs),
        *_compare_outputs(before.outputs, after.outputs),
    )


def _compare_inputs(before: Iterable[Tensor], after: Iterable[Tensor]) -> Iterator[SchemaBreak]:
    old, new = _by_name(before), _by_name(after)
    for name, was in old.items():
        path, now = f"inputs.{name}", new.get(name)
        if now is None:
            yield SchemaBreak(path, f"is not accepted any more; there are: {_names(new)}")
            continue
        if now.required and not was.required:
            yield SchemaBreak(path, "has become required")
        if not _holds(now.datatype, was.datatype):
            had = was.datatype or "of any type"
            yield SchemaBreak(path, f"was {had}, takes only {now.datatype} now")
        if not _takes_shape(now.shape, was.shape):
            yield SchemaBreak(path, f"was {_show(was.shape)}, takes only {_show(now.shape)} now")
    for name, now in new.items():
        if name not in old and now.required:
            yield SchemaBreak(f"inputs.{name}", "is new and required")


def _compare_outputs(before: Iterable[Tensor], after: Iterable[Tensor]) -> Iterator[SchemaBreak]:
    old, new = _by_name(before), _by_name(after)
    for name, was in old.items():
        path, now = f"outputs.{name}", new.get(name)
        if now is None:
            yield SchemaBreak(path, f"is gone; there are: {_names(new)}")
            continue
        if was.datatype and now.datatype != was.datatype:
            yield SchemaBreak(path, f"was {was.datatype}, is {now.datatype or 'of any type'} now")
        if not _within(now.shape, was.shape):
            yield SchemaBreak(path, f"was {_show(was.shape)}, is {_show(now.shape)} now")


def _holds(wide: str, narrow: str) -> bool:
    """Whether every value of datatype `narrow` is exact in `wide`."""
    if not wide or wide == narrow:
        return True
    if wide not in _NUMBERS or narrow not in _NUMBERS:
        return False
    (to, to_bits), (of, bits) = _NUMBERS[wide], _NUMBERS[narrow]
    if to == "u" and of != "u":
        return False
    if of == "f":
        # All bits of BF16's mantissa fit FP16, its range does not.
        return to == "f" and to_bits > bits and (wide, narrow) != ("FP16", "BF16")
    return to_bits >= bits


def _takes_shape(wide: tuple[int, ...], narrow: tuple[int, ...]) -> bool:
    """Whether an input of shape `wide` takes everything of shape `narrow`.

    A column may come as ``[n]`` and as ``[n, 1]``, as model servers here take it.
    """
    if len(wide) == 2 and len(narrow) == 1:
        narrow = (*narrow, 1)
    elif len(wide) == 1 and len(narrow) == 2 and narrow[1] == 1:
        narrow = narrow[:1]
    return _within(narrow, wide)


def _within(narrow: tuple[int, ...], wide: tuple[int, ...]) -> bool:
    """Whether every shape that `narrow` stands for is one that `wide` stands for."""
    return len(narrow) == len(wide) and all(
        w in {ANY_SIZE, n} for n, w in zip(narrow, wide, strict=True)
    )


# -- what consumers use ---------------------------------------------------------------------


def check_use(interaction: Interaction, signature: Signature) -> tuple[SchemaBreak, ...]:
    """Return what a consumer sends that is not accepted, and reads that is not given.

    As far as both are bodies of inference: names and datatypes, and the shapes that are sent. The
    datatype of an output counts unless the pact says that others match, too.
    """
    if not interaction.is_inference:
        return ()
    return (
        *_check_sent(interaction.request, signature.inputs),
        *_check_read(interaction, signature.outputs),
    )


def _check_sent(body: Any, inputs: tuple[Tensor, ...]) -> Iterator[SchemaBreak]:
    items = body.get("inputs") if isinstance(body, Mapping) else None
    if not isinstance(items, list):
        return
    sent = {item["name"]: _read_tensor(item) for item in items if not _tensor_fault(item)}
    known = _by_name(inputs)
    for name, tensor in sent.items():
        path, wanted = f"inputs.{name}", known.get(name)
        if wanted is None:
            yield SchemaBreak(path, f"is sent and not accepted; there are: {_names(known)}")
            continue
        if not _converts(tensor.datatype, wanted.datatype):
            yield SchemaBreak(path, f"is sent as {tensor.datatype}, must be {wanted.datatype}")
        if not _takes_shape(wanted.shape, tensor.shape):
            message = f"is sent {_show(tensor.shape)}, must be {_show(wanted.shape)}"
            yield SchemaBreak(path, message)
    if len(sent) == len(items):
        for name, wanted in known.items():
            if wanted.required and name not in sent:
                yield SchemaBreak(f"inputs.{name}", "is required and not sent")


def _converts(sent: str, wanted: str) -> bool:
    """Whether model servers here take datatype `sent` for `wanted` where the values fit."""
    if not sent or not wanted or sent == wanted:
        return True
    if sent not in _NUMBERS or wanted not in _NUMBERS:
        return False
    return _NUMBERS[wanted][0] == "f" or _NUMBERS[sent][0] != "f"


def _check_read(interaction: Interaction, outputs: tuple[Tensor, ...]) -> Iterator[SchemaBreak]:
    body = interaction.response
    items = body.get("outputs") if isinstance(body, Mapping) else None
    known = _by_name(outputs)
    if not isinstance(items, list) or not known:
        return
    for index, item in enumerate(items):
        if not isinstance(item, Mapping) or not isinstance(item.get("name"), str):
            continue
        name, datatype = item["name"], item.get("datatype")
        path, given = f"outputs.{name}", known.get(name)
        if given is None:
            yield SchemaBreak(path, f"is read and not given; there are: {_names(known)}")
        elif (
            isinstance(datatype, str)
            and datatype != given.datatype
            and not _is_loose(interaction.rules, ("outputs", str(index), "datatype"))
        ):
            is_ = given.datatype or "of any type"
            yield SchemaBreak(path, f"is read as {datatype}, is {is_}")


def _is_loose(rules: Mapping[str, frozenset[str]], field: tuple[str, ...]) -> bool:
    """Whether a rule at the field, or above it (they cascade), lets other values match."""
    return any(
        kinds - {"equality"} and _covers(_parts(path), field) for path, kinds in rules.items()
    )


def _parts(path: str) -> list[str]:
    """Return the steps of a path such as ``$.outputs[*]['datatype']``, without the root."""
    for mark in ("['", "']", "[", "]"):
        path = path.replace(mark, ".")
    return [part for part in path.removeprefix("$").split(".") if part]


def _covers(parts: list[str], field: tuple[str, ...]) -> bool:
    steps = zip(parts, field, strict=False)
    return len(parts) <= len(field) and all(part in {"*", name} for part, name in steps)


# -- what a model really gives --------------------------------------------------------------


def compare_served(declared: Signature, served: Signature) -> tuple[SchemaBreak, ...]:
    """Return how the signature that a server tells breaks who goes by the declared one.

    A server that does not know its outputs before a prediction says nothing of them.
    """
    if not served.outputs:
        served = Signature(served.inputs, declared.outputs)
    return compare_signatures(declared, served)


def compare_answer(declared: Signature, answer: Mapping[str, Any]) -> tuple[SchemaBreak, ...]:
    """Return how a real answer differs from the outputs that are declared."""
    items = answer.get("outputs")
    given = [i for i in items if not _tensor_fault(i)] if isinstance(items, list) else []
    return tuple(_compare_outputs(declared.outputs, [_read_tensor(item) for item in given]))


def _by_name(tensors: Iterable[Tensor]) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in tensors}


def _names(tensors: Mapping[str, Tensor]) -> str:
    shown = list(tensors)[:10]
    more = f" and {len(tensors) - 10} more" if len(tensors) > 10 else ""
    return (", ".join(shown) + more) or "none"


def _show(shape: tuple[int, ...]) -> str:
    return f"of shape {list(shape)}"
