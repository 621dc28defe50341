"""Trap 14: a job is sent, and the broker does not take it, or not at once."""

import time
from collections.abc import Callable
from contextlib import closing

import pika
import pytest
from dramatiq import Broker, Message
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.errors import ConnectionClosed
from dramatiq.middleware import Middleware
from in_process import Ours, Stock
from queues import depth

from jobkit.errors import SendError


class Enqueued(Middleware):
    """Counts the hooks before a send, in which a job would be counted or a span opened."""

    def __init__(self) -> None:
        self.hooks: list[float] = []

    def before_enqueue(self, broker: Broker, message: "Message[object]", delay: int | None) -> None:
        self.hooks.append(time.monotonic())


def delete_queue(url: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().queue_delete("work")


def test_stock_by_default_returns_from_a_send_that_no_queue_has_taken(vhost_url: str) -> None:
    with closing(Stock(RabbitmqBroker(url=vhost_url))) as stock:
        stock.send("taken")
        delete_queue(vhost_url)
        stock.send("gone")  # raises nothing
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="404"):
        depth(vhost_url, "work")


def test_stock_with_confirms_sends_six_times_without_a_pause_and_runs_its_hooks_each_time(
    stock: Stock, refuse_publishing: Callable[[bool], None]
) -> None:
    enqueued = Enqueued()
    stock.broker.add_middleware(enqueued)
    assert isinstance(stock.broker, RabbitmqBroker)
    stock.broker.declare_queue("work", ensure=True)
    del stock.broker.connection  # on which RabbitMQ remembers what is allowed
    refuse_publishing(True)
    with pytest.raises(ConnectionClosed):
        stock.send("refused")
    assert len(enqueued.hooks) == 6
    assert enqueued.hooks[-1] - enqueued.hooks[0] < 5, "an outage of some seconds is not outlasted"


def test_a_send_to_a_queue_that_is_gone_makes_it_and_returns_when_the_job_is_in_it(ours: Ours, vhost_url: str) -> None:
    ours.send("taken")
    delete_queue(vhost_url)
    ours.send("taken too")
    assert depth(vhost_url, "work") == 1


def test_a_send_that_is_refused_raises_and_its_hooks_have_run_once(
    ours: Ours, vhost_url: str, refuse_publishing: Callable[[bool], None]
) -> None:
    enqueued = Enqueued()
    ours.broker.add_middleware(enqueued)
    ours.send("taken")
    message = ours.broker.get_actor("work").message(name="refused")
    refuse_publishing(True)
    with pytest.raises(SendError):
        ours.broker.enqueue(message)
    assert len(enqueued.hooks) == 1
    assert depth(vhost_url, "work") == 1
