"""Traps 18 and 19: what happens when a module with actors is imported, and actors that are coroutines."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import nullcontext

import dramatiq
import dramatiq.broker
import pytest
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AsyncIO
from in_process import Work, until

from jobkit.context import Context
from jobkit.service import Service
from jobkit.settings import ServiceSettings

Plain = Service[ServiceSettings, None]


@pytest.fixture
def no_broker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No broker has been chosen in this process, and none is afterwards."""
    monkeypatch.setattr(dramatiq.broker, "global_broker", None)
    yield
    monkeypatch.undo()


@pytest.fixture
def service() -> Plain:
    return Service("work", lifespan=lambda _settings: nullcontext())


def test_stock_makes_a_broker_of_its_own_when_an_actor_is_declared_before_one_is_set(no_broker: None) -> None:
    dramatiq.actor(actor_name="early")(lambda: None)
    assert dramatiq.broker.global_broker is not None


def test_stock_refuses_an_option_whose_middleware_is_added_after_the_declaration() -> None:
    with pytest.raises(ValueError, match="time_limit"):
        dramatiq.actor(actor_name="early", broker=StubBroker(middleware=[]), time_limit=1000)(lambda: None)


def test_a_declaration_needs_no_broker_and_makes_none(no_broker: None, service: Plain) -> None:
    @service.actor(Work)
    def work(_job: Work, _context: Context[None]) -> None: ...

    assert dramatiq.broker.global_broker is None
    assert list(service.actors) == ["work"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_stock_gives_each_coroutine_a_thread_for_as_long_as_it_waits() -> None:
    broker = StubBroker()
    broker.add_middleware(AsyncIO())
    started: list[str] = []
    free = threading.Event()

    @dramatiq.actor(broker=broker)
    async def wait(name: str) -> None:
        started.append(name)
        while not free.is_set():
            await asyncio.sleep(0.005)

    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=20)
    worker.start()
    try:
        wait.send("first")
        wait.send("second")
        until(lambda: started == ["first"] and worker.work_queue.qsize() == 1, "the second waits for the thread")
        free.set()
        until(lambda: started == ["first", "second"], "the second gets the thread of the first")
    finally:
        free.set()
        worker.stop(timeout=5_000)


@pytest.mark.parametrize("kind", ["async", "generator"])
def test_a_function_that_would_not_run_when_called_cannot_be_an_actor(kind: str, service: Plain) -> None:
    async def in_a_loop(_job: Work, _context: Context[None]) -> None: ...

    def bit_by_bit(_job: Work, _context: Context[None]) -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="work must be a plain function"):
        service.actor(Work)(in_a_loop if kind == "async" else bit_by_bit)
