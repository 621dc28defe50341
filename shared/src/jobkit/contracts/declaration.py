"""What a contract may not declare, because its jobs could not be sent or would arrive changed."""

import dataclasses
import sys
import typing
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel, Secret, SecretBytes, SecretStr

_SECRETS = (Secret, SecretBytes, SecretStr)

#: The worker calls a method with the payload as its keyword arguments, where ``self`` is taken.
_TAKEN_ARGUMENT = "self"


def refuse_taken_names(cls: type[BaseModel], base: type[BaseModel]) -> None:
    """Raise ``TypeError`` if ``cls`` gives a name that jobkit needs another meaning.

    Args:
        cls: The contract, while its class is being created.
        base: ``Job``.
    """
    of_the_contract = _annotated_names(base)
    of_pydantic = {name for name in dir(BaseModel) if name.startswith("model_")} - {"model_config"}
    for owner in cls.__mro__:
        if issubclass(base, owner) or (issubclass(owner, base) and owner is not cls):
            continue  # the names come from there, or it was checked when it was created
        annotated = _annotated_names(owner)
        taken = (annotated & of_pydantic) | ((annotated | vars(owner).keys()) & of_the_contract)
        if taken:
            raise TypeError(
                f"{cls.__name__}: {min(taken)!r} belongs to the contract itself, name the field differently"
            )


def refuse_fields_that_cannot_travel(cls: type[BaseModel]) -> None:
    """Raise ``TypeError`` for fields that never arrive as they were sent.

    A secret is written as asterisks, and its value would be stored and shown wherever the job is. An excluded field
    arrives as its default. ``self`` cannot be an argument of an actor.
    """
    for name, field in cls.model_fields.items():
        where = f"{cls.__name__}.{name}"
        if _TAKEN_ARGUMENT in {name, field.alias, field.serialization_alias}:
            raise TypeError(f"{where}: 'self' cannot be sent, name the field differently")
        if field.exclude:
            raise TypeError(f"{where}: an excluded field is not sent, and would arrive as its default")
        for found in _types_within(field.annotation, {}):
            if isinstance(found, type) and issubclass(found, _SECRETS):
                raise TypeError(
                    f"{where} holds a {found.__name__}: messages and job records are stored and shown. Keep the secret "
                    "where the worker reads it, and send its name"
                )
            excluded = [n for n, f in _fields_of(found).items() if f.exclude]
            if excluded:
                raise TypeError(f"{where}: {_name(found)}.{excluded[0]} is excluded, and would arrive as its default")


def _annotated_names(cls: type) -> set[str]:
    if sys.version_info >= (3, 14):  # annotations may name what is defined later: evaluate none
        import annotationlib

        return set(annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF))
    return set(vars(cls).get("__annotations__", ()))


def _types_within(annotation: object, seen: dict[int, object]) -> Iterator[object]:
    """Everything that a type is made of: its arguments, and the types of its own fields."""
    if id(annotation) in seen:
        return
    seen[id(annotation)] = annotation  # kept alive, or another could get its id
    yield annotation
    parts: list[object] = [get_origin(annotation), *get_args(annotation)]
    parts += [getattr(annotation, name, None) for name in ("__value__", "__supertype__", "__bound__")]
    parts += [field.annotation for field in _fields_of(annotation).values()]
    parts += _hints_of(annotation)
    for part in parts:
        if part is not None:
            yield from _types_within(part, seen)


def _fields_of(annotation: object) -> dict[str, Any]:  # Any: Pydantic's FieldInfo
    return annotation.model_fields if isinstance(annotation, type) and issubclass(annotation, BaseModel) else {}


def _hints_of(annotation: object) -> list[object]:
    """The types of the fields of a dataclass, a ``TypedDict`` or a ``NamedTuple``."""
    if not isinstance(annotation, type):
        return []
    marks = ("__required_keys__", "_fields")  # of a TypedDict, also of typing_extensions', and of a NamedTuple
    if not dataclasses.is_dataclass(annotation) and not any(hasattr(annotation, mark) for mark in marks):
        return []
    try:
        return list(typing.get_type_hints(annotation, include_extras=True).values())
    except Exception:  # a name that is not defined here; what is inside is compared when a job is sent
        return []


def _name(annotation: object) -> str:
    return getattr(annotation, "__name__", str(annotation))
