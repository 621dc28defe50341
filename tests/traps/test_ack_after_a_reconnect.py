"""Trap 2: a job ends after the connection over which it came was lost, and then its worker dies.

A delivery's number counts from 1 on each channel, so on the next one it is another message's.
"""

import json
import threading

import dramatiq
import pika
from in_process import Ours, Stock, Twin, until
from sockets import cut


class Story:
    """A slow job ends after its connection was lost; whatever runs next is running when the worker dies."""

    def __init__(self, twin: Twin, port: int) -> None:
        self.twin, self.port = twin, port
        self.slow, self.later = threading.Event(), threading.Event()
        twin.do = self._do

    def _do(self, name: str) -> None:
        if name != "first":
            event = self.slow if self.twin.runs == ["first", "slow"] else self.later
            assert event.wait(20)

    def play(self, worker: dramatiq.Worker, url: str) -> list[str]:
        """What is back in the queue at the end."""
        self.twin.send("first")  # takes number 1
        until(lambda: self.twin.ends == ["first"], "the first job ends")
        self.twin.send("slow")  # number 2; on the next connection it is number 1
        until(lambda: "slow" in self.twin.runs, "the slow job runs")
        assert cut(self.port)
        self.twin.send("next")  # number 2 on the next connection
        until(lambda: worker.work_queue.qsize() == 2, "both wait for the only thread")
        self.slow.set()
        until(lambda: len(self.twin.runs) == 3, "the next one runs")
        consumer = worker.consumers["work"]  # without which a worker is as good as dead
        consumer.stop()
        consumer.join(10)
        consumer.close()
        left = names_in(url)
        self.later.set()
        return left


def names_in(url: str) -> list[str]:
    """The names of the jobs in the queue."""
    names = []
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        while (found := channel.basic_get("work"))[2] is not None:
            message = json.loads(found[2])
            names += [*message["args"], *message["kwargs"].values()]
    return names


def test_stock_acks_another_job_which_is_then_lost_with_its_worker(
    stock: Stock, vhost_url: str, amqp_port: int
) -> None:
    story = Story(stock, amqp_port)
    with stock.working() as worker:
        left = story.play(worker, vhost_url)
        assert stock.runs == ["first", "slow", "slow"], "the next one has not run"
    assert left == ["slow"], "and is gone"


def test_the_ack_is_dropped_with_its_connection_and_the_job_is_answered_from_its_record(
    ours: Ours, vhost_url: str, amqp_port: int
) -> None:
    story = Story(ours, amqp_port)
    with ours.working() as worker:
        left = story.play(worker, vhost_url)
        assert ours.runs == ["first", "slow", "next"]
    assert left == ["next"], "which its worker was running when it died"
