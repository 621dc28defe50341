"""Trap 10: a message comes that is no message, or for an actor that is not there."""

import json
import uuid
from collections.abc import Iterator
from contextlib import closing
from threading import Event
from typing import Any
from unittest.mock import Mock

import pika
import pytest
from dramatiq import Broker
from dramatiq.middleware import Middleware
from in_process import Ours, Stock, until
from probe_service import Probe
from queues import depth, message_body, publish, wait_for_dead_letter, wait_for_queue
from sockets import connections
from vhosts import Vhosts
from worker_process import WorkerProcess

from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.rabbitmq import JobBroker
from jobkit.broker.topology import DELIVERY_LIMIT
from jobkit.errors import BrokerUnavailable
from jobkit.producer import Producer
from local_stack.redis import Redis


class Onlooker(Middleware):
    """Writes down which hooks are told of a message."""

    def __init__(self) -> None:
        self.told: list[str] = []

    # Any: a proxy for a message.
    def before_process_message(self, broker: Broker, message: Any) -> None:
        self.told.append("before_process_message")

    def before_nack(self, broker: Broker, message: Any) -> None:
        self.told.append("before_nack")

    def after_nack(self, broker: Broker, message: Any) -> None:
        self.told.append("after_nack")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        pytest.param(b"\xff\x00 not json", [], id="undecodable"),
        pytest.param(message_body(queue_name="work", actor_name="nobody"), ["before_nack", "after_nack"], id="unknown"),
    ],
)
def test_stock_dead_letters_it_without_a_reason_and_hardly_tells_anybody(
    stock: Stock, vhost_url: str, body: bytes, told: list[str]
) -> None:
    onlooker = Onlooker()
    stock.broker.add_middleware(onlooker)
    with stock.working():
        publish(vhost_url, "work", body)
        until(lambda: depth(vhost_url, "work.XQ") == 1, "it is in the dead-letter queue")
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        _, properties, kept = connection.channel().basic_get("work.XQ")
    assert (onlooker.told, kept) == (told, body)
    assert properties is not None
    # What RabbitMQ writes, 4.x some more than 3.x, and nothing else.
    assert all(name == "x-death" or name.startswith(("x-first-death-", "x-last-death-")) for name in properties.headers)
    assert properties.headers["x-first-death-reason"] == "rejected"


def test_a_consumer_answers_heartbeats_while_dead_letters_are_refused(vhost_url: str, amqp_port: int) -> None:
    sender, burials = Mock(max_bytes=1024), 4

    def refuse(*_: object) -> None:
        Event().wait(0.9)  # as a send does until its time-out
        raise BrokerUnavailable("no confirm came")

    sender.bury_raw.side_effect = refuse
    broker = JobBroker(ConnectionSettings([vhost_url], heartbeat=1), sender)
    broker.declare_queue("work", ensure=True)
    publish(vhost_url, "work", *[b"no JSON"] * burials)
    before = connections(amqp_port)
    with closing(broker.consume("work", prefetch=16, timeout=100)) as consumer:
        next(consumer)
        mine = connections(amqp_port) - before
        until(lambda: next(consumer) or sender.bury_raw.call_count > burials, "all have been looked at", 30)
        assert connections(amqp_port) - before == mine


@pytest.fixture(scope="module")
def shared_url(vhosts: Vhosts) -> Iterator[str]:
    """A virtual host for the tests that need no clean one."""
    with vhosts.one() as url:
        yield url


@pytest.fixture(scope="module")
def shared_worker(
    shared_url: str, redis_server: Redis, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WorkerProcess]:
    redis_server.start()
    settings = {
        "JOBKIT_BROKER_URL": shared_url,
        "JOBKIT_STORE_URL": redis_server.url,
        "JOBKIT_ROLLOUT_SECONDS": "0",  # no newer worker will come
    }
    with WorkerProcess(tmp_path_factory.mktemp("shared"), settings) as started:
        wait_for_queue(shared_url, "probe")
        yield started


def test_a_message_for_an_actor_that_is_not_there_yet_waits_in_the_broker(ours: Ours, vhost_url: str) -> None:
    with ours.working():
        wait_for_queue(vhost_url, "work")
        publish(vhost_url, "work", message_body(queue_name="work", actor_name="later", kwargs={"new": "field"}))
        until(lambda: depth(vhost_url, "jobkit.delay.02") == 1, "it waits for four seconds and one more")
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        _, _, body = connection.channel().basic_get("jobkit.delay.02")
    waiting = json.loads(body or b"")
    assert (waiting["options"]["refused"], waiting["kwargs"]) == (5, {"new": "field"})
    assert depth(vhost_url, "work.dlq") == 0


def test_a_message_that_is_returned_again_and_again_is_a_dead_letter_with_its_reason(
    ours: Ours, vhost_url: str
) -> None:
    assert isinstance(ours.broker, JobBroker)
    ours.broker.declare_queue("work", ensure=True)
    publish(vhost_url, "work", message_body(queue_name="work", actor_name="work", kwargs={"name": "x"}))
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        channel = connection.channel()

        def was_returned() -> bool:
            method, _, _ = channel.basic_get("work")
            if method is not None:
                channel.basic_reject(method.delivery_tag, requeue=True)
            return method is not None

        for _ in range(DELIVERY_LIMIT):
            until(was_returned, "it is in the queue again")
    with ours.working():
        _, failure, _ = wait_for_dead_letter(vhost_url, "work")
    assert (failure.reason, ours.runs) == ("delivery_limit", [])
    assert failure.message == "it was delivered 100 times before and never came to an end"


@pytest.mark.parametrize(
    ("body", "reason", "says"),
    [
        (b"\xff\x00 not json", "undecodable", "not JSON"),
        (b"[" * 100_000, "undecodable", "not JSON"),
        (b"[]", "undecodable", "not an object"),
        (b"{}", "undecodable", "missing"),
        (message_body(actor_name="nobody"), "unknown_actor", "'nobody'"),
        (message_body(message_id="x" * 201), "undecodable", "message_id"),
        (message_body(message_id=7), "undecodable", "message_id"),
        (message_body(kwargs={"seconds": "soon"}), "bad_payload", "seconds"),
        (message_body(kwargs={"self": 1}), "undecodable", "self"),
        (message_body(args=[1]), "bad_payload", "args"),
        (message_body(options={"contract_version": 2}), "newer_contract", "version 2"),
        (message_body(options={"contract_version": "x"}), "newer_contract", "version x"),
        (message_body(queue_name="elsewhere", actor_name="nobody"), "unknown_actor", "'nobody'"),
    ],
)
def test_a_bad_message_is_a_dead_letter_with_its_reason_and_good_jobs_go_on(
    shared_worker: WorkerProcess, shared_url: str, body: bytes, reason: str, says: str
) -> None:
    with pika.BlockingConnection(pika.URLParameters(shared_url)) as connection:
        connection.channel().basic_publish("", "probe", body)
    _, failure, kept = wait_for_dead_letter(shared_url, "probe")
    assert failure.reason == reason
    assert says in failure.message
    assert kept == body or json.loads(kept)["kwargs"] == json.loads(body)["kwargs"]
    name = f"good-{uuid.uuid4().hex}"
    with Producer(shared_url) as producer:
        producer.send(Probe(name=name))
    shared_worker.ledger.wait_for("end", name)
