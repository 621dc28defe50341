"""The queue of the simulation does what RabbitMQ does: both pass these tests. The job store has its own contract."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Protocol

import pika
import pytest
from dramatiq import Message
from simulated_queue import Broker, Connection

from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.declarations import declare
from jobkit.broker.sender import Sender

DELAY = 1_000


class Consumer(Protocol):
    """One connection to the queue."""

    def take(self) -> str | None:
        """Take a message, and return its id; None if there is none."""

    def settle(self, name: str, *, ack: bool) -> None:
        """Ack what was taken, or put it back. A connection that is gone can do neither, which is no error."""

    def lose(self) -> None:
        """Break the connection."""


class Queue(Protocol):
    """What is tried."""

    def send(self, name: str, delay: int = 0) -> None:
        """Return once it is confirmed; ``delay`` in milliseconds."""

    def connect(self) -> Consumer:
        """Open a connection."""

    def pass_time(self, seconds: float) -> None:
        """Return after that time."""


def message(name: str) -> Message[Any]:
    return Message("work", "work", (), {}, {}, name, 1)


class Simulated:
    """The queue of the simulation."""

    def __init__(self) -> None:
        self.now = 0.0
        self.broker = Broker(lambda: self.now)

    def send(self, name: str, delay: int = 0) -> None:
        self.broker.enqueue(message(name), delay=delay)

    def connect(self) -> Consumer:
        return SimulatedConsumer(self.broker)

    def pass_time(self, seconds: float) -> None:
        self.now += seconds


class SimulatedConsumer:
    """A connection to it."""

    def __init__(self, broker: Broker) -> None:
        self._broker, self._connection = broker, Connection()
        self._taken: dict[str, Message[Any]] = {}

    def take(self) -> str | None:
        if self._broker.ready() is None:
            return None
        taken = self._broker.take(self._connection).message
        self._taken[taken.message_id] = taken
        return taken.message_id

    def settle(self, name: str, *, ack: bool) -> None:
        self._broker.settle(self._connection, self._taken.pop(name), ack=ack)

    def lose(self) -> None:
        self._broker.lose(self._connection)


class Real:
    """A queue of RabbitMQ, with the project's own topology and sender."""

    def __init__(self, url: str) -> None:
        self._url = url
        settings = ConnectionSettings([url])
        with settings.open() as connection:
            declare(connection, ["work"])
        self._consumers: list[RealConsumer] = []
        self._sender = Sender(settings, app_id="test", timeout=10, max_bytes=10_000)

    def send(self, name: str, delay: int = 0) -> None:
        self._sender.send([message(name)], delay=timedelta(milliseconds=delay))

    def connect(self) -> Consumer:
        consumer = RealConsumer(self._url)
        self._consumers.append(consumer)
        return consumer

    def close(self) -> None:
        for consumer in self._consumers:
            consumer.lose()
        self._sender.close()

    def pass_time(self, seconds: float) -> None:
        time.sleep(seconds)


class RealConsumer:
    """A connection to it."""

    def __init__(self, url: str) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(url))
        self._channel = self._connection.channel()
        self._tags: dict[str, int] = {}

    def take(self) -> str | None:
        method, _, body = self._channel.basic_get("work")
        if method is None or body is None:
            return None
        name: str = json.loads(body)["message_id"]
        self._tags[name] = method.delivery_tag
        return name

    def settle(self, name: str, *, ack: bool) -> None:
        if self._connection.is_open:
            settle = self._channel.basic_ack if ack else self._channel.basic_nack
            settle(self._tags.pop(name))
            self._connection.process_data_events(0)

    def lose(self) -> None:
        if self._connection.is_open:
            self._connection.close()


@pytest.fixture(params=["simulated", "RabbitMQ"])
def queue(request: pytest.FixtureRequest) -> Iterator[Queue]:
    if request.param == "simulated":
        yield Simulated()
        return
    real = Real(request.getfixturevalue("vhost_url"))
    yield real
    real.close()


def wait_for(take: Callable[[], str | None]) -> str | None:
    """What is taken, which may take RabbitMQ a moment."""
    deadline = time.monotonic() + 5
    while (name := take()) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    return name


def test_what_is_acked_does_not_come_back(queue: Queue) -> None:
    queue.send("a")
    consumer = queue.connect()
    assert wait_for(consumer.take) == "a"
    assert consumer.take() is None, "it is delivered once"
    consumer.settle("a", ack=True)
    consumer.lose()
    assert queue.connect().take() is None


def test_messages_come_in_the_order_of_their_confirms(queue: Queue) -> None:
    for name in "abc":
        queue.send(name)
    consumer = queue.connect()
    assert [wait_for(consumer.take) for _ in range(3)] == ["a", "b", "c"]


def test_what_is_not_settled_comes_back_with_the_end_of_its_connection(queue: Queue) -> None:
    queue.send("a")
    first, second = queue.connect(), queue.connect()
    assert wait_for(first.take) == "a"
    assert second.take() is None
    first.lose()
    assert wait_for(second.take) == "a"


def test_an_ack_over_a_connection_that_is_gone_settles_nothing(queue: Queue) -> None:
    queue.send("a")
    first, second = queue.connect(), queue.connect()
    assert wait_for(first.take) == "a"
    first.lose()
    assert wait_for(second.take) == "a"
    first.settle("a", ack=True)
    second.lose()
    assert wait_for(queue.connect().take) == "a"


def test_what_is_put_back_is_delivered_again(queue: Queue) -> None:
    queue.send("a")
    consumer = queue.connect()
    assert wait_for(consumer.take) == "a"
    consumer.settle("a", ack=False)
    assert wait_for(consumer.take) == "a"


def test_a_delayed_message_comes_after_its_delay_and_others_before_it(queue: Queue) -> None:
    queue.send("later", delay=DELAY)
    queue.send("now")
    consumer = queue.connect()
    assert wait_for(consumer.take) == "now"
    assert consumer.take() is None
    queue.pass_time(DELAY / 1000)
    assert wait_for(consumer.take) == "later"
