"""Sending to a real broker: confirmed or raised, with the properties that other systems look at."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta

import pika
import pytest
from probe_service import Probe
from queues import depth

from jobkit.errors import BrokerUnavailable, SendRefused
from jobkit.producer import Producer
from local_stack.rabbitmq import RabbitMQ


@pytest.fixture
def producer(vhost_url: str) -> Iterator[Producer]:
    with Producer(vhost_url, name="shop") as built:
        yield built


def take(url: str, queue: str = "probe") -> tuple[pika.BasicProperties, bytes]:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        method, properties, body = connection.channel().basic_get(queue, auto_ack=True)
    assert method is not None
    assert properties is not None
    assert body is not None
    return properties, body


def test_a_job_is_an_ordinary_dramatiq_message_with_amqp_properties(producer: Producer, vhost_url: str) -> None:
    before = int(time.time())
    receipt = producer.send(Probe(name="seen"))
    properties, body = take(vhost_url)
    message = json.loads(body)
    assert set(message) == {
        *("queue_name", "actor_name", "args", "kwargs", "options", "message_id", "message_timestamp"),
    }
    assert (message["queue_name"], message["actor_name"], message["args"]) == ("probe", "probe", [])
    assert message["kwargs"]["name"] == "seen"
    assert message["message_id"] == receipt.job_id == properties.message_id
    assert (properties.type, properties.app_id) == ("probe", "shop")
    assert (properties.content_type, properties.delivery_mode) == ("application/json", 2)
    assert before <= properties.timestamp <= time.time()


def test_a_send_is_confirmed_by_the_time_it_returns(producer: Producer, vhost_url: str) -> None:
    for number in range(20):
        producer.send(Probe())
        assert depth(vhost_url, "probe") == number + 1


def test_many_jobs_are_sent_with_their_confirms_in_flight_together(producer: Producer, vhost_url: str) -> None:
    receipts = list(producer.send_many((Probe(name=str(n)) for n in range(10_000)), receipts=True))
    assert len({receipt.job_id for receipt in receipts}) == 10_000
    assert depth(vhost_url, "probe") == 10_000


def test_one_producer_serves_many_threads(producer: Producer, vhost_url: str) -> None:
    threads = [threading.Thread(target=lambda: [producer.send(Probe()) for _ in range(25)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert depth(vhost_url, "probe") == 200


def test_a_producer_goes_on_after_its_connections_were_closed(
    producer: Producer, vhost_url: str, rabbitmq: RabbitMQ
) -> None:
    producer.send(Probe(name="before"))
    deadline = time.monotonic() + 20
    closed = 0
    while not closed:  # the management page learns of a connection a few seconds late
        assert time.monotonic() < deadline
        connections = rabbitmq.call("GET", "/api/connections")
        assert isinstance(connections, list)
        for connection in connections:
            rabbitmq.call("DELETE", f"/api/connections/{connection['name'].replace(' ', '%20').replace('>', '%3E')}")
            closed += 1
        time.sleep(0.1)
    producer.send(Probe(name="after"))
    assert depth(vhost_url, "probe") == 2


def send_one_by_one(producer: Producer, count: int) -> None:
    for _ in range(count):
        producer.send(Probe())


def test_a_node_whose_name_is_unknown_does_not_keep_a_producer_from_the_others(vhost_url: str) -> None:
    with Producer(f"amqp://gone.invalid:5672/,{vhost_url}", timeout=5) as producer:
        assert producer.send(Probe()).queue == "probe"


def test_a_full_queue_refuses_and_the_send_raises(vhost_url: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        full = {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"}
        connection.channel().queue_declare("probe", durable=True, arguments=full)
    with Producer(vhost_url) as producer, pytest.raises(SendRefused, match="probe"):
        send_one_by_one(producer, 20)  # a quorum queue lets a few in before it notices


def test_a_send_without_an_answer_raises_at_its_deadline(vhost_url: str, rabbitmq: RabbitMQ) -> None:
    with Producer(vhost_url, timeout=1.5) as producer:
        producer.send(Probe())
        rabbitmq.pause()
        try:
            started = time.monotonic()
            with pytest.raises(BrokerUnavailable, match="no confirm came"):
                producer.send(Probe())
            assert time.monotonic() - started < 5
        finally:
            rabbitmq.resume()
        producer.send(Probe())


def test_a_closed_producer_says_so(vhost_url: str) -> None:
    producer = Producer(vhost_url)
    producer.send(Probe())
    producer.close()
    with pytest.raises(BrokerUnavailable, match="closed"):
        producer.send(Probe())


@pytest.mark.parametrize("seconds", [1, 3])
def test_a_delay_holds_a_job_in_the_broker_and_no_longer(producer: Producer, vhost_url: str, seconds: int) -> None:
    producer.send(Probe(), delay=timedelta(seconds=seconds))
    started = time.monotonic()
    assert depth(vhost_url, "probe") == 0
    while not depth(vhost_url, "probe"):
        assert time.monotonic() - started < seconds + 3
        time.sleep(0.02)
    assert time.monotonic() - started >= seconds - 0.2


def test_a_long_delay_does_not_hold_up_a_short_one(producer: Producer, vhost_url: str) -> None:
    for days in (1, 30, 365):
        producer.send(Probe(), delay=timedelta(days=days))
    producer.send(Probe(), delay=timedelta(seconds=1))
    started = time.monotonic()
    while not depth(vhost_url, "probe"):
        assert time.monotonic() - started < 4
        time.sleep(0.02)
