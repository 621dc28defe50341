"""Trap 20: delayed jobs come due for a queue that is full or was deleted, and those of other queues beside them.

RabbitMQ dead-letters at least once: a level of the ladder keeps what its target does not take. It has room for 32 such
messages, and hands on nothing more after that, for whatever queue. Dramatiq has no such ladder; the twin is the ladder
without due queues, as jobkit had it before, and as kombu has it.
"""

import json
import time
from collections.abc import Iterator
from datetime import timedelta

import pika
import pika.exceptions
import pytest
from in_process import until
from queues import depth
from sizes import size

from jobkit.broker import ladder
from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.declarations import declare
from jobkit.contracts import Job
from jobkit.producer import Producer
from local_stack.rabbitmq import RabbitMQ

#: Delayed jobs for the queue that takes none: more than a level has room for.
MANY = size(50, 200)

#: Delayed jobs for another queue.
FEW = 5

DELAY = timedelta(seconds=1)

FULL = 60  # messages

IN_THE_WAY = b"in the way"


class Blocked(Job, queue="blocked"):
    """For the queue that takes none."""

    number: int


class Free(Job, queue="free"):
    """For the other queue."""

    number: int


@pytest.fixture
def url(vhost_url: str) -> str:
    """The address of a broker with both queues."""
    with ConnectionSettings([vhost_url]).open() as connection:
        declare(connection, ["blocked", "free"])
    return vhost_url


@pytest.fixture
def producer(url: str) -> Iterator[Producer]:
    with Producer(url, timeout=30) as built:
        yield built


def fill(rabbitmq: RabbitMQ, url: str) -> None:
    """Fill the queue up to the limit of a policy."""
    policy = {"pattern": "^blocked$", "definition": {"max-length": FULL}, "apply-to": "queues"}
    rabbitmq.call("PUT", f"/api/policies/{url.rsplit('/', 1)[1]}/short", policy)
    deadline = time.monotonic() + 20
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        while time.monotonic() < deadline:
            try:
                channel.basic_publish("", "blocked", IN_THE_WAY, mandatory=True)
            except pika.exceptions.NackError:
                if depth(url, "blocked") >= FULL:  # and not without a leader, as a new queue is for a moment
                    return
    raise AssertionError("the policy has no effect")


def delay(producer: Producer, url: str) -> None:
    """Delay many jobs for the queue that takes none, and, when those are due, some for the other."""
    producer.send_many((Blocked(number=number) for number in range(MANY)), delay=DELAY)
    until(lambda: depth(url, "jobkit.delay.00") == 0, "they are due")
    producer.send_many((Free(number=number) for number in range(FEW)), delay=DELAY)


def delete(url: str, queue: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().queue_delete(queue)


def take_numbers(url: str, queue: str) -> set[int]:
    """Take what is in the queue, and return the numbers of the jobs."""
    found = set()
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        while (body := channel.basic_get(queue, auto_ack=True)[2]) is not None:
            if body != IN_THE_WAY:
                found.add(json.loads(body)["kwargs"]["number"])
    return found


def test_without_due_queues_a_full_queue_holds_up_all_others(
    producer: Producer, rabbitmq: RabbitMQ, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    route = ladder.route
    monkeypatch.setattr(ladder, "route", lambda queue, delay, **_: route(queue, delay, due=False))
    fill(rabbitmq, url)
    delay(producer, url)
    producer.send(Free(number=FEW), delay=3 * DELAY)  # it comes to the same level two seconds later
    until(lambda: depth(url, "jobkit.delay.01") == 0, "the last one has fallen to the lowest level")
    until(lambda: depth(url, "jobkit.delay.00") == 0, "all are due")
    assert depth(url, "free") == 0


@pytest.mark.prove("delayed jobs beside a full queue", size=f"{MANY} due jobs for the full queue")
def test_a_full_queue_holds_up_the_delayed_jobs_of_no_other(producer: Producer, rabbitmq: RabbitMQ, url: str) -> None:
    fill(rabbitmq, url)
    delay(producer, url)
    until(lambda: depth(url, "free") == FEW, "those of the other queue arrive")
    taken: set[int] = set()

    def all_arrive() -> bool:
        taken.update(take_numbers(url, "blocked"))
        return taken == set(range(MANY))

    until(all_arrive, "its own arrive as it is emptied", limit=60)


@pytest.mark.prove("delayed jobs beside a deleted queue", size=f"{MANY} due jobs for the deleted queue")
def test_a_deleted_queue_holds_up_the_delayed_jobs_of_no_other_and_gets_its_own_when_it_is_made_again(
    producer: Producer, url: str
) -> None:
    producer.send(Blocked(number=-1), delay=DELAY)
    until(lambda: depth(url, "blocked") == 1, "it takes delayed jobs")
    delete(url, "blocked")
    delay(producer, url)
    until(lambda: depth(url, "free") == FEW, "those of the other queue arrive")
    with ConnectionSettings([url]).open() as connection:
        declare(connection, ["blocked"])
    until(lambda: depth(url, "blocked") == MANY, "its own arrive", limit=60)


def test_what_comes_due_for_a_service_that_was_removed_is_parked(producer: Producer, url: str) -> None:
    producer.send(Blocked(number=-1), delay=DELAY)
    until(lambda: depth(url, "blocked") == 1, "it takes delayed jobs")
    for queue in ("blocked", "due.blocked"):
        delete(url, queue)
    delay(producer, url)
    until(lambda: depth(url, "free") == FEW, "those of the other queue arrive")
    until(lambda: depth(url, "jobkit.dlq") == MANY, "the others are parked")
