"""What a template sees of a job's variables, and what of it may stand in a letter."""

import functools
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any, Final, NoReturn

from jinja2 import pass_context
from jinja2.runtime import Context, Undefined
from pydantic import JsonValue


class NotPrintable(Exception):
    """A template prints what nobody should read in a letter. No ``TypeError``: filters take that for a zero."""


class Null:
    """A variable that is null: false, equal to ``none``, and an error as soon as it becomes text.

    So it is found in every way to print it: joined, concatenated, formatted, in upper case, within a list.
    """

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, Null)

    def __hash__(self) -> int:
        return hash(None)

    def _refuse(self, *_: object) -> NoReturn:
        raise NotPrintable("a variable is null where it is shown: give it a value, or use the `default` filter")

    __str__ = __repr__ = __html__ = __format__ = __int__ = __float__ = _refuse


NULL: Final = Null()


class Method:
    """A method of a value, which may be called and not printed: ``order.items`` without its brackets."""

    def __init__(self, call: Callable[..., Any], name: str) -> None:
        self._call = call
        self._name = name

    def __call__(self, *args: object, **kwargs: object) -> Any:
        """Call the method. What returns nothing, such as ``order.get('gone')``, is null."""
        found = self._call(*args, **kwargs)
        return NULL if found is None else parts_of(found)

    def _refuse(self, *_: object) -> NoReturn:
        raise NotPrintable(f"{self._name!r} is not among the variables, and a method of its value is no text")

    __str__ = __repr__ = __html__ = __format__ = __bool__ = __eq__ = _refuse
    __hash__ = object.__hash__


class Parts(list[Any]):
    """What a filter or a method gives one by one: to be looped over or joined, and no text, even within one."""

    def _refuse(self, *_: object) -> NoReturn:
        raise NotPrintable("several values are printed as one, which is no text: join them, or make a list of them")

    __str__ = __repr__ = __html__ = __format__ = _refuse


def parts_of(value: Any) -> Any:
    """Return what a generator or the view of a mapping holds as ``Parts``, and anything else as it is."""
    return Parts(value) if isinstance(value, Iterator | KeysView | ValuesView | ItemsView) else value


def in_parts(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter of Jinja whose generators can be printed by no detour."""

    @functools.wraps(function)  # and what the filter wants to be given
    def whole(*args: object, **kwargs: object) -> Any:
        return parts_of(function(*args, **kwargs))

    return whole


@pass_context  # so that Jinja does not print what is constant on its own, while it compiles
def shown(_context: Context, value: object) -> object:
    """Return what a template prints, if a reader can make sense of it; Jinja's ``finalize``.

    Raises:
        NotPrintable: it is null, or it would read like ``<generator object …>``.
    """
    if value is None:
        return NULL._refuse()
    if isinstance(value, str | int | float | list | dict | tuple | Null | Method | Undefined) or hasattr(
        value, "__html__"
    ):
        return value
    raise NotPrintable(f"a {type(value).__name__} is printed, which is no text: call it, or join its parts")


def of_json(value: JsonValue) -> Any:
    """Return a value of JSON with every null as ``NULL``."""
    if value is None:
        return NULL
    if isinstance(value, dict):
        return {key: of_json(one) for key, one in value.items()}
    if isinstance(value, list):
        return [of_json(one) for one in value]
    return value


def bound(value: object, name: str) -> object:
    """Return an attribute of a variable: a method so that it cannot be printed."""
    return Method(value, name) if isinstance(value, BuiltinMethodType | MethodType | FunctionType) else value


def or_default(value: object, default_value: object = "", boolean: bool = False) -> object:
    """Return ``value``, or what stands in for one that is null or not given; with ``boolean`` for one that is false."""
    absent = value is None or isinstance(value, Null | Undefined) or (boolean and not value)
    return default_value if absent else value


def is_none(value: object) -> bool:
    """Jinja's test ``is none``."""
    return value is None or isinstance(value, Null)


def to_null(value: object) -> None:
    """Return what JSON calls null, for the ``tojson`` filter.

    Raises:
        TypeError: it is something else that JSON cannot express.
    """
    if not isinstance(value, Null):
        raise TypeError(f"a {type(value).__name__} is no value of JSON")
