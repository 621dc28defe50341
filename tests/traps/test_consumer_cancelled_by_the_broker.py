"""Trap 6: RabbitMQ cancels a consumer, as it does when a queue's node goes away, while delayed jobs wait.

One node cancels a consumer only with its queue, so the frame that a cluster would send is put into the connection.
"""

import dramatiq
import pika.frame
from dramatiq.brokers.rabbitmq import _RabbitmqConsumer
from in_process import Ours, Stock, until
from pika.adapters.blocking_connection import BlockingChannel
from pika.spec import Basic
from queues import wait_until_empty

from jobkit.broker.consumer import RabbitmqConsumer
from jobkit.broker.session import Session

DELAY = 2  # seconds: long enough for a consumer to be cancelled and to come back meanwhile


def cancel(channel: BlockingChannel) -> None:
    """Let the client get a ``basic.cancel`` for each of the channel's consumers."""
    for tag in channel.consumer_tags:
        frame = pika.frame.Method(channel.channel_number, Basic.Cancel(consumer_tag=tag))
        channel.connection.add_callback_threadsafe(lambda f=frame: channel.connection._impl._process_frame(f))


def test_stock_leaves_delayed_jobs_in_its_memory_and_runs_them_twice(stock: Stock) -> None:
    with stock.working() as worker:
        stock.send("later", delay=DELAY)
        thread = worker.consumers["work.DQ"]
        until(lambda: thread.delay_queue.qsize() == 1, "the job waits in the worker's memory")
        assert isinstance(thread.consumer, _RabbitmqConsumer)
        cancel(thread.consumer.channel)
        until(lambda: thread.delay_queue.qsize() == 2, "the same job waits there twice")
        until(lambda: stock.ends == ["later", "later"], "it runs twice")


def test_delayed_jobs_are_not_there_to_be_left_behind(ours: Ours, vhost_url: str) -> None:
    with ours.working() as worker:
        until(lambda: session_of(worker), "the worker takes messages")
        ours.send("later", delay=DELAY)
        session = session_of(worker)
        assert session is not None
        cancel(session.channel)
        until(lambda: session_of(worker) not in {None, session}, "the worker takes messages again")
        ours.send("now")
        until(lambda: len(ours.ends) == 2, "both jobs end")
        wait_until_empty(vhost_url, "work")
    assert ours.runs == ["now", "later"]


def session_of(worker: dramatiq.Worker) -> Session | None:
    """What the consumer of the queue is connected by."""
    consumer = worker.consumers["work"].consumer
    return consumer._session if isinstance(consumer, RabbitmqConsumer) else None
