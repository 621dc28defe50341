"""Jobs that several jobs and producers send under one key."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta

import dramatiq
import pytest

from jobkit.broker.memory import MemoryExchange
from jobkit.context import Context
from jobkit.contracts import Job
from jobkit.errors import PermanentError, TransientError
from jobkit.middleware import idempotency
from jobkit.producer import Producer, message_for
from jobkit.retry import fixed
from jobkit.service import Service
from jobkit.settings import PlatformSettings, ServiceSettings
from jobkit.store.memory import MemoryStore


class Order(Job, queue="shop"):
    """A job that sends others."""

    name: str


class Invoice(Job, queue="shop"):
    """What is sent."""

    number: int


class Shop:
    """A worker whose orders send invoices.

    Attributes:
        sends: What an order does.
        refuses: Whether invoices die.
        ran: The orders and invoices that ran.
    """

    def __init__(self) -> None:
        self.exchange, self.store = MemoryExchange(), MemoryStore()
        self.producer = Producer.over(self.exchange)
        self.sends: Callable[[Context[None]], object] = lambda _context: None
        self.refuses = False
        self.ran: list[str | int] = []
        service: Service[ServiceSettings, None] = Service("shop", lifespan=lambda _: contextlib.nullcontext())
        service.actor(Order, retry=fixed(0.005, attempts=3, retry_on=TransientError))(self._order)
        service.actor(Invoice)(self._invoice)
        self.broker = service.embed(self.exchange, self.store, PlatformSettings(environment="test"), ServiceSettings())
        self.worker = dramatiq.Worker(self.broker, worker_threads=2, worker_timeout=10)

    def _order(self, job: Order, context: Context[None]) -> None:
        self.ran.append(job.name)
        self.sends(context)

    def _invoice(self, job: Invoice, _context: Context[None]) -> None:
        self.ran.append(job.number)
        if self.refuses:
            raise PermanentError("no")

    def finish(self) -> None:
        """Wait until every job has ended, those that they sent among them."""
        ended = threading.Thread(target=self._join, daemon=True)
        ended.start()
        ended.join(20)
        assert not ended.is_alive(), self.ran

    def _join(self) -> None:
        self.broker.join("shop")
        self.worker.join()


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setattr(
        idempotency, "LONGEST_DEFERRAL", timedelta(milliseconds=10)
    )  # a copy may find the first one running
    built = Shop()
    built.worker.start()
    yield built
    built.worker.stop(timeout=5_000)


def test_two_jobs_and_a_producer_that_send_under_one_key_send_one_job(shop: Shop) -> None:
    shop.sends = lambda context: [context.send(Invoice(number=n), key=f"invoice/{n}") for n in (17, 18)]
    shop.producer.send(Order(name="placed"))
    shop.producer.send(Order(name="paid"))
    shop.producer.send(Invoice(number=17), key="invoice/17")
    shop.finish()
    assert sorted(shop.ran, key=str) == [17, 18, "paid", "placed"]


def test_a_run_that_is_repeated_leaves_a_job_dead_that_it_sent_by_key(shop: Shop) -> None:
    failures = [TransientError("after the invoice has died")]

    def send(context: Context[None]) -> None:
        context.send(Invoice(number=17), key="invoice/17")
        died.wait(10)
        if failures:
            raise failures.pop()

    died = _set_at_a_death(shop)
    shop.sends, shop.refuses = send, True
    shop.producer.send(Order(name="placed"))
    shop.finish()
    assert shop.ran == ["placed", 17, "placed"]


def test_a_job_starts_again_that_died_before_another_sends_it_by_key(shop: Shop) -> None:
    shop.sends = lambda context: context.send(Invoice(number=17), key="invoice/17")
    shop.refuses = True
    shop.producer.send(Order(name="placed"))
    shop.finish()
    shop.refuses = False
    # It was sent long before the other one, and runs only now.
    reminder = message_for(Order(name="reminder"))
    shop.exchange.send([reminder.copy(message_timestamp=reminder.message_timestamp - 3_600_000)])
    shop.finish()
    assert shop.ran == ["placed", 17, "reminder", 17]


def _set_at_a_death(shop: Shop) -> threading.Event:
    died, bury = threading.Event(), shop.store.bury

    def note(*args: object, **kwargs: object) -> bool:
        recorded = bury(*args, **kwargs)  # type: ignore[arg-type]  # passed on as they are
        died.set()
        return recorded

    shop.store.bury = note  # type: ignore[method-assign]  # the one that the worker uses
    return died
