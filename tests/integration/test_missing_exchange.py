"""What a new worker publishes while another service, of an earlier version, has no exchange yet."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pika
import pytest

from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.declarations import declare
from jobkit.broker.outgoing import Outgoing
from jobkit.broker.publisher import ConfirmedPublisher

DEATHS = 200


def outgoing(exchange: str, queue: str, job_id: str) -> Outgoing:
    return Outgoing(exchange, queue, json.dumps(job_id).encode(), pika.BasicProperties(message_id=job_id))


def taken(url: str, queue: str) -> Counter[str]:
    """Take all out of a queue, and count it by its id."""
    found: Counter[str] = Counter()
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        while (body := channel.basic_get(queue, auto_ack=True)[2]) is not None:
            found[json.loads(body)] += 1
    return found


@pytest.fixture
def publisher(vhost_url: str) -> Iterator[ConfirmedPublisher]:
    """The publisher of a new worker, beside a service ``old`` that has its queues and no exchange."""
    settings = ConnectionSettings([vhost_url])
    with settings.open() as connection:
        declare(connection, ["probe"])
        connection.channel().queue_declare("old", durable=True)
    with closing(ConfirmedPublisher(settings)) as built:
        yield built


def test_what_is_published_beside_a_job_for_a_missing_exchange_arrives_once(
    publisher: ConfirmedPublisher, vhost_url: str
) -> None:
    deaths = [outgoing("probe.dlx", "probe", f"death-{number}") for number in range(DEATHS)]
    half = DEATHS // 2
    messages = [*deaths[:half], outgoing("old.jobs", "old", "child"), *deaths[half:]]
    for message in messages:
        publisher.begin(message)
    for message in messages:
        publisher.wait(message, 10, since=time.monotonic())
    assert all(message.confirmed for message in messages)
    assert taken(vhost_url, "old") == {"child": 1}
    assert taken(vhost_url, "probe.dlq") == {f"death-{number}": 1 for number in range(DEATHS)}
