"""Dramatiq's worker threads in this process, on real parts or in memory: stock, and as jobkit puts them together.

Both twins take the same jobs, which do what the test says, so that one scenario can be played to both.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import dramatiq
from dramatiq import Broker
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import Middleware

from jobkit.broker.memory import MemoryExchange
from jobkit.context import Context
from jobkit.contracts import Job
from jobkit.producer import Producer
from jobkit.retry import RetryPolicy, fixed
from jobkit.service import Service
from jobkit.settings import PlatformSettings, ServiceSettings
from jobkit.store.memory import MemoryStore

QUEUE = "work"
LEASE = 3.0  # seconds


class Work(Job, queue=QUEUE):
    """Do what the test says."""

    name: str


class Twin:
    """A broker with one actor, ``work``, that calls ``do`` with the job's name and writes down every run."""

    def __init__(self) -> None:
        self.do: Callable[[str], object] = lambda _name: None
        self.runs: list[str] = []
        self.ends: list[str] = []
        self.broker: Broker

    def _work(self, name: str) -> object:
        self.runs.append(name)
        result = self.do(name)
        self.ends.append(name)
        return result

    def send(self, name: str, *, job_id: str = "", delay: float = 0) -> str:
        """Send a job, to arrive after ``delay`` seconds, and return its id."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connections of both sides."""
        self.broker.close()

    @contextmanager
    def working(self, threads: int = 1) -> Iterator[dramatiq.Worker]:
        """Run worker threads meanwhile."""
        worker = dramatiq.Worker(self.broker, worker_threads=threads, worker_timeout=50)
        worker.start()
        try:
            yield worker
        finally:
            worker.stop(timeout=8_000)
            self.close()


class Stock(Twin):
    """Dramatiq as it comes, with confirms.

    Args:
        broker: RabbitMQ's address, or a broker that is there.
        middleware: What is added to Dramatiq's own.
        options: Of the actor.
    """

    def __init__(self, broker: str | Broker, *middleware: Middleware, **options: Any) -> None:
        super().__init__()
        if isinstance(broker, str):
            broker = RabbitmqBroker(url=broker, confirm_delivery=True)
        self.broker = broker
        for one in middleware:
            broker.add_middleware(one)
        options = {"queue_name": QUEUE, "min_backoff": 1, "max_backoff": 50, "max_retries": 2, **options}
        self.actor = dramatiq.actor(actor_name="work", broker=broker, **options)(self._work)

    def send(self, name: str, *, job_id: str = "", delay: float = 0) -> str:
        message = self.actor.message(name)
        message = message.copy(message_id=job_id or message.message_id)
        self.broker.enqueue(message, delay=int(delay * 1000) or None)
        return message.message_id


class Ours(Twin):
    """The same job in a service of jobkit's: on RabbitMQ and Redis if addresses are given, else in memory."""

    def __init__(
        self,
        broker_url: str = "",
        store_url: str = "",
        *middleware: Middleware,
        retry: RetryPolicy | None = None,
        time_limit: timedelta = timedelta(seconds=20),
        max_message_bytes: int = 1_048_576,
    ) -> None:
        super().__init__()
        service: Service[ServiceSettings, None] = Service(QUEUE, lifespan=lambda _settings: nullcontext())

        @service.actor(Work, retry=retry or fixed(0.05, attempts=3, jitter=0), time_limit=time_limit)
        def work(job: Work, _context: Context[None]) -> object:
            return self._work(job.name)

        settings = ServiceSettings()
        if broker_url:
            platform = PlatformSettings(
                environment="test",
                broker_url=broker_url,
                store_url=store_url,
                lease_seconds=LEASE,
                store_timeout_seconds=LEASE / 6,
                max_message_bytes=max_message_bytes,
            )
            self.broker, self.producer = service.build(platform, settings), Producer(broker_url)
        else:
            self.exchange, self.store = MemoryExchange(), MemoryStore()
            self.broker = service.embed(self.exchange, self.store, PlatformSettings(environment="test"), settings)
            self.producer = Producer.over(self.exchange)
        for one in middleware:
            self.broker.add_middleware(one)

    def send(self, name: str, *, job_id: str = "", delay: float = 0) -> str:
        return self.producer.send(Work(name=name), job_id=job_id or None, delay=timedelta(seconds=delay)).job_id

    def close(self) -> None:
        self.producer.close()
        super().close()


class Settled(Middleware):
    """Writes down which deliveries were acked and which were rejected, by the ids of their jobs."""

    def __init__(self) -> None:
        self.acked: list[str] = []
        self.rejected: list[str] = []

    def after_ack(self, broker: Broker, message: Any) -> None:  # Any: a proxy for a message
        self.acked.append(message.message_id)

    def after_nack(self, broker: Broker, message: Any) -> None:
        self.rejected.append(message.message_id)


def until(condition: Callable[[], object], what: str, limit: float = 20) -> None:
    """Return once the condition holds; fail after ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"within {limit:g} s it did not come about that {what}"
        time.sleep(0.005)
