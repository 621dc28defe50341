"""A job's payload on the wire, which is the job itself: what cannot be read back is refused before it is sent."""

import functools
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, time
from enum import Enum
from itertools import chain
from typing import Any

from pydantic import BaseModel, ValidationError

from jobkit.contracts.declaration import refuse_fields_that_cannot_travel
from jobkit.contracts.job import Job

#: Ends the search for what differs in structures that hold themselves.
_MAX_DEPTH = 200

#: Kinds of fields, as pydantic's core names them, whose values may be equal and still differ: enums, where the field
#: does not ask for one alone, and times, whose comparison leaves out ``fold``.
_HIDING = frozenset({"any", "enum", "datetime", "time", "is-instance", "function-plain"})

#: Types of which equal values are the same.
_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})


class PayloadChanged(ValueError):
    """The job that arrives would not be the job that was sent; the text names the field."""


def payload_of(job: Job) -> dict[str, Any]:
    """Return the payload of a message that carries ``job``, as JSON holds it.

    The payload is read back as a worker reads it and compared with the job by value.

    Raises:
        PayloadChanged: A field would arrive changed or could not be read.
    """
    contract = type(job)
    _check_once(contract)
    for name in job.__dict__.keys() - contract.model_fields.keys():
        if not hasattr(contract, name):  # it is no cached property but a misspelt name, given to model_copy
            raise PayloadChanged(f"{contract.__name__} has no field {name!r}, so it cannot be sent")
    try:
        payload = _dump(job)
    except Exception as error:  # serializers are the contract's own code and raise what they like
        culprit = next((name for name in contract.model_fields if not _can_be_written(job, name)), "payload")
        raise PayloadChanged(f"{contract.__name__}.{culprit} cannot be sent: {_line(error)}") from error
    if not isinstance(payload, dict):
        raise PayloadChanged(f"{contract.__name__} is written as a {type(payload).__name__}, not as an object")
    if "self" in payload:  # in one that takes any field
        raise PayloadChanged(f"{contract.__name__}.self cannot be sent: an actor has no such argument")
    try:
        arrived = contract.model_validate(payload)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join([contract.__name__, *map(str, first["loc"])])
        raise PayloadChanged(f"{where} is written in a way that its worker cannot read: {first['msg']}") from None
    except Exception as error:  # the contract's own validators, the same
        raise PayloadChanged(f"{contract.__name__} cannot be read back: {_line(error)}") from error
    if not _equal(arrived, job):
        _compare(job, arrived)
    if _can_hide_differences(contract):
        _compare_closely(job, arrived)
    return payload


@functools.cache
def _check_once(contract: type[Job]) -> None:
    """Check what was not complete when its class was created."""
    refuse_fields_that_cannot_travel(contract)


def _dump(job: Job, *, include: set[str] | None = None) -> Any:  # Any: JSON
    return job.model_dump(mode="json", by_alias=True, round_trip=True, include=include, warnings=False)


def _can_be_written(job: Job, name: str) -> bool:
    try:
        _dump(job, include={name})
    except Exception:
        return False
    return True


def _compare(job: Job, arrived: Job) -> None:
    """Raise ``PayloadChanged`` if the two differ, with the place of the first difference."""
    if type(arrived) is not type(job):
        raise PayloadChanged(f"{type(job).__name__} would arrive as a {type(arrived).__name__}")
    sent, found = _content(job), _content(arrived)
    for name in sent | found:
        place = _difference(sent.get(name), found.get(name), name, 0)
        if place is not None:
            raise PayloadChanged(
                f"{type(job).__name__}.{place} would arrive changed: its validators, serializers or type do not give "
                "back what they wrote"
            )


def _compare_closely(job: Job, arrived: Job) -> None:
    """Raise ``PayloadChanged`` if a value would arrive as another one that is equal to it."""
    sent, found = _content(job), _content(arrived)
    for name, value in sent.items():
        place = _hidden_difference(value, found.get(name), name, 0)
        if place is not None:
            raise PayloadChanged(
                f"{type(job).__name__}.{place} would arrive changed: JSON holds the value of an enum, not its class, "
                "and no fold of a time without a zone. Give the field the type of the enum, or the time a zone"
            )


def _content(model: BaseModel) -> dict[str, object]:
    """All that makes up a model: its fields, what it holds beyond them and its private attributes."""
    declared = {name: model.__dict__.get(name) for name in type(model).model_fields}
    return {**declared, **(model.__pydantic_extra__ or {}), **(model.__pydantic_private__ or {})}


def _difference(sent: object, arrived: object, place: str, depth: int) -> str | None:
    """Return the place of the first difference by value, None if there is none."""
    if sent is arrived or depth > _MAX_DEPTH or _equal(sent, arrived):
        return None
    parts = _parts(sent, arrived)
    if parts is None:
        return place
    for name, one, other in parts:
        found = _difference(one, other, f"{place}.{name}", depth + 1)
        if found is not None:
            return found
    return None


def _parts(sent: object, arrived: object) -> list[tuple[object, object, object]] | None:
    """Return the parts of two values to compare one by one; None if the values themselves differ."""
    if type(sent) is not type(arrived):
        return None
    if isinstance(sent, BaseModel) and isinstance(arrived, BaseModel):
        one, other = _content(sent), _content(arrived)
        return [(key, one[key], other[key]) for key in one] if one.keys() == other.keys() else None
    if is_dataclass(sent):
        names = [field.name for field in fields(sent)]
        return [(name, getattr(sent, name, None), getattr(arrived, name, None)) for name in names]
    if isinstance(sent, Mapping) and isinstance(arrived, Mapping):
        if len(sent) != len(arrived):
            return None
        keys = [(key, key, other) for key, other in zip(sent, arrived, strict=True)]
        return keys + [(key, sent[key], arrived[other]) for key, _key, other in keys]
    if isinstance(sent, Sequence) and isinstance(arrived, Sequence) and not isinstance(sent, str | bytes | bytearray):
        if len(sent) != len(arrived):
            return None
        return [(number, sent[number], arrived[number]) for number in range(len(sent))]
    if isinstance(sent, Set) and isinstance(arrived, Set):
        return _pairs_of_sets(sent, arrived)
    return None


def _pairs_of_sets(sent: Set[object], arrived: Set[object]) -> list[tuple[object, object, object]] | None:
    left = list(arrived)
    pairs: list[tuple[object, object, object]] = []
    for one in sent:
        match = next((n for n, other in enumerate(left) if _difference(one, other, "", 0) is None), None)
        if match is None:
            return None
        pairs.append(("", one, left.pop(match)))
    return None if left else pairs


def _equal(one: object, other: object) -> bool:
    """Whether two values are the same: a NaN is a NaN, and a moment is itself in every zone."""
    try:
        if one == other:
            return True
        if isinstance(one, datetime) and isinstance(other, datetime):
            # In the hour that a zone repeats, Python calls a moment unequal to itself in other zones (PEP 495).
            both_aware = one.tzinfo is not None and other.tzinfo is not None
            return both_aware and one.astimezone(UTC) == other.astimezone(UTC)
        return type(one) is type(other) and bool(one != one and other != other)
    except Exception:  # a comparison of the contract's own, or of a signalling NaN
        return type(one) is type(other) and str(one) == str(other)


@functools.cache
def _can_hide_differences(contract: type[Job]) -> bool:
    """Whether the contract has a field of a type whose values may be equal and still differ."""
    waiting: list[object] = [contract.__pydantic_core_schema__]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            kind = part.get("type")  # a mapping of a model's fields may have one of that name
            if isinstance(kind, str) and kind in _HIDING:
                return True
            waiting.extend(part.values())
        elif isinstance(part, list | tuple):
            waiting.extend(part)
    return False


def _hidden_difference(sent: object, arrived: object, place: str, depth: int) -> str | None:
    """Return the place of the first value that arrives as another one that Python calls equal to it."""
    if (type(sent) in _PLAIN and type(arrived) in _PLAIN) or sent is arrived or depth > _MAX_DEPTH:
        return None
    if _seem_equal(sent, arrived):
        return place
    parts: Iterable[tuple[object, object, object]] | None
    if type(sent) is dict and type(arrived) is dict:  # these two make up most payloads
        keys = ((key, key, other) for key, other in zip(sent, arrived, strict=False))
        parts = chain(keys, ((key, value, arrived.get(key)) for key, value in sent.items()))
    elif type(sent) is list and type(arrived) is list:
        parts = ((number, *pair) for number, pair in enumerate(zip(sent, arrived, strict=False)))
    elif isinstance(sent, Set) and isinstance(arrived, Set):
        found: dict[object, object] = {value: value for value in arrived}
        parts = [("", value, found.get(value, value)) for value in sent]
    else:
        parts = _parts(sent, arrived)
    for name, one, other in parts or ():
        if type(one) in _PLAIN and type(other) in _PLAIN:
            continue
        hidden = _hidden_difference(one, other, f"{place}.{name}" if name != "" else place, depth + 1)
        if hidden is not None:
            return hidden
    return None


def _seem_equal(one: object, other: object) -> bool:
    """Whether two values differ although Python calls them equal."""
    if isinstance(one, Enum) or isinstance(other, Enum):  # a StrEnum equals its text, and an IntEnum its number
        return type(one) is not type(other)
    if isinstance(one, datetime) and isinstance(other, datetime) and one.tzinfo is None:
        return one.fold != other.fold  # the first or the second of an hour that is repeated (PEP 495)
    return isinstance(one, time) and isinstance(other, time) and one.fold != other.fold


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
