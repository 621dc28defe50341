"""An actor's function has done its work when it returns; what only looks like that is refused."""

import functools
import inspect
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest

from jobkit.actor_function import refuse_undone
from jobkit.context import Context
from jobkit.contracts import Job
from jobkit.errors import NothingRan
from jobkit.service import Service
from jobkit.settings import ServiceSettings


class Work(Job, queue="case"):
    number: int = 0


def plain(job: Work, context: Context[None]) -> None: ...


async def coroutine(job: Work, context: Context[None]) -> None: ...


def generator(job: Work, context: Context[None]) -> Iterator[int]:
    yield 1


async def async_generator(job: Work, context: Context[None]) -> AsyncIterator[int]:
    yield 1


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: object) -> object:
        return function(*arguments)

    return wrapper


class Wrapper:
    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.function = function

    def __call__(self, *arguments: object) -> object:
        return self.function(*arguments)


class AsyncCall:
    async def __call__(self, job: Work, context: Context[None]) -> None: ...

    async def method(self, job: Work, context: Context[None]) -> None: ...


class PlainCall:
    def __call__(self, job: Work, context: Context[None]) -> None: ...

    def method(self, job: Work, context: Context[None]) -> None: ...


def declare(function: Callable[..., Any]) -> None:
    service: Service[ServiceSettings, None] = Service("case", lifespan=lambda _settings: nullcontext())
    service.actor(Work)(function)


WOULD_NOT_RUN: dict[str, Any] = {
    "async": coroutine,
    "generator": generator,
    "async generator": async_generator,
    "decorated": timed(coroutine),
    "decorated twice": timed(timed(generator)),
    "partial": functools.partial(async_generator),
    "partial of decorated": functools.partial(timed(functools.partial(coroutine))),
    "cached": functools.lru_cache(coroutine),
    "wrapper object": Wrapper(coroutine),
    "async call": AsyncCall(),
    "async method": AsyncCall().method,
    "partial of async call": functools.partial(AsyncCall()),
    "class": AsyncCall,
    "nothing": None,
}


@pytest.mark.parametrize("function", WOULD_NOT_RUN.values(), ids=WOULD_NOT_RUN)
def test_a_function_that_would_not_run_is_refused_where_it_is_declared(function: Any) -> None:
    with pytest.raises(TypeError, match="work must be"):
        declare(function)


RUNS: dict[str, Any] = {
    "plain": plain,
    "decorated": timed(plain),
    "partial": functools.partial(plain),
    "cached": functools.lru_cache(plain),
    "wrapper object": Wrapper(plain),
    "call": PlainCall(),
    "method": PlainCall().method,
}


@pytest.mark.parametrize("function", RUNS.values(), ids=RUNS)
def test_wrapped_plain_functions_are_declared(function: Any) -> None:
    declare(function)


def a_coroutine() -> object:
    return coroutine(Work(), None)  # type: ignore[arg-type]  # it never runs


class Awaited:
    def __await__(self) -> Iterator[None]:
        yield


UNDONE: dict[str, Callable[[], object]] = {
    "a coroutine": a_coroutine,
    "map": lambda: map(print, [1]),
    "a generator": lambda: generator(Work(), None),  # type: ignore[arg-type]  # it never runs
    "an async generator": lambda: async_generator(Work(), None),  # type: ignore[arg-type]  # the same
    "what can be awaited": Awaited,
    "a future": Future,
    "a function": lambda: plain,
    "a partial": lambda: functools.partial(plain),
    "coroutines in a list": lambda: [a_coroutine(), a_coroutine()],
    "futures in a tuple": lambda: (Future(), Future()),
}


@pytest.mark.parametrize("make", UNDONE.values(), ids=UNDONE)
def test_a_result_that_would_do_the_work_fails_the_run(make: Callable[[], object]) -> None:
    with pytest.raises(NothingRan, match="its work has not been done"):
        refuse_undone("work", make())


@pytest.mark.parametrize("result", [None, 1, "text", [1, 2], {"a": "b"}, (), Work(), b"", {1}], ids=str)
def test_data_is_a_result(result: object) -> None:
    refuse_undone("work", result)


def test_a_future_that_is_done_is_not_taken_for_undone_work() -> None:
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(threading.get_ident)
    refuse_undone("work", future)


if sys.version_info >= (3, 12):  # Python 3.11 has no such mark

    def test_what_was_marked_as_a_coroutine_function_is_one() -> None:
        with pytest.raises(TypeError, match="async function"):
            declare(inspect.markcoroutinefunction(lambda job, context: a_coroutine()))
