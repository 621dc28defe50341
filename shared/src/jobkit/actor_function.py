"""What an actor's function must be: one that has done its work when it returns."""

import concurrent.futures
import functools
import inspect
import types
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

from jobkit.errors import NothingRan

#: Layers of wrappers that are looked through; one that wraps itself ends there.
_MOST_WRAPPERS: Final = 100

_FUNCTIONS: Final = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial)


def refuse_what_does_not_run(name: str, function: Callable[..., object]) -> None:
    """Raise ``TypeError`` if calling the function would not do its work.

    Wrappers, partials, methods and objects with ``__call__`` are looked through.
    """
    inner: Any = function  # Any: whatever a wrapper wraps
    if not callable(inner) or isinstance(inner, type):
        raise TypeError(f"{name} must be a function, not {function!r}")
    for _ in range(_MOST_WRAPPERS):
        kind = _kind(inner)
        if kind:
            raise TypeError(
                f"{name} must be a plain function: calling {'it' if inner is function else 'what it wraps'}, {kind}, "
                "would not run it. A wrapper that runs it, as with asyncio.run, must not set __wrapped__ (leave out "
                "functools.wraps)"
            )
        wrapped = _wrapped(inner)
        if wrapped is None:
            return
        inner = wrapped


def refuse_undone(name: str, result: object) -> None:
    """Raise ``NothingRan`` if a function has returned what would do the work, and not a result."""
    if result is None:
        return
    kind = _undone(result)
    if not kind and isinstance(result, list | tuple | set | frozenset):
        kind = next((f"a {type(result).__name__} with {k}" for k in map(_undone, result) if k), "")
    if not kind:
        return
    _close(result)
    raise NothingRan(
        f"{name} returned {kind}, so its work has not been done: do it before returning, with asyncio.run() or list()"
    )


def _kind(function: object) -> str:
    if inspect.iscoroutinefunction(function):
        return "an async function"
    if inspect.isasyncgenfunction(function):
        return "an async generator"
    if inspect.isgeneratorfunction(function):
        return "a generator"
    return ""


def _wrapped(function: Any) -> object:
    """Return what a wrapper wraps, None for a plain function."""
    if isinstance(function, functools.partial | functools.partialmethod):
        return function.func
    if isinstance(function, types.MethodType | staticmethod | classmethod):
        return function.__func__
    inner = getattr(function, "__wrapped__", None)
    if inner is not None:
        found: object = inner
        return found
    if not isinstance(function, _FUNCTIONS):
        return inspect.getattr_static(type(function), "__call__", None)
    return None


def _undone(result: object) -> str:
    if inspect.isawaitable(result):
        return "an awaitable"
    if isinstance(result, AsyncIterator):
        return "an async iterator"
    if isinstance(result, Iterator):
        return f"an iterator ({type(result).__name__})"
    if isinstance(result, concurrent.futures.Future) and not result.done():
        return "a future that is not done"
    if isinstance(result, _FUNCTIONS):
        return "a function"
    return ""


def _close(result: object) -> None:
    """Close coroutines, which else complain that nobody has awaited them."""
    for one in result if isinstance(result, list | tuple | set | frozenset) else [result]:
        if inspect.iscoroutine(one):
            one.close()
